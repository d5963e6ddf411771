"""A small HTTP/1.1 server for the engine's own pages: short requests, whole answers or streams of them.

What is a message, and what is none, h11 says. A whole web framework was a fifth of the supervisor's memory.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

logger = logging.getLogger("policy_engine.pages")

MOST_HEAD = 32 * 1024
"""Bytes of a request line and headers."""
MOST_BODY = 64 * 1024
MOST_CONNECTIONS = 256
IDLE_SECONDS = 75.0
"""For the next request on a connection, or for the rest of one."""
CLOSE_SECONDS = 5.0
"""For answers in progress when the server closes."""

_PIECE = 8 * 1024  # read at once, so that little more than MOST_HEAD is ever held


class _Refused(Exception):
    """A request that cannot be answered otherwise than with this status, after which the connection ends."""

    def __init__(self, status: int) -> None:
        self.status = status


@dataclass(slots=True)
class Request:
    """One request. `lines` are its headers as they came, with names in lower case; `headers` the same with those that
    were repeated joined by commas. Of a parameter in `query` the first value counts."""

    method: str
    target: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    lines: Sequence[tuple[str, str]]
    body: bytes
    _connection: _Connection = field(repr=False)

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
        return self._connection.is_open

    def abort(self) -> None:
        """Break the connection off, whatever waits to be sent on it."""
        self._connection.abort()


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
        self._connection = request._connection
        self._connection.begin(200, {"content-type": content_type, **headers, "connection": "close"})

    async def write(self, data: bytes) -> None:
        """Send `data`; raises ConnectionError when the client is gone."""
        await self._connection.send(h11.Data(data=data))


Handler = Callable[[Request], Awaitable[Response | Stream]]
Around = Callable[[Request, Handler], Awaitable[Response | Stream]]
"""Answers a request, by the handler it is given or in its place."""


class Server:
    """Serves `pages`, handlers by path and method, on a socket that is bound; a page that has GET has HEAD.

    All requests go through `around`, the first one outermost, those for no page too. `closing` is called when the
    server closes, which waits for answers in progress. Bodies have at most `most_body` bytes.
    """

    def __init__(
        self,
        pages: Mapping[str, Mapping[str, Handler]],
        around: Iterable[Around] = (),
        closing: Callable[[], None] = lambda: None,
        *,
        most_body: int = MOST_BODY,
    ) -> None:
        self._most_body = most_body
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
        self._server = await asyncio.start_server(self._serve, sock=sock)

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
        connection = _Connection(reader, writer)
        try:
            goes_on = True
            while goes_on:
                self._idle.add(task)
                asked = await asyncio.wait_for(connection.request(), IDLE_SECONDS)
                self._idle.discard(task)
                self._busy.add(task)
                goes_on = await self._exchange(asked, connection)
                self._busy.discard(task)
        except _Refused as refused:
            connection.refuse(refused.status)
        except (ConnectionError, TimeoutError, EOFError):
            pass  # the client has left, or nothing came
        finally:
            self._idle.discard(task)
            self._busy.discard(task)
            writer.close()

    async def _exchange(self, asked: h11.Request, connection: _Connection) -> bool:
        """Answer one request; returns whether another one may follow."""
        body = await asyncio.wait_for(connection.body(asked, self._most_body), IDLE_SECONDS)
        request = _understood(asked, body, connection)
        try:
            answer = await self._answer(request)
        except ConnectionError:
            raise
        except Exception:  # a fault of one page ends no connection; the client is told nothing of it
            logger.exception("the page %s cannot be shown", request.path[:200])
            answer = _plain(500)
        if isinstance(answer, Response):
            connection.begin(answer.status, _lines(answer))
            if request.method != "HEAD":
                await asyncio.wait_for(connection.send(h11.Data(data=_bytes(answer))), IDLE_SECONDS)
        await asyncio.wait_for(connection.send(h11.EndOfMessage()), IDLE_SECONDS)
        return connection.next()

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


class _Connection:
    """One client's connection, as h11 reads and writes it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD)

    @property
    def is_open(self) -> bool:
        """Whether the client is still there."""
        return not self._reader.at_eof() and not self._writer.transport.is_closing()

    async def request(self) -> h11.Request:
        """Wait for the next request; raises _Refused for what is none, EOFError when the client has left."""
        event = await self._event()
        if not isinstance(event, h11.Request):
            raise EOFError
        if not event.http_version.startswith(b"1."):
            raise _Refused(505)
        return event

    async def body(self, asked: h11.Request, most: int) -> bytes:
        """Wait for all of its body; raises _Refused for one that is too large."""
        if any(name == b"content-length" and int(value) > most for name, value in asked.headers):
            raise _Refused(413)
        if self._http.they_are_waiting_for_100_continue:
            self._write(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
        body = bytearray()
        while isinstance(event := await self._event(), h11.Data):
            body += event.data
            if len(body) > most:
                raise _Refused(413)
        return bytes(body)

    async def _event(self) -> object:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                if self._reader.at_eof():
                    raise EOFError from None  # it left in the middle of a request
                raise _Refused(error.error_status_hint) from None
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(await self._reader.read(_PIECE))

    def begin(self, status: int, lines: Mapping[str, str]) -> None:
        """Send the head of an answer."""
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        headers = list({**lines, "date": date}.items())
        self._write(h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode()))

    async def send(self, event: h11.Data | h11.EndOfMessage) -> None:
        """Send a piece of an answer, or its end, and wait until there is room for more; raises ConnectionError."""
        self._write(event)
        await self._writer.drain()

    def _write(self, event: h11.Event) -> None:
        if data := self._http.send(event):
            self._writer.write(data)

    def refuse(self, status: int) -> None:
        """Answer what is no request; the connection is to be closed then."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = _plain(status)
            self.begin(status, {**_lines(answer), "connection": "close"})
            self._write(h11.Data(data=_bytes(answer)))

    def next(self) -> bool:
        """Make ready for another request, if one may follow; returns whether."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    def abort(self) -> None:
        """Break it off, whatever waits to be sent."""
        self._writer.transport.abort()


def _understood(asked: h11.Request, body: bytes, connection: _Connection) -> Request:
    """Return the request as pages see it; raises _Refused."""
    lines = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in asked.headers]
    headers: dict[str, str] = {}
    for name, value in lines:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    try:
        target = asked.target.decode("ascii")
        parts = urlsplit(target)
    except ValueError:  # other than plain characters, a host that is none
        raise _Refused(400) from None
    query = dict(reversed(parse_qsl(parts.query, keep_blank_values=True)))
    return Request(asked.method.decode("ascii"), target, unquote(parts.path), query, headers, lines, body, connection)


def _plain(status: int) -> Response:
    return Response(f"{status} {HTTPStatus(status).phrase}\n", status)


def _bytes(response: Response) -> bytes:
    return response.body.encode() if isinstance(response.body, str) else response.body


def _lines(response: Response) -> dict[str, str]:
    size = str(len(_bytes(response)))
    return {"content-type": response.content_type, "content-length": size, **response.headers}
