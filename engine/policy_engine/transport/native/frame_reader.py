"""Cuts the bytes of a client into frames (RFC 9113 §3.4, §4.1), however they were split on their way."""

from __future__ import annotations

from collections.abc import Callable

from policy_engine.transport.native import frames
from policy_engine.transport.native.errors import ConnectionFault, ErrorCode

_FRAME_HEADER = frames.FRAME_HEADER.unpack_from

FrameHandler = Callable[[int, int, int, bytes, int, int], None]
"""Called with type, flags, stream id, and the payload as data, start, stop: what needs no copy gets none."""


class FrameReader:
    """Expects the client preface, then frames of at most `max_frame` bytes."""

    __slots__ = ("_handle", "_max_frame", "_preface_left", "_rest")

    def __init__(self, max_frame: int, handle: FrameHandler) -> None:
        self._max_frame = max_frame
        self._handle = handle
        self._preface_left = frames.PREFACE
        self._rest = bytearray()

    def feed(self, data: bytes) -> None:
        """Handle all frames that are complete now; raises ConnectionFault for a wrong preface or a frame too large."""
        if self._preface_left:
            data = self._preface(data)
        position = self._complete_rest(data) if self._rest else 0
        if position < len(data):
            self._frames(data, position)

    def _preface(self, data: bytes) -> bytes:
        expected = self._preface_left
        size = min(len(expected), len(data))
        if data[:size] != expected[:size]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "not an HTTP/2 client preface")
        self._preface_left = expected[size:]
        return data[size:]

    def _complete_rest(self, data: bytes) -> int:
        """Complete the frame begun in earlier data, so that only that one is copied; returns where the next begins."""
        rest = self._rest
        position = 0
        while position < len(data):
            needed = frames.HEADER_SIZE
            if len(rest) >= needed:
                needed += int.from_bytes(rest[:3], "big")
            taken = data[position : position + needed - len(rest)]
            rest += taken
            position += len(taken)
            if len(rest) >= frames.HEADER_SIZE:
                length = int.from_bytes(rest[:3], "big")
                self._check_length(length)
                if len(rest) == frames.HEADER_SIZE + length:
                    frame = bytes(rest)
                    rest.clear()
                    self._frames(frame, 0)
                    break
        return position

    def _frames(self, data: bytes, position: int) -> None:
        end = len(data)
        max_frame, handle = self._max_frame, self._handle
        while end - position >= frames.HEADER_SIZE:
            word, flags, stream_id = _FRAME_HEADER(data, position)
            length = word >> 8
            if length > max_frame:
                self._check_length(length)
            start = position + frames.HEADER_SIZE
            if start + length > end:
                break
            position = start + length
            handle(word & 0xFF, flags, stream_id & frames.MAX_STREAM_ID, data, start, position)
        if position < end:
            self._rest += data[position:]

    def _check_length(self, length: int) -> None:
        if length > self._max_frame:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"frame of {length} bytes, {self._max_frame} are allowed")
