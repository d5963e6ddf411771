"""HTTP/2 frames as bytes (RFC 9113 §4, §6): numbers of types, flags and settings, and what the server itself sends."""

from __future__ import annotations

from struct import Struct
from typing import Final

from policy_engine.transport.native.errors import ConnectionFault, ErrorCode

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

HEADER_SIZE: Final = 9
FRAME_HEADER: Final = Struct(">IBI")
"""Length (24 bits) and type (8 bits) as one number, flags, stream id with its reserved bit."""

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20
PRIORITY_SIZE: Final = 5

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6

MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM_ID: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME_SIZE: Final = 16_384

SETTINGS_ACK: Final = FRAME_HEADER.pack(SETTINGS, ACK, 0)

_SETTING: Final = Struct(">HI")
_UINT32: Final = Struct(">I")
_UPDATE: Final = Struct(">IBII")
_GOAWAY: Final = Struct(">IBIII")


def settings(values: dict[int, int]) -> bytes:
    """SETTINGS with these values, in their order (§6.5)."""
    payload = b"".join(_SETTING.pack(key, value) for key, value in values.items())
    return FRAME_HEADER.pack(len(payload) << 8 | SETTINGS, 0, 0) + payload


def settings_pairs(payload: bytes) -> list[tuple[int, int]]:
    """Pairs of a SETTINGS payload, whose length must be a multiple of six."""
    return list(_SETTING.iter_unpack(payload))


def ping(payload: bytes, *, ack: bool) -> bytes:
    """PING with eight bytes (§6.7)."""
    return FRAME_HEADER.pack(8 << 8 | PING, ACK if ack else 0, 0) + payload


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """RST_STREAM (§6.4)."""
    return _UPDATE.pack(4 << 8 | RST_STREAM, 0, stream_id, code)


def goaway(last_stream_id: int, code: ErrorCode, debug: str = "") -> bytes:
    """GOAWAY with the last stream that is or may be processed (§6.8)."""
    text = debug.encode()[:256]
    return _GOAWAY.pack((8 + len(text)) << 8 | GOAWAY, 0, 0, last_stream_id, code) + text


def window_update(stream_id: int, increment: int) -> bytes:
    """WINDOW_UPDATE of a stream, or of the connection with id 0 (§6.9)."""
    return _UPDATE.pack(4 << 8 | WINDOW_UPDATE, 0, stream_id, increment)


def uint32(payload: bytes, offset: int = 0) -> int:
    """Return a 32-bit number at this offset."""
    value: int = _UINT32.unpack_from(payload, offset)[0]
    return value


def without_padding(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Bounds of what a padded payload holds (§6.1, §6.2); raises ConnectionFault."""
    if start == stop:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "padded frame without pad length")
    padding = data[start]
    start += 1
    if padding > stop - start:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding longer than the frame")
    return start, stop - padding
