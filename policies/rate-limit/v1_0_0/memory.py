"""The in-process storage of `limits` with a bound: clients that invent keys must not exhaust memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from limits.storage import MemoryStorage

_SWEEP = 2  # expired keys dropped with each hit: more than one hit can add


@dataclass(slots=True)
class _Kept:
    weight: int
    until: float


class BoundedMemory(MemoryStorage):
    """Keeps at most `max_entries`: counters, or accepted requests for the moving window; the least used go first.

    The base class looks at all keys from a thread of its own, which costs more the more clients there are. Here each
    hit drops what has expired, oldest use first, so that the cost is the same for any number of clients.
    """

    def __init__(self, max_entries: int) -> None:
        self._max = max_entries
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._total = 0
        super().__init__()
        self.timer.cancel()

    @property
    def entries(self) -> int:
        """How many entries are kept."""
        return self._total

    def _MemoryStorage__schedule_expiry(self) -> None:
        """Override the private method that starts the base class's thread: start none."""

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add to a counter (fixed window, sliding window)."""
        count: int = super().incr(key, expiry, amount)
        self._used(key, 1, expiry)
        return count

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Note `amount` accepted requests if the moving window has room for them."""
        accepted: bool = super().acquire_entry(key, limit, expiry, amount)
        if accepted:
            events = self.events[key]
            del events[limit:]  # newest first: what lies beyond the limit has left the window
            self._used(key, len(events), expiry)
        return accepted

    def _used(self, key: str, weight: int, expiry: float) -> None:
        now = time.time()
        known = self._kept.pop(key, None)
        self._total += weight - (known.weight if known else 0)
        self._kept[key] = _Kept(weight, now + expiry)
        for _ in range(_SWEEP):
            if next(iter(self._kept.values())).until > now:
                break
            self._drop_oldest()
        while self._total > self._max and len(self._kept) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        key, kept = self._kept.popitem(last=False)
        self._total -= kept.weight
        self.clear(key)
