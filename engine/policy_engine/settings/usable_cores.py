"""How many cores there are to use: the one place that asks the system, as not every system can say it."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Return how many cores this process may use; macOS and Windows only know how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
