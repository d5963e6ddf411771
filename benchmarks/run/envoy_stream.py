"""The frames that open an ext_proc stream as Envoy sends them, for the measurements that need no Envoy."""

from __future__ import annotations

import struct

from policy_engine.transport.native.headers import encode

FRAME = struct.Struct(">IBI")
"""Length and type in one number, flags, stream id (RFC 9113, 4.1)."""

_BLOCK = encode(
    (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/envoy.service.ext_proc.v3.ExternalProcessor/Process"),
        (":authority", "policy-engine"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("x-envoy-internal", "true"),
        ("x-forwarded-for", "127.0.0.1"),
    )
)


def opening(stream_id: int) -> bytes:
    """HEADERS of a new stream."""
    # The first block tells that Envoy's table stays empty, as SETTINGS_HEADER_TABLE_SIZE = 0 wants it (RFC 7541 §4.2).
    block = b"\x20" + _BLOCK if stream_id == 1 else _BLOCK
    return FRAME.pack(len(block) << 8 | 1, 4, stream_id) + block
