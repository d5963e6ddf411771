"""One question to a store: is this request within all limits? Apart from the policy, which decides what follows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from limits import RateLimitItem
from limits.aio import strategies as asynchronous

from policy_engine.sdk.steady_clock import steady_time
from policy_redis import RedisLink

from . import memory
from .linked import LinkedStorage
from .memory import Counters, Limit, shared_partitions

_ASYNCHRONOUS: Mapping[str, Callable[[LinkedStorage], asynchronous.RateLimiter]] = asynchronous.STRATEGIES


@dataclass(frozen=True, slots=True)
class Window:
    """How one limit stands: `amount` in `seconds`, `remaining` of it, more after `reset` seconds."""

    amount: int
    seconds: int
    remaining: int
    reset: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the request is within all limits; `windows` are known when it is not, or when asked for."""

    allowed: bool
    windows: tuple[Window, ...] = ()

    def retry_after(self, cost: int) -> int:
        """Return after how many seconds a request with this cost may succeed, by the windows that refused it."""
        return max((one.reset for one in self.windows if one.remaining < cost), default=1)


class LocalCounter:
    """Counts in this process. Nothing awaits, so all limits are looked at and charged as one."""

    def __init__(self, strategy: str, limits: Sequence[RateLimitItem], identity: Hashable, max_entries: int) -> None:
        self._max_entries = max_entries
        self._partitions = [
            shared_partitions(strategy, Limit(limit.amount, limit.get_expiry()), identity) for limit in limits
        ]
        self._counters: dict[str, list[Counters]] = {}

    def counters(self, name: str) -> list[Counters]:
        """Return the counters of each limit for a route, or a `counter` of the parameters."""
        found = self._counters.get(name)
        if found is None:
            found = self._counters[name] = [one.of(name, self._max_entries) for one in self._partitions]
        return found

    def hit(self, name: str, key: str, cost: int, *, report: bool) -> Verdict:
        """Charge all limits when all have room, else none."""
        counters, at = self.counters(name), memory.now()
        allowed = all(one.standing(key, at)[0] >= cost for one in counters)
        if allowed:
            for one in counters:
                one.charge(key, cost, at)
            if not report:
                return Verdict(True)
        return Verdict(allowed, tuple(_standing(one, key, at) for one in counters))


def _standing(counters: Counters, key: str, at: float) -> Window:
    remaining, more_in = counters.standing(key, at)
    return _window(counters.limit.amount, counters.limit.seconds, remaining, more_in)


class RedisCounter:
    """Counts in Redis, where each limit is charged atomically."""

    def __init__(self, strategy: str, limits: Sequence[RateLimitItem], link: RedisLink, prefix: str) -> None:
        self._link = link
        # The strategy is part of the name as each keeps values of its own kind.
        # `limits` itself reads the time of day for this one when it says when there is more.
        self._clock = time.time if strategy == "sliding-window-counter" else steady_time
        storage = LinkedStorage(link.client, f"{prefix}:{strategy}")
        self._limiter = _ASYNCHRONOUS[strategy](storage)
        self._limits = limits

    async def hit(self, key: str, cost: int, *, report: bool) -> Verdict:
        """Charge all limits when all have room; raises StoreUnavailable.

        With several limits they are looked at first, so that a refused request is not charged. Another engine may take
        the last of one limit in between: the request is refused then, and the other limits keep the charge.
        """
        return await self._link.ask(lambda: self._hit(key, cost, report))

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()

    async def _hit(self, key: str, cost: int, report: bool) -> Verdict:
        limiter, limits = self._limiter, self._limits
        allowed = len(limits) == 1 or all(
            await asyncio.gather(*(limiter.test(limit, key, cost=cost) for limit in limits))
        )
        if allowed:
            allowed = all(await asyncio.gather(*(limiter.hit(limit, key, cost=cost) for limit in limits)))
        if allowed and not report:
            return Verdict(True)
        stats = await asyncio.gather(*(limiter.get_window_stats(limit, key) for limit in limits))
        now = self._clock()
        return Verdict(allowed, tuple(_stats(limit, one, now) for limit, one in zip(limits, stats, strict=True)))


def _stats(limit: RateLimitItem, stats: tuple[float, int], now: float) -> Window:
    reset, remaining = stats
    return _window(limit.amount, limit.get_expiry(), remaining, reset - now)


def _window(amount: int, seconds: int, remaining: int, more_in: float) -> Window:
    return Window(amount, seconds, max(0, remaining), min(max(1, ceil(more_in)), seconds))
