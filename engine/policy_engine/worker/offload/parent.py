"""What the kernel does to a process when another one ends, however that ends and whatever this one does."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def signal_at_its_end(number: signal.Signals) -> None:
    """Have the kernel send this process `number` when the thread that started it ends, where it can (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def end_with(parent: int) -> None:
    """Be killed when `parent` ends; raises SystemExit when it has ended already."""
    signal_at_its_end(signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(0)


def adopt_orphans() -> None:
    """Become the parent of what processes below this one leave behind, to wait for it, where this can be (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
