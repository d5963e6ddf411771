"""An HTTP/1.1 client that sends what a test says, byte for byte where it matters: header order, duplicates, trailers.

Ordinary clients tidy requests up; an authentication test needs the untidy ones. Framing is h11's.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import h11

from integration.harness.exchange import HeaderList, header_values

_READ_SIZE = 65536
DEFAULT_TIMEOUT_S = 15.0


class ClientError(ConnectionError):
    """The connection ended before the response did, or what came is not HTTP."""


@dataclass(slots=True)
class Reply:
    """A whole response; `chunks` are its body pieces with the time (monotonic, seconds) each arrived."""

    status: int
    headers: list[tuple[str, str]]
    trailers: list[tuple[str, str]] = field(default_factory=list)
    chunks: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(piece for _, piece in self.chunks)

    @property
    def told(self) -> bytes:
        """What the body tells: nothing when it is a refusal of the engine's own, which has a status and an id only."""
        if self.header("content-type") == "application/problem+json":
            problem = self.json()
            plain = {"type": "about:blank", "title": HTTPStatus(self.status).phrase, "status": self.status}
            if {key: value for key, value in problem.items() if key != "request_id"} == plain:
                return b""
        return self.body

    def json(self) -> Any:
        """Parse the body as JSON."""
        return json.loads(self.body)

    def values(self, name: str) -> list[str]:
        """Return every value of header `name`."""
        return header_values(self.headers, name)

    def header(self, name: str) -> str | None:
        """Return the first value of header `name`, or None."""
        return next(iter(self.values(name)), None)


class Connection:
    """One keep-alive connection; a context manager. `send` may be called many times, one request after another."""

    def __init__(self, port: int, *, host: str = "127.0.0.1", timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._authority = f"{host}:{port}"
        self._socket = socket.create_connection((host, port), timeout_s)
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)

    def send(
        self,
        method: str = "GET",
        target: str = "/",
        *,
        headers: HeaderList = (),
        body: bytes | Iterable[bytes] = b"",
        trailers: HeaderList = (),
    ) -> Reply:
        """Send one request and return the whole response.

        `body` as bytes goes with `content-length`, as an iterable chunk by chunk; trailers need the iterable. A `host`
        header is added unless given. Raises ClientError or OSError when the connection breaks.
        """
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        fields = list(headers)
        if not header_values(fields, "host"):
            fields.insert(0, ("host", self._authority))
        if not isinstance(body, bytes):
            fields.append(("transfer-encoding", "chunked"))
        elif body:
            fields.append(("content-length", str(len(body))))
        self._emit(h11.Request(method=method, target=target, headers=_raw(fields)))
        for piece in [body] if isinstance(body, bytes) else body:
            if piece:
                self._emit(h11.Data(data=piece))
        self._emit(h11.EndOfMessage(headers=_raw(trailers)))
        return self._receive()

    @property
    def reusable(self) -> bool:
        """Whether the peer takes another request on this connection."""
        return self._h11.our_state in (h11.IDLE, h11.DONE) and self._h11.their_state in (h11.IDLE, h11.DONE)

    def _emit(self, event: h11.Event) -> None:
        self._socket.sendall(self._h11.send(event) or b"")

    def _receive(self) -> Reply:
        reply: Reply | None = None
        while True:
            try:
                event: Any = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                raise ClientError(f"{self._authority} broke off or sent no HTTP: {error}") from error
            if event is h11.NEED_DATA:
                self._h11.receive_data(self._socket.recv(_READ_SIZE))
            elif isinstance(event, h11.Response):
                reply = Reply(event.status_code, _pairs(event.headers))
            elif isinstance(event, h11.Data):
                assert reply is not None
                reply.chunks.append((time.monotonic(), bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                assert reply is not None
                reply.trailers = _pairs(event.headers)
                return reply
            elif isinstance(event, h11.ConnectionClosed):
                raise ClientError(f"{self._authority} closed the connection before a response")

    def close(self) -> None:
        """Close the connection, mid-request too."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def send(
    port: int,
    method: str = "GET",
    target: str = "/",
    *,
    headers: HeaderList = (),
    body: bytes | Iterable[bytes] = b"",
    trailers: HeaderList = (),
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Reply:
    """Send one request on its own connection; see `Connection.send`."""
    with Connection(port, timeout_s=timeout_s) as connection:
        return connection.send(method, target, headers=headers, body=body, trailers=trailers)


def exchange_raw(port: int, data: bytes, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> bytes:
    """Send bytes as they are and return everything that comes until the peer closes; for requests h11 would refuse."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        received = bytearray()
        while piece := sock.recv(_READ_SIZE):
            received += piece
        return bytes(received)


def _pairs(headers: Any) -> list[tuple[str, str]]:
    return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in headers]


def _raw(headers: HeaderList) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
