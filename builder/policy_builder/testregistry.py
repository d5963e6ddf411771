"""What the tests of pushing share: small images, and a registry that does what a test tells it to."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policy_builder.package.oci_layout import ImageConfig, write_image

USER, PASSWORD = "user", "s3cr3t-passw0rd"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

Headers = Mapping[str, str] | Sequence[tuple[str, str]]
Answer = tuple[int, Headers, bytes]


@dataclass(frozen=True)
class Seen:
    """One request that came in."""

    method: str
    target: str
    authorization: str | None
    body: bytes


@dataclass
class Server:
    """A registry; `answers` by method and part of the path, the first that fits; `seen` are the requests."""

    answers: dict[tuple[str, str], Any]
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    requests: list[Seen] = field(default_factory=list)
    address: str = ""


def layout(directory: Path, *contents: bytes, architecture: str = "amd64") -> Path:
    """Write an image with a layer of each content."""
    directory.mkdir(parents=True)
    tars = []
    for number, content in enumerate(contents):
        tars.append(directory / f"layer{number}.tar")
        tars[-1].write_bytes(content)
    write_image(directory / "oci", tars, ImageConfig("linux", architecture, entrypoint=("/x",)))
    return directory / "oci"


def log_in(directory: Path, server: str, login: str = "user:pass") -> None:
    """Write docker's config.json with a login for `server`."""
    auth = base64.b64encode(login.encode()).decode()
    (directory / "config.json").write_text(json.dumps({"auths": {server: {"auth": auth}}}))


@contextlib.contextmanager
def scripted(server: Server) -> Iterator[Server]:
    """Serve until the end of the block; an answer is a tuple, or a function of the request that returns one."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            seen = Seen(self.command, self.path, self.headers.get("Authorization"), body)
            server.seen.append((seen.method, path, seen.authorization))
            server.requests.append(seen)
            found: Answer | Callable[[Seen], Answer] = next(
                (
                    one
                    for (method, part), one in server.answers.items()
                    if method in (self.command, "*") and part in path
                ),
                (404, {}, b""),
            )
            status, headers, content = found(seen) if callable(found) else found
            self.send_response(status)
            for name, value in headers.items() if isinstance(headers, Mapping) else headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = answer

        def log_message(self, *_: object) -> None: ...

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.address = f"127.0.0.1:{listening.server_port}"
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
