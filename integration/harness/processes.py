"""Runs one program for the length of a test: captured output, readiness, and an end that always comes.

Apart from the programs themselves (Envoy, engine, container runtimes) because all of them need the same care.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
_POLL_S = 0.02


class ProcessError(RuntimeError):
    """The program ended or stayed unready; the message carries the end of what it printed."""


class Process:
    """A running program in its own process group, output in `log_path`; a context manager that stops it.

    The kernel kills it when the thread that started it dies (`setpriv --pdeathsig`), so a crashed or killed test
    leaves nothing behind: start it from the main thread.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | None = None,
    ) -> None:
        self.name = name
        self.log_path = log_path
        command = [*_death_signal(), *map(str, argv)]
        with log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(os.environ if env is None else env),
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._popen.pid

    def log(self) -> str:
        """Return everything it printed so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def running(self) -> bool:
        """Tell whether it has not ended."""
        return self._popen.poll() is None

    def wait_until(self, ready: Callable[[], bool], *, what: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return when `ready()` holds; an OSError from it means "not yet". Raises ProcessError otherwise."""
        deadline = time.monotonic() + timeout_s
        while True:
            if not self.running():
                raise ProcessError(f"{self.name} ended with {self._popen.returncode} before {what}\n{self._tail()}")
            with contextlib.suppress(OSError):
                if ready():
                    return
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name}: not {what} after {timeout_s:g} s\n{self._tail()}")
            time.sleep(_POLL_S)

    def wait(self, timeout_s: float) -> int:
        """Return the exit status once it ends by itself. Raises ProcessError when it does not in time."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ProcessError(f"{self.name} still runs after {timeout_s:g} s\n{self._tail()}") from error

    def stop(self, *, sign: signal.Signals = signal.SIGTERM, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """End it by `sign`, after `timeout_s` by SIGKILL, with all of its group; return the exit status."""
        if self.running():
            self._popen.send_signal(sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self._popen.wait()

    def _tail(self, lines: int = 60) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def python_program(module: str, *arguments: str | Path) -> tuple[list[str | Path], dict[str, str]]:
    """Return the command and environment that run `module` with this very interpreter and its import path."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return [sys.executable, "-m", module, *arguments], {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago, for programs that cannot bind port 0 and tell."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether something accepts TCP connections on `port`."""
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex((host, port)) == 0


def _death_signal() -> list[str]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ProcessError("setpriv is not installed; it is part of util-linux (Debian: apt-get install util-linux)")
    return [setpriv, "--pdeathsig", "KILL", "--"]
