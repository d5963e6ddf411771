"""The client's SETTINGS, checked (RFC 9113 §6.5.2). Only the last value of each counts: repeating one costs nothing."""

from __future__ import annotations

from dataclasses import dataclass

from policy_engine.transport.native import frames
from policy_engine.transport.native.errors import ConnectionFault, ErrorCode


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """What matters to a server that pushes nothing and compresses without a table. None: not in this frame."""

    initial_window: int | None
    max_frame: int | None


def parse_settings(payload: bytes) -> PeerSettings:
    """Read a SETTINGS payload; raises ConnectionFault."""
    if len(payload) % 6:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS payload is not a multiple of 6 bytes")
    initial_window: int | None = None
    max_frame: int | None = None
    for key, value in frames.settings_pairs(payload):
        if key == frames.ENABLE_PUSH:
            if value > 1:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH is {value}")
        elif key == frames.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE is {value}")
            initial_window = value
        elif key == frames.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_SIZE <= value < 2**24:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE is {value}")
            max_frame = value
    return PeerSettings(initial_window, max_frame)
