"""The storage of `limits` on a client that is there already, timed by a clock that does not step.

A separate module because it fills in what `limits` has no parameter for: its own clients cannot be given a pool, a
cluster or Sentinels with our connections, and its moving window reads the time of day.
"""

from __future__ import annotations

from typing import Any

from limits.aio.storage import RedisStorage
from limits.aio.storage.redis.redispy import RedispyBridge

from policy_engine.sdk.steady_clock import steady_time


class _Bridge(RedispyBridge):
    def __init__(self, client: Any, uri: str, dependency: Any, key_prefix: str) -> None:
        super().__init__(uri, dependency, key_prefix)
        self.storage = client
        self.connection_getter = lambda _: client

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        now = steady_time()
        found = await self.lua_moving_window([self.prefixed_key(key)], [now - expiry, limit])
        return (float(found[0]), found[1]) if found else (now, 0)

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        arguments = [steady_time(), limit, expiry, amount]
        return bool(await self.lua_acquire_moving_window([self.prefixed_key(key)], arguments))

    async def get_expiry(self, key: str) -> float:
        left: int = await self.get_connection().ttl(self.prefixed_key(key))
        return max(left, 0) + steady_time()


class LinkedStorage(RedisStorage):
    """Keeps its keys below `prefix` with `client`, one of redis-py."""

    def __init__(self, client: Any, prefix: str) -> None:
        self._client = client
        super().__init__("async+redis://", implementation="redispy", key_prefix=prefix)

    def configure_bridge(self) -> None:
        """Give it the bridge with the client instead of one that makes its own."""
        made = self.bridge
        self.bridge = _Bridge(self._client, made.uri, made.dependency, made.key_prefix)
