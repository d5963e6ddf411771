"""One Redis and how it is asked: never longer than a set time, and not at all while it is known to be away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from policy_redis.circuit import Circuit

_Answer = TypeVar("_Answer")
logger = logging.getLogger("policy_redis")


class StoreUnavailable(Exception):
    """Redis did not answer in time, refused, or is not asked because it failed just now; the text holds no secret."""


class RedisLink:
    """A client of one Redis. `where` is its address for logs; `timeout` bounds each `ask` as a whole, in seconds."""

    def __init__(self, where: str, options: dict[str, Any], *, timeout: float, connections: int, pause: float) -> None:
        self._where = where
        self._timeout = timeout
        self._circuit = Circuit(pause)
        self.pool = BlockingConnectionPool(
            max_connections=connections,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # Once, at once: a pooled connection may be one of before Redis was started again.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            **options,
        )
        self.client: Redis = Redis(connection_pool=self.pool)

    async def ask(self, question: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Return the answer to `question`, which uses `client` or `pool`; raises StoreUnavailable."""
        if not self._circuit.allows():
            raise StoreUnavailable("Redis failed just now and is not asked")
        try:
            async with asyncio.timeout(self._timeout):
                answer = await question()
        except (RedisError, OSError, TimeoutError) as error:
            kind = _kind(error)
            if self._circuit.failed():
                logger.warning("Redis at %s fails (%s); it is tried now and then", self._where, kind)
            raise StoreUnavailable(f"Redis at {self._where} fails ({kind})") from None
        if self._circuit.succeeded():
            logger.info("Redis at %s answers again", self._where)
        return answer

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()
        await self.pool.disconnect()

    def __repr__(self) -> str:
        return f"RedisLink({self._where})"


def _kind(error: BaseException) -> str:
    """Return the class of what went wrong first. The class alone: the text of an error may quote what was sent."""
    # A time limit is kept by a cancellation, which explains nothing.
    while (cause := error.__cause__ or error.__context__) and not isinstance(cause, asyncio.CancelledError):
        error = cause
    return type(error).__name__
