"""The native server: listens, makes connections and calls, drains. The way into this package."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from policy_engine.kernel.stream import Replies, StreamError, StreamHandler, StreamHandlerFactory
from policy_engine.transport import listen
from policy_engine.transport.counters import Counters, CountersSnapshot
from policy_engine.transport.health import EXT_PROC_SERVICE, Health
from policy_engine.transport.native import headers
from policy_engine.transport.native.call import Call
from policy_engine.transport.native.connection import Connection
from policy_engine.transport.native.flow_control import BufferPool
from policy_engine.transport.native.health_service import HealthCheck, HealthWatch
from policy_engine.transport.native.protocol import ServerProtocol
from policy_engine.transport.native.tls import load_certificate, server_context
from policy_engine.transport.options import ServerOptions

_log = logging.getLogger(__name__)

_CLOSE_SECONDS = 2.0

HandlerOfCall = Callable[[Call], StreamHandler]


class NativeServer:
    """Serves `ExternalProcessor/Process` with a handler per stream, and gRPC health, on every address of the options.

    Everything runs on the event loop that called `start`. With `sockets` (bound and listening, for example passed on
    by a supervisor) the addresses of the options are not bound, and their files are not removed.
    """

    def __init__(
        self,
        handler_factory: StreamHandlerFactory,
        options: ServerOptions | None = None,
        *,
        health: Health | None = None,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        self.options = options or ServerOptions()
        self.limits = self.options.limits
        self.max_message_bytes = self.limits.max_message_bytes
        self.health = health or Health()
        self.counters = Counters()
        self.pool = BufferPool(self.limits.receive_buffer_bytes)
        self.head_cache: dict[bytes, headers.RequestHead] = {}
        self._routes: dict[bytes, HandlerOfCall] = {
            f"/{EXT_PROC_SERVICE}/Process".encode(): lambda call: handler_factory(),
            b"/grpc.health.v1.Health/Check": lambda call: HealthCheck(self.health),
            b"/grpc.health.v1.Health/Watch": lambda call: HealthWatch(self.health, call.push),
        }
        self._given_sockets = tuple(sockets)
        self._servers: list[asyncio.Server] = []
        self._addresses: tuple[str, ...] = ()
        self._own_paths: list[Path] = []
        self._connections: set[ServerProtocol] = set()
        self._tasks: set[asyncio.Task[Replies]] = set()
        self._changed = asyncio.Event()
        self._tls: ssl.SSLContext | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind and listen; raises OSError or ValueError that name the address or file at fault."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        if self.options.tls is not None:
            self._tls = server_context(self.options.tls)
        bound = list(self._given_sockets)
        try:
            if not bound:
                for address in self.options.bind:
                    sock = listen.bind(address, reuse_port=self.options.reuse_port, backlog=self.options.backlog)
                    bound.append(sock)
                    if sock.family == socket.AF_UNIX:
                        self._own_paths.append(Path(sock.getsockname()))
            self._addresses = tuple(map(listen.describe, bound))
            for sock in bound:
                self._servers.append(await self._listen(loop, sock))
        except BaseException:
            for sock in bound:
                sock.close()
            self._stop_listening()
            raise

    @property
    def address(self) -> str:
        """The first address, with the port that was really bound."""
        return self._addresses[0]

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses, in the order of the options or sockets."""
        return self._addresses

    def snapshot(self) -> CountersSnapshot:
        """Counters as they are now."""
        return self.counters.snapshot()

    def reload_tls(self) -> None:
        """Read certificate and key again, for connections to come; raises ValueError and keeps the old ones."""
        if self._tls is not None and self.options.tls is not None:
            # A pair that does not fit must not half replace the one in use, so it is tried elsewhere first.
            server_context(self.options.tls)
            load_certificate(self._tls, self.options.tls)

    async def drain(self, seconds: float) -> int:
        """Take nothing new and finish the streams in flight; returns how many were cut off at the deadline."""
        self.health.drain()
        self._stop_listening()
        for protocol in tuple(self._connections):
            protocol.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._until(lambda: not self._connections)
        cut_off = self.counters.streams_active
        await self.close()
        return cut_off

    async def close(self) -> None:
        """Stop at once: streams are reset by the end of their connections, every handler is closed."""
        self._stop_listening()
        for protocol in tuple(self._connections):
            protocol.close("server is closing")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._until(lambda: not self._connections and not self._tasks)
        for protocol in tuple(self._connections):
            protocol.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._until(lambda: not self._connections and not self._tasks)

    # -- for connections and calls ------------------------------------------------------------------------------------

    def register(self, protocol: ServerProtocol) -> bool:
        """Note a new connection; False when there are too many."""
        self.counters.connections_total += 1
        self.counters.connections_active += 1
        self._connections.add(protocol)
        return len(self._connections) <= self.limits.max_connections

    def unregister(self, protocol: ServerProtocol) -> None:
        """Forget a connection."""
        self._connections.discard(protocol)
        self.counters.connections_active -= 1
        self._changed.set()

    def time(self) -> float:
        """Return the clock of the event loop."""
        return self._running_loop.time()

    def call_later(self, delay: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """Schedule on the event loop."""
        return self._running_loop.call_later(delay, callback)

    def start_task(self, coroutine: Coroutine[Any, Any, Replies]) -> asyncio.Task[Replies]:
        """Run a handler's coroutine. From Python 3.12 on it starts at once: one that need not wait is done already."""
        if sys.version_info >= (3, 12):
            task = asyncio.Task(coroutine, loop=self._running_loop, eager_start=True)
        else:
            task = asyncio.Task(coroutine, loop=self._running_loop)
        if not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._forget_task)
        return task

    def open_stream(self, connection: Connection, stream_id: int, head: headers.RequestHead) -> Call | bytes:
        """Find the method of a request and make its call, or the response that refuses it."""
        route = self._routes.get(head.path)
        if route is None:
            name = head.path[:128].decode("ascii", "replace")
            return headers.trailers_only(headers.UNIMPLEMENTED, f"unknown method {name}")
        call = Call(connection, stream_id, head, self)
        try:
            call.attach(route(call))
        except StreamError as error:
            return headers.trailers_only(error.status, error.message)
        except Exception:
            self.counters.handler_errors += 1
            _log.exception("stream handler could not be made")
            return headers.trailers_only(headers.INTERNAL, "internal error")
        return call

    # -- inside -------------------------------------------------------------------------------------------------------

    @property
    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("the server was not started")
        return self._loop

    async def _listen(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> asyncio.Server:
        def protocol() -> ServerProtocol:
            return ServerProtocol(self, loop)

        options: dict[str, Any] = {"sock": sock, "backlog": self.options.backlog}
        if self._tls is not None:
            options |= {"ssl": self._tls, "ssl_handshake_timeout": self.limits.handshake_seconds}
        if sock.family != socket.AF_UNIX:
            return await loop.create_server(protocol, **options)
        if sys.version_info >= (3, 13) and isinstance(loop, asyncio.BaseEventLoop):
            # The path may belong to a supervisor and to other workers.
            options["cleanup_socket"] = False
        return await loop.create_unix_server(protocol, **options)

    def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        for path in self._own_paths:
            path.unlink(missing_ok=True)
        self._own_paths.clear()

    def _forget_task(self, task: asyncio.Task[Replies]) -> None:
        self._tasks.discard(task)
        self._changed.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()
