"""One question to a store: is this request within all limits? Apart from the policy, which decides what follows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from limits import RateLimitItem
from limits.aio import strategies as asynchronous
from limits.aio.storage import RedisStorage
from limits.strategies import STRATEGIES

from policy_redis import RedisLink

from .memory import BoundedMemory

_ASYNCHRONOUS: Mapping[str, Callable[[RedisStorage], asynchronous.RateLimiter]] = asynchronous.STRATEGIES


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

    def __init__(self, strategy: str, limits: Sequence[RateLimitItem], max_entries: int) -> None:
        self.storage = BoundedMemory(max_entries)
        self._limiter = STRATEGIES[strategy](self.storage)
        self._limits = limits

    def hit(self, key: str, cost: int, *, report: bool) -> Verdict:
        """Charge all limits when all have room, else none."""
        allowed = all(self._limiter.test(limit, key, cost=cost) for limit in self._limits)
        if allowed:
            allowed = all(self._limiter.hit(limit, key, cost=cost) for limit in self._limits)
        if allowed and not report:
            return Verdict(True)
        return Verdict(allowed, tuple(_window(one, self._limiter.get_window_stats(one, key)) for one in self._limits))


class RedisCounter:
    """Counts in Redis, where each limit is charged atomically."""

    def __init__(self, strategy: str, limits: Sequence[RateLimitItem], link: RedisLink, prefix: str) -> None:
        self._link = link
        # The strategy is part of the name as each keeps values of its own kind.
        options: dict[str, Any] = {"connection_pool": link.pool}  # documented, but not in the types of `limits`
        storage = RedisStorage("async+redis://", implementation="redispy", key_prefix=f"{prefix}:{strategy}", **options)
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
        return Verdict(allowed, tuple(map(_window, limits, stats)))


def _window(limit: RateLimitItem, stats: tuple[float, int]) -> Window:
    reset, remaining = stats
    seconds: int = limit.get_expiry()
    left = min(max(1, ceil(reset - time.time())), seconds)
    return Window(limit.amount, seconds, max(0, remaining), left)
