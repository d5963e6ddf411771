"""Signals that come to all processes of an engine at once: only the supervisor acts on any.

A terminal, a shell's `kill -HUP -PGID` and a service manager send to a whole group. A worker process that ended by one
would take its requests with it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_FAULTS = {
    signal.Signals[name]
    for name in ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP", "SIGXCPU", "SIGXFSZ")
    if name in signal.Signals.__members__
}
"""What tells a process of a fault of its own, or of a limit that somebody set."""

_HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGPIPE, signal.SIGURG, signal.SIGWINCH}
"""Ignored unless asked for, or in Python's own hands."""


def stray_signals() -> frozenset[int]:
    """Return every signal that ends or stops a process that does not care about it, and that can be ignored."""
    never = _FAULTS | _HARMLESS | {signal.SIGKILL, signal.SIGSTOP}
    return frozenset(int(one) for one in signal.valid_signals() - never)


def ignore_stray_signals(handled: frozenset[int] = frozenset()) -> None:
    """Do nothing at any stray signal but those `handled`; to be called in the main thread.

    By a handler, not by `SIG_IGN`: that would be inherited by programs that a policy starts.
    """
    for number in stray_signals() - handled:
        signal.signal(number, _nothing)
        signal.siginterrupt(number, False)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Handle a stray signal."""


class _Holding:
    """How many want stray signals held back at this moment; they overlap, as processes are started side by side."""

    def __init__(self) -> None:
        self._count = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold stray signals back, for this thread and for processes started meanwhile, until they are dealt with.

        A process begins with the mask of its parent, so none reaches it before `let_signals_in`.
        """
        if not self._count:
            signal.pthread_sigmask(signal.SIG_BLOCK, stray_signals())
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                let_signals_in()


stray_signals_wait = _Holding()


def let_signals_in() -> None:
    """Take what was held back when this process was started, now that it is known what to do with each."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stray_signals())
