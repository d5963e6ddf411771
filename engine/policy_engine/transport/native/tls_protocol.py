"""TLS between a socket and a connection, so that a connection is counted, bounded and timed from its first byte on.

asyncio's own TLS tells of a connection only once its handshake is over, and holds a quarter of a megabyte for each from
the beginning. Here nothing is made before a whole first record has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, Protocol, cast

_RECORD_HEADER = 5
_HANDSHAKE = 22
_LONGEST_RECORD = 16 * 1024
_READ = 256 * 1024


class Above(Protocol):
    """The connection that TLS is for."""

    def accepted(self, transport: asyncio.Transport) -> bool:
        """Take note of the socket; returns whether it may go on."""
        ...

    def refuse(self, reason: str, text: str) -> None:
        """Count and log why there is no connection, and drop it."""
        ...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; the handshake is over."""
        ...

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        ...

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone, whether it had begun or not."""
        ...

    def pause_writing(self) -> None:
        """Send no more for now."""
        ...

    def resume_writing(self) -> None:
        """Send again."""
        ...


class TlsTransport(asyncio.Transport):
    """What a connection above TLS writes to."""

    def __init__(self, protocol: TlsProtocol, raw: asyncio.Transport, session: ssl.SSLObject) -> None:
        super().__init__({"ssl_object": session})
        self._protocol = protocol
        self._raw = raw

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the TLS session, or of the socket."""
        found = super().get_extra_info(name)
        return self._raw.get_extra_info(name, default) if found is None else found

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send data."""
        self._protocol.write(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when the protocol is told to pause."""
        self._raw.set_write_buffer_limits(high, low)

    def pause_reading(self) -> None:
        """Read no more."""
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._raw.resume_reading()

    def can_write_eof(self) -> bool:
        """TLS has `close_notify` for it, and then the end of the stream."""
        return True

    def write_eof(self) -> None:
        """Say that nothing more is sent."""
        self._protocol.shut()

    def is_closing(self) -> bool:
        """Return whether the end has begun."""
        return self._raw.is_closing()

    def close(self) -> None:
        """Send what is left, then close."""
        self._protocol.shut()
        self._raw.close()

    def abort(self) -> None:
        """Close without a word."""
        self._raw.abort()


class TlsProtocol(asyncio.Protocol):
    """One accepted socket with TLS on it; what is above knows of it at once and begins after the handshake."""

    def __init__(self, context: ssl.SSLContext, above: Above) -> None:
        self._context = context
        self._above = above
        self._begun = False
        self._first: bytearray | None = bytearray()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._raw: asyncio.Transport | None = None
        self._session: ssl.SSLObject | None = None
        self._shut = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the client to begin, if it may."""
        self._raw = cast(asyncio.Transport, transport)  # that of uvloop is no subclass
        self._above.accepted(self._raw)

    def data_received(self, data: bytes) -> None:
        """Go on with the handshake, or hand up what the client sent."""
        if self._first is not None:
            self._first += data
            if not _is_whole(self._first):
                return
            data, self._first = bytes(self._first), None
            self._session = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._incoming.write(data)
        if self._begun or self._handshake():
            self._read()

    def eof_received(self) -> bool:
        """Close as well: a client that sends no more cannot open windows either."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell what is above."""
        self._above.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell what is above."""
        self._above.pause_writing()

    def resume_writing(self) -> None:
        """Tell what is above."""
        self._above.resume_writing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if self._session is None or self._raw is None or self._shut or not data:
            return
        try:
            self._session.write(data)
        except ssl.SSLError:
            self._raw.abort()
        self._send()

    def shut(self) -> None:
        """Send `close_notify` and the end of the stream; the client's own `close_notify` is not waited for."""
        if self._shut or self._session is None or self._raw is None or self._raw.is_closing():
            return
        self._shut = True
        with contextlib.suppress(ssl.SSLError):
            self._session.unwrap()
        self._send()
        with contextlib.suppress(OSError):
            self._raw.write_eof()

    def _handshake(self) -> bool:
        session, raw = self._session, self._raw
        if session is None or raw is None or raw.is_closing():
            return False
        try:
            session.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return False
        except ssl.SSLError as error:
            self._send()  # the alert
            self._above.refuse("tls", error.reason or "the handshake failed")
            return False
        self._send()
        self._begun = True
        self._above.connection_made(TlsTransport(self, raw, session))
        return True

    def _read(self) -> None:
        session, raw = self._session, self._raw
        if session is None or raw is None:
            return
        pieces = []
        ended = False
        try:
            while piece := session.read(_READ):
                pieces.append(piece)
            ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:  # `close_notify`, or what is no TLS
            ended = True
        if pieces:
            self._above.data_received(b"".join(pieces))
        self._send()
        if ended and not raw.is_closing():
            raw.close()

    def _send(self) -> None:
        if self._outgoing.pending and self._raw is not None and not self._raw.is_closing():
            self._raw.write(self._outgoing.read())


def _is_whole(first: bytearray) -> bool:
    """Return whether the first record is there; what is no handshake is for OpenSSL to refuse."""
    if len(first) < _RECORD_HEADER:
        return False
    size = int.from_bytes(first[3:5], "big")
    return first[0] != _HANDSHAKE or size > _LONGEST_RECORD or len(first) >= _RECORD_HEADER + size
