"""Puts a header block together from HEADERS and CONTINUATION (RFC 9113 §4.3, §6.2, §6.10), within bounds."""

from __future__ import annotations

from typing import Final

from policy_engine.transport.native import frames
from policy_engine.transport.native.errors import ConnectionFault, ErrorCode

_MAX_FRAMES: Final = 64


class HeaderBlockReader:
    """While `stream_id` is not 0, only CONTINUATION of that stream may follow."""

    __slots__ = ("_max_block", "_parts", "_size", "ending", "stream_id")

    def __init__(self, max_block: int) -> None:
        self._max_block = max_block
        self._parts: list[bytes] = []
        self._size = 0
        self.stream_id = 0
        self.ending = False
        """Whether the block's HEADERS had END_STREAM."""

    def begin(self, stream_id: int, flags: int, payload: bytes) -> bytes | None:
        """Take HEADERS; returns the block when it is whole, without padding and priority fields."""
        if flags & (frames.PADDED | frames.PRIORITY_FLAG):
            start, stop = 0, len(payload)
            if flags & frames.PADDED:
                start, stop = frames.without_padding(payload, start, stop)
            if flags & frames.PRIORITY_FLAG:
                start += frames.PRIORITY_SIZE
                if start > stop:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority fields")
            payload = payload[start:stop]
        self.ending = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            return payload
        self.stream_id = stream_id
        self._parts = [payload]
        self._size = len(payload)
        return None

    def resume(self, flags: int, payload: bytes) -> bytes | None:
        """Take CONTINUATION; raises ConnectionFault when there is nothing to continue, or too much of it."""
        if not self.stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._parts.append(payload)
        self._size += len(payload)
        if len(self._parts) > _MAX_FRAMES or self._size > self._max_block:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header block too large or in too many frames")
        if not flags & frames.END_HEADERS:
            return None
        block = b"".join(self._parts)
        self._parts = []
        self.stream_id = 0
        return block
