"""The grpcio transport: the second opinion to the native one, with the same surface and the same contract tests.

It passes raw message bytes to the kernel and uses grpc.aio's read/write calls, the cheapest way grpcio has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from policy_engine.kernel.stream import Peer, StreamError, StreamHandlerFactory
from policy_engine.sdk.repeated_lines import RepeatedLines
from policy_engine.transport.client_names import ClientNames
from policy_engine.transport.counters import Counters, CountersSnapshot
from policy_engine.transport.health import EXT_PROC_SERVICE, Health
from policy_engine.transport.listen import UNIX_PREFIX, is_answered, parse_address, parse_unix, restrict
from policy_engine.transport.native.tls import server_context
from policy_engine.transport.options import ServerOptions, TlsOptions, check_files

repeated = RepeatedLines(logging.getLogger("policy_engine.transport"))

_PEERS_KNOWN = 1024
_STATUS = {code.value[0]: code for code in grpc.StatusCode}


class GrpcServer:
    """Serves ext_proc streams and gRPC health on every address of `options.bind`."""

    def __init__(
        self, handler_factory: StreamHandlerFactory, options: ServerOptions, health: Health | None = None
    ) -> None:
        self._handlers = handler_factory
        self._options = options
        self.health = health or Health(serving=True)
        self._counters = Counters()
        self._server: grpc.aio.Server | None = None
        self._addresses: tuple[str, ...] = ()
        self._peers: dict[str, Peer] = {}
        self._certificates: grpc.ServerCertificateConfiguration | None = None
        tls = options.tls
        self._client_names = ClientNames(tls.client_names) if tls is not None and tls.client_names else None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, in the form of `options.bind`, with the ports that were really given."""
        return self._addresses

    @property
    def address(self) -> str:
        """The first of `addresses`."""
        return self._addresses[0]

    @property
    def counters(self) -> CountersSnapshot:
        """What was counted so far; byte, connection and frame counters stay 0, grpcio does not show them."""
        return self._counters.snapshot()

    async def start(self) -> None:
        """Listen and serve; raises OSError naming the address that cannot be bound."""
        limits = self._options.limits
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 1 if self._options.reuse_port else 0),
                ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
                ("grpc.max_allowed_incoming_connections", limits.max_connections),
                ("grpc.server_handshake_timeout_ms", int(limits.handshake_seconds * 1000)),
                ("grpc.max_receive_message_length", limits.max_message_bytes),
                ("grpc.max_send_message_length", limits.max_message_bytes),
                ("grpc.max_metadata_size", limits.max_header_list_bytes),
                # The default refuses streams above about a thousand that wait to be accepted (architecture.md).
                ("grpc.server.max_pending_requests", limits.max_concurrent_streams),
                ("grpc.server.max_pending_requests_hard_limit", 2 * limits.max_concurrent_streams),
            ]
        )
        process = grpc.stream_stream_rpc_method_handler(self._process)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(EXT_PROC_SERVICE, {"Process": process}),))
        health_pb2_grpc.add_HealthServicer_to_server(_HealthServicer(self.health, self._admit), server)
        addresses = []
        for bind in self._options.bind:
            port = self._add_port(server, bind)
            if bind.startswith(UNIX_PREFIX):
                restrict(parse_unix(bind))
                addresses.append(f"{UNIX_PREFIX}{parse_unix(bind).path}")
            else:
                addresses.append(f"{bind.rpartition(':')[0]}:{port}")
        await server.start()
        self._server, self._addresses = server, tuple(addresses)

    def _add_port(self, server: grpc.aio.Server, bind: str) -> int:
        address = parse_address(bind)
        if isinstance(address, Path) and is_answered(address):
            # gRPC removes the file of a socket and binds another in its place, whoever listens there.
            raise OSError(f"cannot listen on {bind}: address in use")
        target = f"{UNIX_PREFIX}{parse_unix(bind).path}" if bind.startswith(UNIX_PREFIX) else bind
        try:
            if self._options.tls is None:
                port = server.add_insecure_port(target)
            else:
                port = server.add_secure_port(target, self._credentials(self._options.tls))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {bind}: {error}") from error
        if port == 0:
            raise OSError(f"cannot listen on {bind}: address in use or not allowed")
        return port

    def _credentials(self, tls: TlsOptions) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(
            _certificates(tls), self._renewed, require_client_authentication=tls.client_ca_file is not None
        )

    def _renewed(self) -> Any:
        """Return what `reload_tls` read, for the next connection; called in a thread of grpcio's."""
        return self._certificates

    def reload_tls(self) -> None:
        """Read all files of TLS again, for connections to come; raises ValueError and keeps what was read before."""
        if self._options.tls is not None:
            self._certificates = _certificates(self._options.tls)

    async def _admit(self, context: Any) -> None:
        """End a call whose client's certificate bears none of the names that are allowed."""
        if self._client_names is None:
            return
        bears = context.auth_context()
        named = [
            (kind, name.decode("utf-8", "replace"))
            for kind, key in (("DNS", "peer_dns"), ("URI", "peer_uri"))
            for name in bears.get(key, ())
        ]
        if not self._client_names.allow({"subjectAltName": named}):
            self._counters.refuse("client_name")
            repeated.log(
                logging.WARNING,
                "client_name",
                "call refused: the certificate of its client bears none of the names in tls.client_names",
                extra={"event": "connection_refused", "reason": "client_name"},
            )
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not a client of this engine")

    async def drain(self, seconds: float) -> None:
        """Take no new streams, finish those in flight within `seconds`, then cancel what is left (R-54)."""
        self.health.drain()
        if self._server is not None:
            await self._server.stop(seconds)
            self._server = None

    async def close(self) -> None:
        """Stop at once."""
        await self.drain(0)

    def _peer(self, address: str) -> Peer:
        """Return what is known of the client at `address`; grpcio gives connections no other name.

        All clients of a Unix socket have one address. grpcio does not say when a connection ends, hence the bound.
        """
        peer = self._peers.pop(address, None) or Peer()
        self._peers[address] = peer
        if len(self._peers) > _PEERS_KNOWN:
            del self._peers[next(iter(self._peers))]
        return peer

    async def _process(self, _: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        counters = self._counters
        await self._admit(context)
        # grpcio's own limit is one of each connection; Envoy asks another engine where this one has no place.
        if counters.streams_active >= self._options.limits.max_concurrent_streams:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "too many concurrent streams")
        counters.streams_total += 1
        counters.streams_active += 1
        handler = self._handlers(self._peer(context.peer()))
        try:
            while (message := await context.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined] # the stubs lack it
                counters.messages_in += 1
                replies = handler.receive(message)
                if isinstance(replies, Coroutine):
                    replies = await replies
                for reply in (replies,) if isinstance(replies, bytes) else replies or ():
                    counters.messages_out += 1
                    await context.write(reply)
        except StreamError as error:
            await context.abort(_STATUS.get(error.status, grpc.StatusCode.UNKNOWN), error.message)
        except asyncio.CancelledError:
            raise
        except grpc.aio.AbortError:
            raise
        except Exception:
            counters.handler_errors += 1
            repeated.log(logging.ERROR, "failed", "a session failed; its stream ends with INTERNAL", exc_info=True)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        finally:
            counters.streams_active -= 1
            handler.close()


