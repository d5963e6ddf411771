"""The name of a chain as bytes of one fixed length, which can be copied to where another process reads it."""

from __future__ import annotations

MARK_BYTES = 256


def mark_of(route_key: str) -> bytes:
    """Return the mark of the chain of `route_key`; a longer key is cut."""
    return route_key.encode(errors="replace")[: MARK_BYTES - 1].ljust(MARK_BYTES, b"\0")


def read_mark(page: bytes) -> str:
    """Return the route key whose mark stands at the start of `page`; empty when there is none yet."""
    return page[:MARK_BYTES].partition(b"\0")[0].decode(errors="ignore")
