"""Serves the aggregated discovery service over gRPC: moves messages between streams and sockets.

A separate module because it is the only part that knows gRPC; what is said is decided in `ads_stream`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from policy_control_plane.ads_stream import AdsStream, BadRequest, DeltaStream, SotwStream
from policy_control_plane.fleet import Client, Fleet
from policy_control_plane.resources import Snapshot

logger = logging.getLogger(__name__)

SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_METHODS: Final[Mapping[str, Callable[[Snapshot], AdsStream]]] = {
    "StreamAggregatedResources": SotwStream,
    "DeltaAggregatedResources": DeltaStream,
}

_PATIENCE: Final = 5.0
"""Seconds after which routes go out although endpoints of a cluster were never asked for."""

_OPTIONS: Final = [
    # Clients ping an idle stream to notice a dead connection; gRPC would by default end connections that ping more
    # than once in five minutes.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", -1),
    # Two servers on one port would share its connections without a word.
    ("grpc.so_reuseport", 0),
]
_MOST_STREAMS: Final = 10_000


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files of the server; with `client_authority` clients must show a certificate of it (mutual TLS)."""

    certificate: Path
    key: Path
    client_authority: Path | None = None


class AdsServer:
    """The gRPC server. Raises OSError when the address cannot be listened on or a TLS file cannot be read."""

    def __init__(self, fleet: Fleet, address: str, tls: ServerTls | None = None) -> None:
        self._fleet = fleet
        self._server: Any = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=_MOST_STREAMS)
        handlers = {name: grpc.stream_stream_rpc_method_handler(self._method(kind)) for name, kind in _METHODS.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            if tls is None:
                self.port: int = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, _credentials(tls))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from None

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()

    async def stop(self) -> None:
        """End all streams and stop."""
        await self._server.stop(grace=None)

    def _method(self, kind: Callable[[Snapshot], AdsStream]) -> Any:
        async def serve(requests: AsyncIterator[bytes], context: Any) -> None:
            stream = kind(self._fleet.target or {})
            number, client = self._fleet.connect(stream, context.peer())
            writer = asyncio.create_task(self._write(client, context))
            try:
                await self._read(client, requests)
            except (BadRequest, DecodeError) as error:
                logger.warning("stream of %s ended: %s", client.name, error)
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            finally:
                writer.cancel()
                self._fleet.disconnect(number)
                logger.info("%s disconnected", client.name)

        return serve

    async def _read(self, client: Client, requests: AsyncIterator[bytes]) -> None:
        async for message in requests:
            known = bool(client.stream.subscriptions)
            client.stream.receive(client.stream.request_class.FromString(message))
            if not known:
                logger.info("%s connected from %s (%s)", client.name, client.peer, client.stream.variant)
            client.wake.set()
            self._fleet.notify()

    async def _write(self, client: Client, context: Any) -> None:
        while True:
            try:
                patience = _PATIENCE if client.stream.waits_for_endpoints() else None
                await asyncio.wait_for(client.wake.wait(), patience)
            except TimeoutError:
                client.stream.lenient = True
            client.wake.clear()
            while (response := client.stream.next_response()) is not None:
                await context.write(response.SerializeToString())
            self._fleet.notify()


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Return credentials that read the files again for every handshake, so that a renewed certificate is used."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        authority = tls.client_authority.read_bytes() if tls.client_authority is not None else None
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authority)

    def renewed() -> Any:
        try:
            return configuration()
        except OSError as error:
            logger.error("TLS files cannot be read, the ones in use stay: %s", error)
            return None  # gRPC keeps what it has

    return grpc.dynamic_ssl_server_credentials(
        configuration(), renewed, require_client_authentication=tls.client_authority is not None
    )