class _HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # grpc_health is not typed
    """`grpc.health.v1.Health` over the shared `Health` state."""

    def __init__(self, health: Health, admit: Callable[[Any], Awaitable[None]]) -> None:
        self._health = health
        self._admit = admit

    async def Check(self, request: Any, context: Any) -> Any:
        """Answer with the state of a service, NOT_FOUND for one that is not served here."""
        await self._admit(context)
        status = self._health.status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service!r:.80}")
        return health_pb2.HealthCheckResponse(status=int(status))

    async def Watch(self, request: Any, context: Any) -> None:
        """Send the state now and after every change, until the client goes or the server drains."""
        await self._admit(context)
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(changed.set)

        stop = self._health.observe(wake)
        try:
            while True:
                changed.clear()
                await context.write(health_pb2.HealthCheckResponse(status=int(self._health.status(request.service))))
                if self._health.draining:
                    return
                await changed.wait()
        finally:
            stop()


def _certificates(tls: TlsOptions) -> grpc.ServerCertificateConfiguration:
    """Read the files; raises ValueError that names the one that cannot be used."""
    check_files(tls)
    # What grpcio would only log, and serve nobody, OpenSSL says.
    server_context(tls)
    client_ca = tls.client_ca_file.read_bytes() if tls.client_ca_file is not None else None
    return grpc.ssl_server_certificate_configuration(
        [(tls.key_file.read_bytes(), tls.certificate_file.read_bytes())], root_certificates=client_ca
    )
