"""The native server: listens, accepts connections, drains, closes. The way into this package."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from policy_engine.kernel.stream import StreamHandlerFactory
from policy_engine.transport import listen
from policy_engine.transport.client_names import ClientNames
from policy_engine.transport.counters import CountersSnapshot
from policy_engine.transport.health import Health
from policy_engine.transport.native.accepting import Acceptor
from policy_engine.transport.native.connections import Connections
from policy_engine.transport.native.dispatch import Dispatcher
from policy_engine.transport.native.protocol import ServerProtocol
from policy_engine.transport.native.tls import server_context
from policy_engine.transport.native.tls_protocol import TlsProtocol
from policy_engine.transport.options import ServerOptions

_CLOSE_SECONDS = 2.0


class NativeServer:
    """Serves `ExternalProcessor/Process` with a handler per stream, and gRPC health, on every address of the options.

    Made and used on one event loop. With `sockets` (bound and listening, for example passed on by a supervisor) the
    addresses of the options are not bound, and no file of a Unix socket is removed.
    """

    def __init__(
        self,
        handler_factory: StreamHandlerFactory,
        options: ServerOptions | None = None,
        health: Health | None = None,
        *,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        self.health = health or Health(serving=True)
        self._options = options or ServerOptions()
        self._handler_factory = handler_factory
        self._given_sockets = tuple(sockets)
        self._dispatcher: Dispatcher | None = None
        self._acceptors: list[Acceptor] = []
        self._addresses: tuple[str, ...] = ()
        self._own_paths: list[Path] = []
        self._connections = Connections(self._options.limits.max_connections)
        self._lost = asyncio.Event()
        self._tls: ssl.SSLContext | None = None
        tls = self._options.tls
        self._client_names = ClientNames(tls.client_names) if tls is not None and tls.client_names else None

    async def start(self) -> None:
        """Bind and listen; raises OSError or ValueError that name the address or file at fault."""
        loop = asyncio.get_running_loop()
        options = self._options
        if options.tls is not None:
            self._tls = server_context(options.tls)
        self._dispatcher = Dispatcher(self._handler_factory, self.health, options.limits, loop)
        bound = list(self._given_sockets)
        try:
            if not bound:
                for address in options.bind:
                    sock = listen.bind(address, reuse_port=options.reuse_port, backlog=options.backlog)
                    bound.append(sock)
                    if sock.family == socket.AF_UNIX:
                        self._own_paths.append(Path(sock.getsockname()))
            self._addresses = tuple(map(listen.bound_address, bound))
            for sock in bound:
                self._acceptors.append(self._listen(loop, sock, self._dispatcher))
        except BaseException:
            for sock in bound:
                sock.close()
            self._stop_listening()
            raise

    @property
    def address(self) -> str:
        """The first of `addresses`."""
        return self._addresses[0]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, in the form of `options.bind`, with the ports that were really given."""
        return self._addresses

    @property
    def counters(self) -> CountersSnapshot:
        """What was counted so far."""
        return self._started.counters.snapshot()

    def reload_tls(self) -> None:
        """Read all files of TLS again, for connections to come; raises ValueError and keeps what was read before."""
        if self._options.tls is not None:
            self._tls = server_context(self._options.tls)

    async def drain(self, seconds: float) -> int:
        """Take nothing new and finish the streams in flight; returns how many were cut off at the deadline (R-54)."""
        self.health.drain()
        acceptors = tuple(self._acceptors)
        self._stop_listening()
        for acceptor in acceptors:
            await acceptor.begun()
        for protocol in self._protocols():
            protocol.drain()
        await self._wait(seconds, lambda: not self._connections)
        cut_off = self._started.counters.streams_active
        await self.close()
        return cut_off

    async def close(self) -> None:
        """Stop at once: streams end with their connections, every handler is closed."""
        self._stop_listening()
        if self._dispatcher is None:
            return
        for protocol in self._protocols():
            protocol.close("server is closing")
        await self._wait(_CLOSE_SECONDS, lambda: not self._connections)
        for protocol in self._protocols():
            protocol.abort()
        if self._dispatcher.tasks:
            # They were cancelled with their streams; a handler is closed when its task has really ended.
            await asyncio.wait(self._dispatcher.tasks, timeout=_CLOSE_SECONDS)
        await asyncio.sleep(0)

    def _protocols(self) -> Iterator[ServerProtocol]:
        return (one for one in self._connections if isinstance(one, ServerProtocol))

    @property
    def _started(self) -> Dispatcher:
        if self._dispatcher is None:
            raise RuntimeError("the server was not started")
        return self._dispatcher

    def _listen(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, dispatcher: Dispatcher) -> Acceptor:
        def protocol() -> asyncio.Protocol:
            served = ServerProtocol(dispatcher, loop, self._connections, self._lost.set, self._client_names)
            return served if self._tls is None else TlsProtocol(self._tls, served)

        sock.listen(self._options.backlog)
        # TLS is the protocol's own, so that a connection counts before its handshake.
        return Acceptor(sock, protocol, None, dispatcher.limits.handshake_seconds)

    def _stop_listening(self) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        for path in self._own_paths:
            path.unlink(missing_ok=True)
        self._own_paths.clear()

    async def _wait(self, seconds: float, condition: Callable[[], bool]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():
                    self._lost.clear()
                    await self._lost.wait()
