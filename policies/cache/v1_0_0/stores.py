"""Where responses are kept: in this process or in Redis; for each URL the names of Vary and a few variants."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from policy_engine.sdk import steady_clock
from policy_redis import RedisLink, StoreUnavailable

from .entries import Entry, packed, unpacked

Vary = tuple[str, ...]
VariantOf = Callable[[Vary], str]
"""Gives the id of the variant that a request asks for, when the response varies by these headers."""

_OVERHEAD = 600  # bytes that Python needs for a URL


@dataclass(slots=True)
class _Resource:
    vary: Vary
    variants: OrderedDict[str, Entry] = field(default_factory=OrderedDict)
    size: int = _OVERHEAD

    def drop(self, variant: str) -> None:
        entry = self.variants.pop(variant, None)
        if entry is not None:
            self.size -= entry.size

    def drop_oldest(self) -> None:
        self.drop(next(iter(self.variants)))


class MemoryStore:
    """Keeps at most `max_bytes`; the URL that was used least recently goes first."""

    def __init__(self, max_bytes: int, max_variants: int) -> None:
        self._max_bytes = max_bytes
        self._max_variants = max_variants
        self._resources: OrderedDict[str, _Resource] = OrderedDict()
        self.size = 0

    def find(self, key: str, variant_of: VariantOf) -> Entry | None:
        """Return the stored response, fresh or not."""
        resource = self._resources.get(key)
        if resource is None:
            return None
        self._resources.move_to_end(key)
        return resource.variants.get(variant_of(resource.vary))

    def store(self, key: str, vary: Vary, variant: str, entry: Entry) -> None:
        """Keep a response; one that is larger than all that may be kept is not."""
        if entry.size + _OVERHEAD > self._max_bytes:
            return
        resource = self._resources.get(key)
        if resource is None or resource.vary != vary:
            self.forget(key)
            resource = self._resources[key] = _Resource(vary)
            self.size += resource.size
        before = resource.size
        resource.drop(variant)
        resource.variants[variant] = entry
        resource.size += entry.size
        while len(resource.variants) > self._max_variants:
            resource.drop_oldest()
        self.size += resource.size - before
        self._resources.move_to_end(key)
        while self.size > self._max_bytes:
            oldest = next(iter(self._resources))
            if oldest == key:
                self.size -= resource.size
                resource.drop_oldest()
                self.size += resource.size
            else:
                self.forget(oldest)

    def forget(self, key: str) -> None:
        """Drop all variants of a URL."""
        resource = self._resources.pop(key, None)
        if resource is not None:
            self.size -= resource.size


# KEYS: the URL. ARGV: names of Vary, variant, entry, milliseconds, most variants. One hash for each URL: what belongs
# together goes together, and no index can be out of step.
_STORE = """
local key, vary, variant, ttl = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[4])
local full = redis.call('HLEN', key) > tonumber(ARGV[5]) and redis.call('HEXISTS', key, variant) == 0
if full or redis.call('HGET', key, 'vary') ~= vary then
    redis.call('DEL', key)
end
redis.call('HSET', key, 'vary', vary, variant, ARGV[3])
redis.call('PEXPIRE', key, math.max(ttl, redis.call('PTTL', key)))
"""


class RedisStore:
    """Keeps responses in Redis until they expire. While Redis is away nothing is found and nothing stored."""

    def __init__(self, link: RedisLink, prefix: str, max_variants: int) -> None:
        self._link = link
        self._prefix = prefix
        self._max_variants = max_variants
        self._store = link.client.register_script(_STORE)

    async def find(self, key: str, variant_of: VariantOf) -> Entry | None:
        """Return the stored response, fresh or not."""
        name = f"{self._prefix}:{key}"
        client = self._link.client

        async def ask() -> bytes | None:
            plain = variant_of(())
            vary, found = await client.hmget(name, ["vary", plain])
            if not vary:
                return _bytes(found)
            names = tuple(_bytes(vary).decode("ascii", "replace").split(","))
            return _bytes(await client.hget(name, variant_of(names)))

        try:
            raw = await self._link.ask(ask)
        except StoreUnavailable:
            return None
        return unpacked(raw) if raw else None

    async def store(self, key: str, vary: Vary, variant: str, entry: Entry) -> None:
        """Keep a response as long as it is fresh."""
        left = int((entry.lifetime - entry.age_at(steady_clock.steady_time())) * 1000)
        if left <= 0:
            return
        arguments: Sequence[str | bytes | int] = (",".join(vary), variant, packed(entry), left, self._max_variants)
        try:
            await self._link.ask(lambda: self._store([f"{self._prefix}:{key}"], list(arguments)))
        except StoreUnavailable:
            return

    async def forget(self, key: str) -> None:
        """Drop all variants of a URL."""
        try:
            await self._link.ask(lambda: self._link.client.unlink(f"{self._prefix}:{key}"))
        except StoreUnavailable:
            return

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""
