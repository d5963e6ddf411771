"""The command that asks how an engine is: what it prints and how it ends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from policy_engine.cli import main


class _Engine(BaseHTTPRequestHandler):
    ready = True

    def do_GET(self) -> None:
        well = self.ready or self.path == "/livez"
        self.send_response(200 if well else 503)
        self.end_headers()
        self.wfile.write(b"ok\n" if well else b"no valid configuration yet\n")

    def log_message(self, format: str, *args: object) -> None: ...


class _UnixServer(HTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "unix", 0

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        return self.socket.accept()[0], ("unix", 0)


@contextmanager
def serving(server: HTTPServer, *, ready: bool = True) -> Iterator[None]:
    server.RequestHandlerClass = type("Engine", (_Engine,), {"ready": ready})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("ready", "flags", "status", "said"),
    [
        (True, [], 0, "ok"),
        (False, [], 1, "no valid configuration yet"),
        (False, ["--live"], 0, "ok"),
    ],
)
def test_it_tells_how_the_engine_is(
    ready: bool, flags: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = HTTPServer(("127.0.0.1", 0), _Engine)
    with serving(server, ready=ready):
        for host in ("127.0.0.1", "0.0.0.0"):
            assert main(["healthcheck", "--health-listen", f"{host}:{server.server_port}", *flags]) == status
            assert capsys.readouterr().out.strip() == said


def test_a_unix_socket_is_asked_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "h.sock"
    with serving(_UnixServer(str(path), _Engine)):  # type: ignore[arg-type] # the address of this family is a path
        assert main(["healthcheck", "--health-listen", f"unix:{path}"]) == 0
    assert capsys.readouterr().out == "ok\n"


def test_nobody_there_is_not_ready(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert main(["healthcheck", "--health-listen", f"127.0.0.1:{taken.getsockname()[1]}"]) == 1
    assert "does not answer /readyz" in capsys.readouterr().out


def test_one_that_does_not_answer_in_time_is_not_ready(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert main(["healthcheck", "--health-listen", address, "--timeout", "100ms"]) == 1
    assert "does not answer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--health-listen", "off"], "nobody to ask"), (["--timeout", "soon"], "flag --timeout: 'soon'")],
)
def test_wrong_use_ends_with_2(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["healthcheck", *flags]) == 2
    assert said in capsys.readouterr().err
