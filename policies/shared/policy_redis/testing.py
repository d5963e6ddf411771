"""A real Redis for tests: redis-server of the machine, on a free port or a Unix socket, gone when the test is over."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

_READY_S = 20.0


class RedisServer:
    """A redis-server that listens on a Unix socket in `directory` and, when asked to, on a TCP port."""

    def __init__(self, directory: Path, *options: str, port: int = 0) -> None:
        found = shutil.which("redis-server")
        if found is None:
            raise RuntimeError("no redis-server on this machine: install the package redis-server")
        self._directory = directory
        self.path = directory / "redis.sock"
        self.url = f"unix://{self.path}"
        self.port = port
        self._command: Sequence[str] = [found, *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it accepts connections; raises RuntimeError with what it printed."""
        log = self._directory / "redis.log"
        own = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.path), "--save", ""]
        own += ["--appendonly", "no", "--dir", str(self._directory), "--logfile", str(log)]
        self._process = subprocess.Popen([*self._command, *own])  # noqa: S603 # the program of the machine, our options
        deadline = time.monotonic() + _READY_S
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"redis-server did not start: {log.read_text() if log.exists() else ''}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it, with all it held."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(_READY_S)
            self.path.unlink(missing_ok=True)

    def freeze(self) -> None:
        """Let it accept connections and never answer."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _accepts(self) -> bool:
        with closing(socket.socket(socket.AF_UNIX)) as probe:
            return probe.connect_ex(str(self.path)) == 0


@contextmanager
def redis_server(*options: str, port: int = 0) -> Iterator[RedisServer]:
    """Run a redis-server; `options` are those of its command line."""
    # Not pytest's directory: the path of a Unix socket must be short (108 bytes, unix(7)).
    with tempfile.TemporaryDirectory(prefix="redis-", dir="/tmp") as name:
        server = RedisServer(Path(name), *options, port=port)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def sentinel(service: str, port: int, primary: int) -> Iterator[None]:
    """Run a Sentinel on a TCP port that says the primary of `service` listens on port `primary` of the loopback."""
    with tempfile.TemporaryDirectory(prefix="redis-", dir="/tmp") as name:
        configuration = Path(name) / "sentinel.conf"
        configuration.write_text(
            f'port {port}\nbind 127.0.0.1\ndir "{name}"\nlogfile "{name}/log"\n'
            f"sentinel monitor {service} 127.0.0.1 {primary} 1\n"
        )
        found = shutil.which("redis-server") or "redis-server"
        process = subprocess.Popen([found, str(configuration), "--sentinel"])  # noqa: S603 # the machine's program
        try:
            deadline = time.monotonic() + _READY_S
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("redis-server --sentinel did not start")
                time.sleep(0.01)
            yield
        finally:
            process.terminate()
            process.wait(_READY_S)


def _listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
