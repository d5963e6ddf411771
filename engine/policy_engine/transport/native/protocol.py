"""Joins a `Connection` to an asyncio transport: one write per read, back pressure, time limits, an orderly close."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from policy_engine.sdk.repeated_lines import RepeatedLines
from policy_engine.transport.client_names import ClientNames
from policy_engine.transport.native.connection import Connection
from policy_engine.transport.native.connections import Connections
from policy_engine.transport.native.errors import ErrorCode
from policy_engine.transport.native.tls import ALPN

if TYPE_CHECKING:
    from policy_engine.transport.native.dispatch import Dispatcher

repeated = RepeatedLines(logging.getLogger("policy_engine.transport"))

_WRITE_HIGH = 1024 * 1024
_WRITE_LOW = 256 * 1024

# How long a client may take to read our GOAWAY before the socket is closed under it.
_LINGER_SECONDS = 1.0
_DRAIN_PING_SECONDS = 1.0


class ServerProtocol(asyncio.Protocol):
    """One accepted connection."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        loop: asyncio.AbstractEventLoop,
        connections: Connections,
        lost: Callable[[], None],
        client_names: ClientNames | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._loop = loop
        self._connections = connections
        self._client_names = client_names
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._connection: Connection | None = None
        self._flush_scheduled = False
        self._closing = False
        self._draining = False
        self._timer: asyncio.TimerHandle | None = None

    # -- called by asyncio --------------------------------------------------------------------------------------------

    def accepted(self, transport: asyncio.Transport) -> bool:
        """Take a connection, TLS yet to come or not, if there is a place for it; returns whether there is."""
        self._transport = transport
        counters = self._dispatcher.counters
        counters.connections_total += 1
        counters.connections_active += 1
        if not self._connections.admit(self):
            limit = self._dispatcher.limits.max_connections
            self.refuse("limit", f"all {limit} (limits.connections) are open and have requests")
            return False
        self._timer = self._loop.call_later(self._dispatcher.limits.handshake_seconds, self._handshake_expired)
        return True

    def refuse(self, reason: str, text: str) -> None:
        """Count and log why there is no connection, and drop it."""
        self._dispatcher.counters.refuse(reason)
        repeated.log(
            logging.WARNING,
            reason,
            "connection from %s refused: %s",
            self._client(),
            text,
            extra={"event": "connection_refused", "reason": reason},
        )
        self._closing = True
        if self._transport is not None:
            # What is written already, such as a TLS alert, still goes out.
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with our SETTINGS, unless there are too many connections or TLS did not agree on HTTP/2."""
        # Stream servers always give one, but that of uvloop is no subclass.
        transport = cast(asyncio.Transport, transport)
        if self._transport is None and not self.accepted(transport):
            return
        self._transport = transport
        tls = transport.get_extra_info("ssl_object")
        if tls and tls.selected_alpn_protocol() != ALPN:
            self.refuse("alpn", "its TLS does not offer the protocol h2 by ALPN (alpn_protocols of the client)")
            return
        if tls and self._client_names is not None and not self._client_names.allow(tls.getpeercert()):
            self.refuse("client_name", "its certificate bears none of the names in tls.client_names")
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            # asyncio does it only when the listening socket knew its protocol number, which a passed-on one may not.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=_WRITE_HIGH, low=_WRITE_LOW)
        self._connection = Connection(self._dispatcher, self._wake, self._flush)
        self._flush()
        if self._draining:
            self.drain()

    def data_received(self, data: bytes) -> None:
        """Handle all frames of one read, then write all answers at once."""
        connection = self._connection
        if connection is None or self._closing:
            return
        try:
            connection.receive(data)
        except Exception:
            self._broken()
        if connection.out or connection.finished:
            self._flush()

    def eof_received(self) -> bool:
        """Close as well: a client that sends no more cannot open windows either."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Free all streams."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        if self._connection is not None:
            self._connection.abandon()
        self._connections.leave(self)
        self._dispatcher.counters.connections_active -= 1
        self._lost()

    def pause_writing(self) -> None:
        """The client reads too slowly: make no more output, and read no more that would lead to some."""
        if self._connection is not None and self._transport is not None:
            self._connection.sender.paused = True
            if not self._closing:
                self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on where `pause_writing` stopped."""
        if self._connection is not None and self._transport is not None:
            self._connection.sender.paused = False
            if not self._closing:
                self._transport.resume_reading()
            self._wake()

    # -- called by the server -----------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether TLS and the exchange of SETTINGS are over."""
        return self._connection is not None and self._connection.settings_acknowledged

    @property
    def idle(self) -> bool:
        """Whether no stream is open."""
        return self._connection is None or not self._connection.streams

    def give_way(self) -> None:
        """Close, to make place for another."""
        self._dispatcher.counters.refuse("made_place")
        if not self.settled:
            self.abort()
        else:
            self.close("too many connections, and this one has no request")

    def drain(self) -> None:
        """Announce the end, and stop taking streams when the client knows or had time to know.

        One whose TLS is not agreed on yet is given time for it: a client that was let in is not to find itself cut off.
        """
        self._draining = True
        if self._connection is not None:
            self._connection.start_drain()
            self._loop.call_later(_DRAIN_PING_SECONDS, self._connection.finish_drain)
        else:
            self._loop.call_later(_DRAIN_PING_SECONDS, self._abort_unless_begun)

    def _abort_unless_begun(self) -> None:
        if self._connection is None:
            self.abort()

    def close(self, reason: str) -> None:
        """End the connection and all its streams now, with GOAWAY."""
        if self._connection is not None:
            self._connection.fail(ErrorCode.NO_ERROR, reason)
            self._flush()
        else:
            self.abort()

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._flush_scheduled and not self._closing:
            self._flush_scheduled = True
            self._loop.call_soon(self._settle_and_flush)

    def _settle_and_flush(self) -> None:
        self._flush_scheduled = False
        connection = self._connection
        if connection is None or self._closing:
            return
        try:
            if not connection.finished:
                connection.settle()
        except Exception:
            self._broken()
        self._flush()

    def _flush(self) -> None:
        connection, transport = self._connection, self._transport
        if connection is None or transport is None or self._closing:
            return
        if connection.out:
            transport.write(connection.take_output())
        if connection.finished:
            self._finish(transport)
        elif connection.sender.ready:
            # Budget of this write is used up; others get their turn first, and the socket a chance to say stop.
            self._wake()

    def _finish(self, transport: asyncio.Transport) -> None:
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        if transport.can_write_eof():
            # Closing with unread input would make the kernel send RST, which can destroy GOAWAY on its way.
            with contextlib.suppress(OSError):
                transport.write_eof()
            transport.resume_reading()
            self._timer = self._loop.call_later(_LINGER_SECONDS, transport.close)
        else:
            transport.close()

    def _client(self) -> str:
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(peer[0]) if isinstance(peer, tuple) else "a Unix socket"

    def _handshake_expired(self) -> None:
        if self._connection is None:
            if not self._closing:
                self.refuse("handshake", "TLS was not agreed on in time")
                self.abort()
        elif not self._connection.settings_acknowledged:
            self._connection.fail(ErrorCode.SETTINGS_TIMEOUT, "no SETTINGS or no ACK in time")
            self._flush()

    def _broken(self) -> None:
        repeated.log(logging.ERROR, "broken", "HTTP/2 connection failed by a fault of the server", exc_info=True)
        if self._connection is not None:
            self._connection.fail(ErrorCode.INTERNAL_ERROR, "internal error")
