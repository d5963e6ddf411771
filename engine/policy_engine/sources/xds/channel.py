"""Where the management server is and how a gRPC channel to it is made: addresses, TLS files, keepalive, limits.

A separate module because it is all that operators set, and all that knows about gRPC options.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import grpc

from policy_engine.sources.xds.protocol import WILDCARD, Variant

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a TLS client; they are read again for every connection, so that a renewed certificate is used.

    `authority` verifies the server (the system's roots without it). `certificate` and `key` go together and make it
    mutual TLS. `server_name` is the name to verify when the address is not it.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client certificate and its key must be given together")


@dataclass(frozen=True, slots=True)
class XdsConnection:
    """How to follow a management server (R-21). Times are in seconds.

    `addresses` are gRPC targets (`host:port`, `unix:/path`), tried in turn. Without `tls` the connection is plain text.
    `keepalive_interval` must not be below what the server permits, or it ends the connection (gRPC's `too_many_pings`).
    A reconnect waits between 0 and min(`backoff_longest`, `backoff_first` * 2^n) seconds; n starts again at 0 after a
    stream that lasted `stable_after`. With `saved`, the last known good configuration is kept in that file, and used
    when no server has answered `saved_after` seconds after the start.
    """

    addresses: tuple[str, ...]
    node_id: str
    node_cluster: str = "policy-engine"
    variant: Variant = Variant.DELTA
    resource_names: tuple[str, ...] = (WILDCARD,)
    tls: TlsFiles | None = None
    connect_timeout: float = 5.0
    keepalive_interval: float = 30.0
    keepalive_timeout: float = 10.0
    backoff_first: float = 0.5
    backoff_longest: float = 10.0
    stable_after: float = 30.0
    saved: Path | None = None
    saved_after: float = 2.0
    max_message_bytes: int = 64 * 2**20

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ValueError("at least one address of a management server is needed")
        if not self.node_id:
            raise ValueError("a node id is needed: it names this engine in the control plane's status")
        if not self.resource_names:
            raise ValueError("at least one resource name is needed ('*' for all)")


def open_channel(settings: XdsConnection, address: str) -> grpc.aio.Channel:
    """Return a new channel to `address`, not connected yet; raises OSError when a TLS file cannot be read."""
    options: list[tuple[str, int | str]] = [
        ("grpc.keepalive_time_ms", int(settings.keepalive_interval * 1000)),
        ("grpc.keepalive_timeout_ms", int(settings.keepalive_timeout * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        # The back-off is ours: every attempt is a new channel that shares nothing with the one before.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        # A proxy from the environment must not see where configuration comes from, or change it.
        ("grpc.enable_http_proxy", 0),
    ]
    if settings.tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    if settings.tls.server_name:
        options.append(("grpc.ssl_target_name_override", settings.tls.server_name))
    return grpc.aio.secure_channel(address, _credentials(settings.tls), options=options)


def _credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.authority), private_key=_read(tls.key), certificate_chain=_read(tls.certificate)
    )


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
