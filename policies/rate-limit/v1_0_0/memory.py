"""Counters in this process: bounded, on a clock that never steps, and kept while chains are loaded anew.

A separate module because counters belong to a limit and not to the policy instance that asks: whoever changes another
entry of the chain must not hand out the quotas anew.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from math import floor
from threading import Lock
from time import monotonic
from typing import Protocol
from weakref import WeakValueDictionary

_SWEEP = 2  # expired counters dropped with each charge: more than one charge can add


@dataclass(frozen=True, slots=True)
class Limit:
    """`amount` in `seconds`."""

    amount: int
    seconds: int


class Counter(Protocol):
    """How one client stands within one limit; all times are in seconds of the monotonic clock."""

    @property
    def weight(self) -> int:
        """How many entries of memory it takes."""
        ...

    def until(self, limit: Limit) -> float:
        """When it can be forgotten."""
        ...

    def standing(self, limit: Limit, now: float) -> tuple[int, float]:
        """Return what is left, and after how many seconds there is more."""
        ...

    def charge(self, limit: Limit, cost: int, now: float) -> None:
        """Count a request that there is room for."""
        ...


@dataclass(slots=True)
class FixedWindow:
    """A window that begins with the first request."""

    count: int = 0
    ends: float = 0.0
    weight: int = 1

    def until(self, limit: Limit) -> float:
        """When the window ends."""
        return self.ends

    def standing(self, limit: Limit, now: float) -> tuple[int, float]:
        """See `Counter`."""
        if now >= self.ends:
            return limit.amount, 0.0
        return limit.amount - self.count, self.ends - now

    def charge(self, limit: Limit, cost: int, now: float) -> None:
        """See `Counter`."""
        if now >= self.ends:
            self.count, self.ends = 0, now + limit.seconds
        self.count += cost


@dataclass(slots=True)
class MovingWindow:
    """The times of the accepted requests, oldest first; those before `first` have left the window."""

    # Numbers in a row: a deque takes 600 bytes for the first of them.
    times: array[float] = field(default_factory=lambda: array("d"))
    first: int = 0

    @property
    def weight(self) -> int:
        """One entry for each request."""
        return len(self.times) - self.first

    def until(self, limit: Limit) -> float:
        """When the newest request leaves the window."""
        return self.times[-1] + limit.seconds if self.times else 0.0

    def standing(self, limit: Limit, now: float) -> tuple[int, float]:
        """See `Counter`."""
        times, first = self.times, self.first
        while first < len(times) and times[first] + limit.seconds <= now:
            first += 1
        if first * 2 > len(times):
            del times[:first]
            first = 0
        self.first = first
        return limit.amount - len(times) + first, times[first] + limit.seconds - now if times else 0.0

    def charge(self, limit: Limit, cost: int, now: float) -> None:
        """See `Counter`."""
        self.times.extend((now,) * cost)


@dataclass(slots=True)
class SlidingWindowCounter:
    """The counts of this window and of the one before, which is weighted by what of it is still within the limit."""

    window: int = 0
    count: int = 0
    previous: int = 0
    weight: int = 1

    def until(self, limit: Limit) -> float:
        """When the window after this one ends."""
        return float((self.window + 2) * limit.seconds)

    def standing(self, limit: Limit, now: float) -> tuple[int, float]:
        """See `Counter`."""
        self._turn(limit, now)
        left = (self.window + 1) * limit.seconds - now
        used = self.previous * left / limit.seconds + self.count
        frees_previous = left % (limit.seconds / self.previous) if self.previous else left
        return max(0, limit.amount - floor(used)), min(left, frees_previous)

    def charge(self, limit: Limit, cost: int, now: float) -> None:
        """See `Counter`."""
        self._turn(limit, now)
        self.count += cost

    def _turn(self, limit: Limit, now: float) -> None:
        window = int(now // limit.seconds)
        if window != self.window:
            self.previous = self.count if window == self.window + 1 else 0
            self.window, self.count = window, 0


KINDS: dict[str, Callable[[], Counter]] = {
    "fixed-window": FixedWindow,
    "moving-window": MovingWindow,
    "sliding-window-counter": SlidingWindowCounter,
}
"""The kinds of counters by the names of the strategies."""


class Counters:
    """The counters of all clients for one limit, `most` entries of memory; the least used go first.

    A charge also drops what has expired, oldest use first, so that the cost is the same for any number of clients.
    """

    def __init__(self, strategy: str, limit: Limit) -> None:
        self.limit = limit
        self.most = 0
        self._kind = KINDS[strategy]
        self._kept: OrderedDict[str, Counter] = OrderedDict()
        self.entries = 0

    def __len__(self) -> int:
        return len(self._kept)

    def standing(self, key: str, now: float) -> tuple[int, float]:
        """Return what the client has left, and after how many seconds there is more."""
        counter = self._kept.get(key)
        if counter is None:
            return self.limit.amount, 0.0
        before = counter.weight
        stands = counter.standing(self.limit, now)
        self.entries += counter.weight - before
        return stands

    def charge(self, key: str, cost: int, now: float) -> None:
        """Count a request."""
        counter = self._kept.pop(key, None)
        if counter is None:
            counter = self._kind()
        else:
            self.entries -= counter.weight
        counter.charge(self.limit, cost, now)
        self.entries += counter.weight
        self._kept[key] = counter
        for _ in range(_SWEEP):
            if next(iter(self._kept.values())).until(self.limit) > now:
                break
            self._drop_oldest()
        while self.entries > self.most and len(self._kept) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, counter = self._kept.popitem(last=False)
        self.entries -= counter.weight


class Partitions:
    """The counters for one limit, for each route (or `counter` of the parameters) apart, so that none evicts another's.

    Gone with the last policy instance that uses them: a chain that is loaded anew is built before the old one goes.
    """

    def __init__(self, strategy: str, limit: Limit) -> None:
        self._strategy = strategy
        self._limit = limit
        self._by_name: dict[str, Counters] = {}

    def of(self, name: str, most: int) -> Counters:
        """Return the counters of this name, which may hold `most` entries from now on."""
        counters = self._by_name.get(name)
        if counters is None:
            counters = self._by_name[name] = Counters(self._strategy, self._limit)
        counters.most = most
        return counters


_shared: WeakValueDictionary[Hashable, Partitions] = WeakValueDictionary()
_lock = Lock()  # constructors run on threads


def shared_partitions(strategy: str, limit: Limit, identity: Hashable) -> Partitions:
    """Return the one object of this process for this limit; `identity` says who is counted."""
    with _lock:
        key = (strategy, limit, identity)
        found = _shared.get(key)
        if found is None:
            found = _shared[key] = Partitions(strategy, limit)
        return found


def now() -> float:
    """Return seconds that never step back or forth, whatever is done to the time of day."""
    return monotonic()
