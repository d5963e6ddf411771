"""What an upstream received and what it answers, as plain data shared by both HTTP versions of the server."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

HeaderList = Sequence[tuple[str, str]]


def header_values(headers: HeaderList, name: str) -> list[str]:
    """Return every value of `name`, in order, whatever the case of the names."""
    return [value for key, value in headers if key.lower() == name.lower()]


@dataclass(slots=True)
class Received:
    """One request as the upstream got it; appended when its headers arrive, `complete` once its body has ended."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    http_version: str
    body: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = False

    def values(self, name: str) -> list[str]:
        """Return every value of header `name`."""
        return header_values(self.headers, name)

    def header(self, name: str) -> str | None:
        """Return the first value of header `name`, or None."""
        return next(iter(self.values(name)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What to send back: `chunks` one by one, `delay_s` before the headers and `chunk_delay_s` before each chunk.

    `held` is awaited before anything is sent.

    Without a `content-length` among `headers` the body is sent chunked (HTTP/1.1).
    """

    status: int = HTTPStatus.OK
    headers: HeaderList = ()
    chunks: Sequence[bytes] = ()
    trailers: HeaderList = ()
    delay_s: float = 0.0
    chunk_delay_s: float = 0.0
    held: Callable[[], Awaitable[object]] | None = None

    @classmethod
    def of(cls, body: bytes | str = b"", *, status: int = HTTPStatus.OK, headers: HeaderList = ()) -> Answer:
        """Return an answer with a whole body and its `content-length`."""
        raw = body.encode() if isinstance(body, str) else body
        return cls(status=status, headers=[*headers, ("content-length", str(len(raw)))], chunks=[raw] if raw else [])

    @classmethod
    def events(cls, events: Sequence[str], *, interval_s: float) -> Answer:
        """Return a stream of server-sent events (WHATWG HTML, 9.2), one chunk each, `interval_s` apart."""
        return cls(
            headers=[("content-type", "text/event-stream")],
            chunks=[f"data: {event}\n\n".encode() for event in events],
            chunk_delay_s=interval_s,
        )


Responder = Callable[[Received], Answer]


def echo(request: Received) -> Answer:
    """Answer with what was received, as JSON: the upstream's behaviour unless told otherwise."""
    seen = {
        "method": request.method,
        "target": request.target,
        "headers": request.headers,
        "body": request.body.decode("utf-8", "replace"),
        "trailers": request.trailers,
    }
    return Answer.of(json.dumps(seen), headers=[("content-type", "application/json"), ("x-upstream", "echo")])
