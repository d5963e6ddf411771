"""A small HTTP/1.1 server for the engine's own pages: what RFC 9110 and 9112 ask of one whose requests are short.

Its own, since the supervisor needs no more, and a whole library for it was a fifth of its memory.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

logger = logging.getLogger("policy_engine.pages")

MOST_HEAD = 32 * 1024
"""Bytes of a request line and headers."""
MOST_BODY = 64 * 1024
MOST_CONNECTIONS = 256
IDLE_SECONDS = 75.0
"""For the next request on a connection, or for the rest of one."""
CLOSE_SECONDS = 5.0
"""For answers in progress when the server closes."""

_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/1\.([01])", re.ASCII)
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\n\r]*?)[ \t]*", re.ASCII)
_LENGTH = re.compile(r"[0-9]{1,12}", re.ASCII)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(;[^\r\n]*)?\r\n")


class _Refused(Exception):
    """A request that cannot be answered otherwise than with this status, after which the connection ends."""

    def __init__(self, status: int) -> None:
        self.status = status


@dataclass(slots=True)
class Request:
    """One request. `headers` have names in lower case, those that were repeated joined by commas; of a parameter in
    `query` the first value counts."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    _reader: asyncio.StreamReader = field(repr=False)
    _writer: asyncio.StreamWriter = field(repr=False)

    @property
    def host(self) -> str:
        """The server as the client calls it, with its port."""
        return self.headers.get("host", "")

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")

    @property
    def connected(self) -> bool:
        """Whether the client is still there."""
        return not self._reader.at_eof() and not self._writer.transport.is_closing()

    def abort(self) -> None:
        """Break the connection off, whatever waits to be sent on it."""
        self._writer.transport.abort()


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

    body: bytes | str = b""
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


class Stream:
    """An answer that is sent piece by piece, by the handler that was given the request, and then returned by it."""

    def __init__(self, request: Request, content_type: str, headers: Mapping[str, str]) -> None:
        self._writer = request._writer
        lines = {"content-type": content_type, **headers, "connection": "close"}
        self._writer.write(_head(200, lines))

    async def write(self, data: bytes) -> None:
        """Send `data`; raises ConnectionError when the client is gone."""
        self._writer.write(data)
        await self._writer.drain()


Handler = Callable[[Request], Awaitable[Response | Stream]]
Around = Callable[[Request, Handler], Awaitable[Response | Stream]]
"""Answers a request, by the handler it is given or in its place."""


