"""A scripted HTTP server on loopback for tests: slow, gone, lying, whatever they need. Not part of an image."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that came; names of `headers` are lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered: `delay` in seconds before it, `drip` between its bytes; `raw` goes out in place of all else."""

    status: int = 200
    body: bytes = b""
    headers: Sequence[tuple[str, str]] = ()
    delay: float = 0.0
    drip: float = 0.0
    chunked: bool = False
    close: bool = False
    raw: bytes | None = None


@dataclass
class ScriptedServer:
    """What the server answers next, and what it was asked; change `reply` at will."""

    reply: Reply | Callable[[Asked], Reply] = field(default_factory=Reply)
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    url: str = ""


@contextmanager
def scripted(
    reply: Reply | Callable[[Asked], Reply] | None = None, context: ssl.SSLContext | None = None
) -> Iterator[ScriptedServer]:
    """Serve on a free port of loopback until the block ends, with TLS in `context` if there is one."""
    server = ScriptedServer(reply or Reply())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            server.connections += 1
            super().setup()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, body)
            server.asked.append(asked)
            reply = server.reply if isinstance(server.reply, Reply) else server.reply(asked)
            time.sleep(reply.delay)
            if reply.raw is not None:
                self.wfile.write(reply.raw)
                self.close_connection = reply.close
                return
            self.send_response(reply.status)
            names = {name.lower() for name, _ in reply.headers}
            for name, value in reply.headers:
                self.send_header(name, value)
            data = reply.body
            if reply.chunked:
                self.send_header("transfer-encoding", "chunked")
                data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
            elif "content-length" not in names and reply.status != 204:
                self.send_header("content-length", str(len(data)))
            if reply.close:
                self.close_connection = True  # without saying so beforehand
            self.end_headers()
            step = 1 if reply.drip else max(len(data), 1)
            for index in range(0, len(data), step):
                self.wfile.write(data[index : index + step])
                time.sleep(reply.drip)

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _answer  # the names http.server looks for

        def log_message(self, *_: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:
            pass  # a client that gives up is part of the tests

    httpd = Quiet(("127.0.0.1", 0), Handler)
    if context is not None:
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    scheme, host = ("http", "127.0.0.1") if context is None else ("https", "localhost")
    server.url = f"{scheme}://{host}:{httpd.server_address[1]}"
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
