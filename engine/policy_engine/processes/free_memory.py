"""Memory that the C library holds and nobody uses, given back to the system: at once, or when a load is over."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def trim() -> None:
    """Give back what the allocator keeps of freed memory (`malloc_trim(3)`), where it can do so (glibc).

    It does so by itself only at the end of its heap, where something small may stay for long.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