class Server:
    """Serves `pages`, handlers by path and method, on a socket that is bound; a page that has GET has HEAD.

    All requests go through `around`, the first one outermost, those for no page too. `closing` is called when the
    server closes, which waits for answers in progress.
    """

    def __init__(
        self,
        pages: Mapping[str, Mapping[str, Handler]],
        around: Iterable[Around] = (),
        closing: Callable[[], None] = lambda: None,
    ) -> None:
        self._pages = pages
        self._answer: Handler = self._dispatch
        for one in reversed(tuple(around)):
            self._answer = _within(one, self._answer)
        self._closing = closing
        self._server: asyncio.Server | None = None
        self._idle: set[asyncio.Task[None]] = set()
        self._busy: set[asyncio.Task[None]] = set()

    async def start(self, sock: socket.socket) -> None:
        """Listen on `sock`; raises OSError."""
        self._server = await asyncio.start_server(self._serve, sock=sock, limit=MOST_HEAD)

    async def close(self) -> None:
        """Stop listening, and end all connections."""
        if self._server is not None:
            self._server.close()
        self._closing()
        for task in self._idle:
            task.cancel()
        if self._busy:
            _, late = await asyncio.wait(self._busy, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
        await asyncio.gather(*self._idle, *self._busy, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._idle) + len(self._busy) >= MOST_CONNECTIONS:
            writer.transport.abort()
            return
        try:
            goes_on = True
            while goes_on:
                self._idle.add(task)
                head = await asyncio.wait_for(_read_head(reader), IDLE_SECONDS)
                self._idle.discard(task)
                self._busy.add(task)
                goes_on = await self._exchange(head, reader, writer)
                self._busy.discard(task)
        except _Refused as refused:
            writer.write(_whole(_plain(refused.status), closes=True))
        except (ConnectionError, TimeoutError, EOFError):
            pass  # the client has left, or nothing came
        finally:
            self._idle.discard(task)
            self._busy.discard(task)
            writer.close()

    async def _exchange(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; returns whether another one may follow."""
        method, target, headers, old = _parsed(head)
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            body = await asyncio.wait_for(_read_body(reader, headers), IDLE_SECONDS)
            parts = urlsplit(target)
        except ValueError:  # a line that does not end, a host that is none
            raise _Refused(400) from None
        query = dict(reversed(parse_qsl(parts.query, keep_blank_values=True)))
        request = Request(method, unquote(parts.path), query, headers, body, reader, writer)
        try:
            answer = await self._answer(request)
        except ConnectionError:
            raise
        except Exception:
            logger.exception("the page %s cannot be shown", request.path[:200])
            answer = _plain(500)
        if isinstance(answer, Stream):
            return False
        closes = old or "close" in headers.get("connection", "").lower()
        writer.write(_whole(answer, closes=closes, with_body=method != "HEAD"))
        await asyncio.wait_for(writer.drain(), IDLE_SECONDS)
        return not closes

    async def _dispatch(self, request: Request) -> Response | Stream:
        methods = self._pages.get(request.path)
        if methods is None:
            return _plain(404)
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))
            return Response(f"{request.method[:20]} is not for this page\n", 405, headers={"allow": allowed})
        return await handler(request)


def _within(around: Around, handler: Handler) -> Handler:
    return lambda request: around(request, handler)


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise _Refused(431) from None


def _parsed(head: bytes) -> tuple[str, str, dict[str, str], bool]:
    """Return method, target, headers, and whether the client speaks HTTP/1.0."""
    # An empty line before a request is no mistake (RFC 9112, 2.2).
    first, *lines = head.decode("latin-1").lstrip("\r\n").removesuffix("\r\n\r\n").split("\r\n")
    asked = _REQUEST_LINE.fullmatch(first)
    if asked is None:
        raise _Refused(400)
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise _Refused(400)
        name = found[1].lower()
        if name in headers and name in ("host", "content-length"):
            raise _Refused(400)
        headers[name] = f"{headers[name]}, {found[2]}" if name in headers else found[2]
    if asked[3] == "1" and "host" not in headers:
        raise _Refused(400)
    return asked[1], asked[2], headers, asked[3] == "0"


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if coding is not None:
        if length is not None or coding.lower() != "chunked":
            raise _Refused(400)
        return await _read_chunks(reader)
    if length is None:
        return b""
    if _LENGTH.fullmatch(length) is None:
        raise _Refused(400)
    if int(length) > MOST_BODY:
        raise _Refused(413)
    return await reader.readexactly(int(length))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        found = _CHUNK_SIZE.fullmatch(await reader.readline())
        if found is None:
            raise _Refused(400)
        size = int(found[1], 16)
        if len(body) + size > MOST_BODY:
            raise _Refused(413)
        if size == 0:
            break
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise _Refused(400)
    if await reader.readline() != b"\r\n":  # trailers, which nobody here wants
        raise _Refused(400)
    return body


def _plain(status: int) -> Response:
    return Response(f"{status} {HTTPStatus(status).phrase}\n", status)


def _whole(response: Response, *, closes: bool, with_body: bool = True) -> bytes:
    body = response.body.encode() if isinstance(response.body, str) else response.body
    lines = {"content-type": response.content_type, "content-length": str(len(body)), **response.headers}
    if closes:
        lines["connection"] = "close"
    return _head(response.status, lines) + (body if with_body else b"")


def _head(status: int, lines: Mapping[str, str]) -> bytes:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    head = {**lines, "date": date}
    text = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{text}\r\n".encode("latin-1")
