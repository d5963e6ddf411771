"""Memory that is held and not used, given back to the system: at once, or when a load is over."""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import suppress
from pathlib import Path

GROWN = 1.1
"""So many times what a process had at least is worth a collection, and so much of a change since the last one."""

QUIET = 50
"""Fewer new requests than this between two looks, and nobody is held up by a collection."""

_STATM = Path("/proc/self/statm")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def trim() -> None:
    """Give back what the C library keeps of freed memory (`malloc_trim(3)`), where it can do so (glibc).

    It does so by itself only at the end of its heap, where something small may stay for long.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def resident() -> int:
    """Return the bytes of this process that are in memory, 0 where nobody tells."""
    with suppress(OSError, ValueError, IndexError):
        return int(_STATM.read_bytes().split()[1]) * _PAGE
    return 0


class Leftovers:
    """What a load leaves behind: Python keeps freed objects of many kinds for new ones, each with the memory around it.

    They go with a full collection, which is made once a load is over.
    """

    def __init__(self) -> None:
        self._least = 0
        self._left = 0
        self._begun = 0

    def look(self, begun: int) -> None:
        """Give back what is worth it, when there is time; `begun` is how many requests there were, ever."""
        quiet = begun - self._begun < QUIET
        self._begun = begun
        now = resident()
        self._least = min(self._least or now, now)
        changed = not self._left / GROWN <= now <= self._left * GROWN
        if quiet and changed and now > GROWN * self._least:
            gc.collect()
            trim()
            self._left = resident()
