"""Buffer space for long messages, shared by all connections of a server: granted in order, and for a limited time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from policy_engine.transport.native.headers import RESOURCE_EXHAUSTED
from policy_engine.transport.native.stream import Stream

STALL_SECONDS: Final = 30.0
"""How long a granted message may take when others wait for its room."""


class Waiting(Protocol):
    """A flow whose stream waits for a grant."""

    def grant(self, stream: Stream, *, first: bool = False) -> bool:
        """Try again, now as the first in line."""
        ...


class BufferPool:
    """Who finds no room waits in line. A client that leaves its message unfinished while others wait loses its room."""

    __slots__ = ("_call_later", "_clock", "_since", "_timer_runs", "_waiting", "available", "capacity")

    def __init__(
        self, capacity: int, clock: Callable[[], float], call_later: Callable[[float, Callable[[], None]], object]
    ) -> None:
        self.capacity = capacity
        self.available = capacity
        self._clock = clock
        self._call_later = call_later
        self._timer_runs = False
        self._waiting: dict[Stream, Waiting] = {}
        self._since: dict[Stream, float] = {}

    @property
    def contended(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def reserve(self, stream: Stream, amount: int) -> bool:
        """Take room for a stream unless there is too little."""
        if amount > self.available:
            return False
        self.available -= amount
        self._since[stream] = self._clock()
        return True

    def wait(self, stream: Stream, flow: Waiting) -> None:
        """Get in line, once."""
        self._waiting.setdefault(stream, flow)
        self._watch()

    def release(self, stream: Stream, amount: int) -> None:
        """Give room back and serve those who wait, in order."""
        self.available += amount
        if stream.granted == 0:
            self._since.pop(stream, None)
        while self._waiting:
            first, flow = next(iter(self._waiting.items()))
            if not flow.grant(first, first=True):
                return
            self._waiting.pop(first, None)

    def leave(self, stream: Stream) -> None:
        """Get out of the line."""
        self._waiting.pop(stream, None)

    def _watch(self) -> None:
        if not self._timer_runs:
            self._timer_runs = True
            self._call_later(STALL_SECONDS, self._end_stalled)

    def _end_stalled(self) -> None:
        self._timer_runs = False
        if not self._waiting:
            return
        limit = self._clock() - STALL_SECONDS
        for stream, since in tuple(self._since.items()):
            if since <= limit and stream.missing():
                stream.fail(RESOURCE_EXHAUSTED, f"message unfinished after {STALL_SECONDS:.0f} s while others wait")
        if self._waiting:
            self._watch()
