"""A body that is kept until it is whole, up to a limit; the same face as `sse.EventBuffer` has for events."""

from __future__ import annotations


class BodyBuffer:
    """Takes chunks and gives nothing but, at the end, all of them; `too_large` tells that they exceed `limit`."""

    __slots__ = ("_kept", "_limit", "too_large")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self.too_large = False

    def feed(self, data: bytes) -> bytes:
        """Keep `data`; nothing is whole before the end."""
        self._kept += data
        self.too_large |= len(self._kept) > self._limit
        return b""

    def finish(self) -> bytes:
        """Return what was kept since the last call."""
        kept = bytes(self._kept)
        self._kept.clear()
        return kept
