"""Accepts connections from a listening socket, one per turn of the loop, and pauses when the system has no more.

asyncio's own servers try again as often as their backlog is long when there is no file descriptor left, and log each
time.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable

_log = logging.getLogger("policy_engine.transport")

PAUSE_SECONDS = 1.0
BETTER_SECONDS = 10.0
"""So long without a failure, it is better: the next one is told again."""
_USED_UP = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_ADVICE = ". Raise the limit on open files (ulimit -n, LimitNOFILE=), or let clients keep fewer connections"


class Acceptor:
    """Hands every connection to a protocol of its own, over TLS when there is a context.

    One per turn: worker processes that share a socket get their share of a rush, and other work its turn.
    """

    def __init__(
        self,
        sock: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
    ) -> None:
        self._sock = sock
        self._make_protocol = make_protocol
        self._tls = tls
        self._handshake_seconds = handshake_seconds if tls is not None else None
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._failed = 0.0
        self._beginning: set[asyncio.Task[None]] = set()
        self._accept()

    def close(self) -> None:
        """Accept no more."""
        self._stop_accepting()
        self._sock.close()

    async def begun(self) -> None:
        """Return when every connection that was accepted is with its protocol."""
        if self._beginning:
            await asyncio.wait(self._beginning)

    def _accept(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock.fileno(), self._ready)

    def _stop_accepting(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        elif self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())

    def _ready(self) -> None:
        try:
            connection, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker process was faster, or the client has gone
        except OSError as error:
            self._wait_for_better(error)
            return
        if self._failed and self._loop.time() - self._failed > BETTER_SECONDS:
            self._failed = 0.0
            _log.info("accepting connections again")
        connection.setblocking(False)
        task = self._loop.create_task(self._begin(connection))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    def _wait_for_better(self, error: OSError) -> None:
        """Leave clients in the backlog for a while; told once, until it is better."""
        if not self._failed:
            _log.error(
                "no connection can be accepted: %s; trying again every %g s%s",
                os.strerror(error.errno or 0),
                PAUSE_SECONDS,
                _ADVICE if error.errno in _USED_UP else "",
                extra={"event": "accepting_paused"},
            )
        self._failed = self._loop.time()
        self._loop.remove_reader(self._sock.fileno())
        self._pause = self._loop.call_later(PAUSE_SECONDS, self._accept)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._make_protocol, connection, ssl=self._tls, ssl_handshake_timeout=self._handshake_seconds
            )
        except OSError:  # TLS failed (SSLError is one), or the client has gone
            connection.close()
