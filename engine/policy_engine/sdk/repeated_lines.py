"""Log lines that can come with every request: the first of a kind are logged, the rest counted.

For policies, and for the kernel, the worker and the transports, which all have such lines. Metrics count the events
themselves; this only keeps them from filling a disk and holding the event loop.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, Final

BURST: Final = 10
"""Lines of one kind that are logged at once."""

PER_SECOND: Final = 1.0
"""Lines of one kind that are logged after that."""

MOST_KINDS: Final = 1024
"""Kinds that are remembered; the one not seen for longest makes room for a new one."""

NEW_KINDS: Final = 100
"""Kinds that may appear at once, and then `PER_SECOND`: whoever can make up kinds gets no line for each."""


class Suppressed:
    """How many lines of this process were not logged."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


SUPPRESSED: Final = Suppressed()


class _Allowance:
    __slots__ = ("left", "since", "withheld")

    def __init__(self, left: float, now: float) -> None:
        self.left = left
        self.since = now
        self.withheld = 0

    def spend(self, now: float, most: float) -> bool:
        self.left = min(most, self.left + (now - self.since) * PER_SECOND)
        self.since = now
        if self.left < 1:
            self.withheld += 1
            return False
        self.left -= 1
        return True


class RepeatedLines:
    """The lines of one logger that can come with every request.

    All are logged while the logger is at `debug`; else the next line of a kind says how many there were.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._kinds: dict[Hashable, _Allowance] = {}
        self._new = _Allowance(NEW_KINDS, clock())
        self._lock = threading.Lock()

    def due(self, kind: Hashable) -> bool:
        """Take one line of `kind` from what may be logged; returns whether it may be."""
        with self._lock:
            if self._spend(kind):
                return True
            SUPPRESSED.count += 1
        return self._logger.isEnabledFor(logging.DEBUG)

    def _spend(self, kind: Hashable) -> bool:
        now = self._clock()
        allowance = self._kinds.pop(kind, None)
        if allowance is None:
            # A kind beyond the allowance of new ones begins with nothing left.
            allowance = _Allowance(BURST if self._new.spend(now, NEW_KINDS) else 0, now)
            if len(self._kinds) >= MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
        self._kinds[kind] = allowance
        return allowance.spend(now, BURST)

    def log(self, level: int, kind: Hashable, text: str, *values: object, **keywords: Any) -> None:
        """Log a line of `kind` unless there were too many; `keywords` are those of `Logger.log`."""
        if self.due(kind):
            self.say(level, kind, text, *values, **keywords)

    def say(self, level: int, kind: Hashable, text: str, *values: object, **keywords: Any) -> None:
        """Log a line that is `due`, with the number of those of its kind that were not."""
        allowance = self._kinds.get(kind)
        withheld = 0
        if allowance is not None:
            withheld, allowance.withheld = allowance.withheld, 0
        if withheld:
            text = f"{text} (and %d more like it)"
            values = (*values, withheld)
            keywords["extra"] = {**keywords.get("extra", {}), "repeats": withheld}
        self._logger.log(level, text, *values, **keywords)
