"""One HTTP call with hard bounds on time and size, over a connection that may serve the next one too (RFC 9112).

`http.client` in threads, as policies ask seldom and little: no client library is worth its weight in the image. There
is no proxy and no redirect: the answer comes from the configured server or not at all. It blocks.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import select
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from policy_http.address import Server
from policy_http.connecting import connect


class CallFailed(Exception):
    """There is no answer to be used; the text says why and may be logged."""


class Dropped(CallFailed):
    """The server ended a kept connection before it answered, as servers do with idle ones: a new one may do."""


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked: `target` is path and query, names of `headers` are lower case."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said, whole; names of `headers` are lower case, repeated ones are several entries."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str, default: str = "") -> str:
        """Return a header's lines joined with commas, `default` when there is none."""
        found = [value for one, value in self.headers if one == name]
        return ", ".join(found) if found else default


class Connection:
    """A connection to a server for one call at a time. No call takes longer than until its deadline."""

    def __init__(self, server: Server, context: ssl.SSLContext | None, deadline: float) -> None:
        """Connect, with TLS in `context` if there is one; raises CallFailed. `deadline` is on the monotonic clock."""
        self._server = server
        self._deadline = deadline
        self._raw = _Timed(self)
        self._used = False
        with _explained(server):
            made = connect(server.host, server.port, timeout=max(self.left(), 0.001))
            if context is None:
                self.socket: socket.socket = made
                return
            with made:
                secured = context.wrap_socket(made, server_hostname=server.host, do_handshake_on_connect=False)
            self.socket = secured
            try:
                secured.settimeout(self.left())
                secured.do_handshake()
            except BaseException:
                secured.close()
                raise

    def left(self) -> float:
        """Return the seconds that are left; raises TimeoutError when none are."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def call(self, call: Call, deadline: float) -> Answer:
        """Return the answer; raises CallFailed. The connection is closed unless `reusable` afterwards."""
        self._deadline = deadline
        reused, self._used, self._raw.begun, self._raw.ended = self._used, True, False, False
        self.reusable = False
        try:
            with _explained(self._server):
                return self._exchange(call)
        except CallFailed as error:
            gone = isinstance(error.__cause__, http.client.RemoteDisconnected | ConnectionError | ssl.SSLEOFError)
            if reused and gone and not self._raw.begun:
                raise Dropped(str(error)) from error
            raise
        finally:
            if not self.reusable:
                self.close()

    def is_quiet(self) -> bool:
        """Whether it can be used again: a server that sends anything between two calls, an end too, ended it."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Close it."""
        self.socket.close()

    def _exchange(self, call: Call) -> Answer:
        plain = http.client.HTTPConnection(self._server.host, self._server.port)
        reader = _Reader(self._raw)
        plain.sock = _Wire(self, reader)
        standard = {
            "host": self._server.authority,
            "accept-encoding": "identity",
            "user-agent": "policy-engine",
        }
        # As Envoy gave them, whose values may be any bytes.
        headers = {name: _bytes(value) for name, value in {**standard, **call.headers}.items()}
        plain.request(call.method, call.target, call.body, headers)
        answer = plain.getresponse()
        if answer.status < http.client.OK:
            raise CallFailed(f"status {answer.status} ends no call")
        received = tuple((name.lower(), _text(value)) for name, value in answer.getheaders())
        if answer.getheader("content-encoding", "identity").lower() != "identity":
            raise CallFailed("the answer is compressed, though that was not asked for")
        body = _body(answer, self._server.max_bytes)
        self._raw.ended = True
        # More than the one answer that was asked for must not become the answer to another call.
        self.reusable = not answer.will_close and not reader.peek(1)
        return Answer(answer.status, received, body)


class _Wire:
    """What http.client takes for a socket. Closing it is left to the connection: the answer is not read by then."""

    def __init__(self, connection: Connection, reader: io.BufferedReader) -> None:
        self._connection = connection
        self._reader = reader

    def sendall(self, data: bytes) -> None:
        """Send everything before the deadline."""
        rest = memoryview(data)
        while rest:
            self._connection.socket.settimeout(self._connection.left())
            rest = rest[self._connection.socket.send(rest) :]

    def makefile(self, *_: object) -> io.BufferedReader:
        return self._reader

    def close(self) -> None:
        pass


class _Timed(io.RawIOBase):
    """Reads a connection's socket until its deadline: a timeout of each read would let a server drip for ever."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.begun = self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.ended:
            return 0
        self._connection.socket.settimeout(self._connection.left())
        count = self._connection.socket.recv_into(buffer)
        self.begun = self.begun or count > 0
        return count


class _Reader(io.BufferedReader):
    def close(self) -> None:
        """Stay open: http.client closes it after each answer, and what it holds more than that is looked at."""


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")


def _text(value: str) -> str:
    return value.encode("latin-1").decode("utf-8", "surrogateescape")


def _body(answer: http.client.HTTPResponse, max_bytes: int) -> bytes:
    if (answer.length or 0) > max_bytes:
        raise CallFailed(f"the answer is larger than {max_bytes} bytes")
    body = bytearray()
    while piece := answer.read1(min(65536, max_bytes + 1 - len(body))):
        body += piece
        if len(body) > max_bytes:
            raise CallFailed(f"the answer is larger than {max_bytes} bytes")
    if answer.length:
        raise CallFailed("the answer ended early")
    return bytes(body)


@contextlib.contextmanager
def _explained(server: Server) -> Iterator[None]:
    """Make whatever goes wrong a CallFailed that says what did."""
    try:
        yield
    except (CallFailed, OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, TimeoutError):
            raise CallFailed(f"no whole answer within {server.timeout:g} s") from error
        raise CallFailed(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    return str(error) if isinstance(error, CallFailed) else f"{type(error).__name__}: {error}"
