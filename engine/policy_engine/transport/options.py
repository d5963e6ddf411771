"""Options that both transports share: where to listen, TLS, limits. Checked once: no server starts half right."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from policy_engine.limits import (
    ACCEPT_BACKLOG,
    BODY_LIMIT,
    CONNECTIONS,
    KIB,
    MESSAGE_OVERHEAD,
    MIB,
    RECEIVE_BUFFER,
    STREAMS,
)


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """Certificate and key (PEM files) of the server; with `client_ca_file` clients must show a certificate of it."""

    certificate_file: Path
    key_file: Path
    client_ca_file: Path | None = None
    client_names: tuple[str, ...] = ()
    """Names of which a client's certificate has to bear one, see `ClientNames`; empty for any of the CA."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read."""
        return tuple(one for one in (self.certificate_file, self.key_file, self.client_ca_file) if one is not None)


def check_files(options: TlsOptions) -> None:
    """Raise ValueError that names the first file that cannot be read."""
    for path in options.files:
        try:
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:
            raise ValueError(f"TLS file {path} cannot be read: {error.strerror or error}") from None


@dataclass(frozen=True, slots=True)
class Limits:
    """What peers may make the transport hold or do. Sizes in bytes, per connection unless said otherwise; connections
    and streams are those of the whole server.

    `receive_buffer_bytes` is shared by all connections of a server: long messages reserve their room in it before the
    client may send them. Limits marked (native) are not used by the grpcio transport, which has fixed ones of its own.
    """

    max_connections: int = CONNECTIONS
    max_concurrent_streams: int = STREAMS
    max_message_bytes: int = BODY_LIMIT + MESSAGE_OVERHEAD
    """One gRPC message, also after decompression."""
    max_header_list_bytes: int = 16 * KIB
    max_frame_bytes: int = 16 * KIB
    """(native) Largest frame a client may send, RFC 9113 §6.5.2."""
    stream_window_bytes: int = 256 * KIB
    """(native) What a client may send on one stream before it is read."""
    connection_window_bytes: int = 16 * MIB
    """(native) What a client may send on all streams before it is read."""
    receive_buffer_bytes: int = RECEIVE_BUFFER
    """(native) Shared room for messages longer than the windows allow."""
    send_buffer_bytes: int = 64 * MIB
    """(native) Replies the client does not take; above this its messages wait."""
    handshake_seconds: float = 10.0
    """(native) Time for TLS and for the first SETTINGS and its ACK."""

    def __post_init__(self) -> None:
        """Refuse values with which the protocol cannot work; raises ValueError naming the field."""
        _within("max_connections", self.max_connections, 1, 1_000_000)
        _within("max_concurrent_streams", self.max_concurrent_streams, 1, 2**31 - 1)
        _within("max_message_bytes", self.max_message_bytes, 1, 2**31 - 1)
        _within("max_header_list_bytes", self.max_header_list_bytes, 1024, MIB)
        _within("max_frame_bytes", self.max_frame_bytes, 16 * KIB, 2**24 - 1)
        _within("stream_window_bytes", self.stream_window_bytes, 65_535, 2**31 - 1)
        _within("connection_window_bytes", self.connection_window_bytes, 2 * self.stream_window_bytes, 2**31 - 1)
        room = 2 * (self.max_message_bytes + self.stream_window_bytes)
        _within("receive_buffer_bytes", self.receive_buffer_bytes, room, 2**40)
        _within("send_buffer_bytes", self.send_buffer_bytes, 64 * KIB, 2**40)
        if not 0 < self.handshake_seconds <= 3600:
            raise ValueError(f"handshake_seconds is {self.handshake_seconds}, expected more than 0 and at most 3600")


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """`bind` holds `host:port`, `[v6]:port` (port 0: any free one) or `unix:/path`; all are served."""

    bind: tuple[str, ...] = ("127.0.0.1:9001",)
    tls: TlsOptions | None = None
    limits: Limits = field(default_factory=Limits)
    reuse_port: bool = False
    """SO_REUSEPORT on TCP sockets, so that several worker processes listen on one port."""
    backlog: int = ACCEPT_BACKLOG


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}, expected {low} to {high}")
