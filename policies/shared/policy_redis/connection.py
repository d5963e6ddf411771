"""How Redis is asked: never longer than a set time, and not at all while it is known to be away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.exceptions import RedisError

from policy_engine.sdk import dependency
from policy_redis.circuit import Circuit

_Answer = TypeVar("_Answer")
logger = logging.getLogger("policy_redis")
_REMINDER_S = 60.0
_PATIENCE_S = 0.05
"""A server that has not answered for so long is slow, whoever gave up waiting."""


class StoreUnavailable(Exception):
    """Redis did not answer in time, refused, or is not asked because it failed just now; the text holds no secret."""


class RedisLink:
    """A client of one Redis, or of one cluster.

    `where` is its address for logs; `client` is redis-py's, connected to nothing yet; `timeout` bounds each `ask` as a
    whole, in seconds; `close_client` ends all connections.
    """

    def __init__(
        self, where: str, client: Any, *, timeout: float, pause: float, close_client: Callable[[], Awaitable[None]]
    ) -> None:
        self._where = where
        self._timeout = timeout
        self._circuit = Circuit(pause)
        self._close_client = close_client
        self._outage = _Outage(where)
        self._dependency = dependency("redis", where)
        self.client = client

    async def ask(self, question: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Return the answer to `question`, which uses `client`; raises StoreUnavailable."""
        if not self._circuit.allows():
            self._outage.refused()
            raise StoreUnavailable("Redis failed just now and is not asked")
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                answer = await question()
        except asyncio.CancelledError:
            # By a timeout of the policy that is shorter than ours, or a client that left: neither waits for an answer.
            if time.monotonic() - began >= min(_PATIENCE_S, self._timeout / 4):
                self._failed("nobody waited for its answer any longer")
            raise
        except (RedisError, OSError, TimeoutError) as error:
            kind = _kind(error)
            self._failed(kind)
            raise StoreUnavailable(f"Redis at {self._where} fails ({kind})") from None
        self._circuit.succeeded()
        self._outage.over()
        self._dependency.answered()
        return answer

    def _failed(self, kind: str) -> None:
        self._circuit.failed()
        self._outage.failed(kind)
        self._dependency.failed(kind)

    async def close(self) -> None:
        """Close all connections."""
        await self._close_client()

    def __repr__(self) -> str:
        return f"RedisLink({self._where})"


class _Outage:
    """Tells the log that Redis fails: at the first failure, once a minute with their number, and when it is over."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._count = 0
        self._began = 0.0
        self._next = float("-inf")

    def failed(self, kind: str) -> None:
        """Note a question that failed."""
        now = time.monotonic()
        if not self._count:
            self._began = now
        self._count += 1
        if now >= self._next:
            self._next = now + _REMINDER_S
            logger.warning("Redis at %s fails (%s); it is tried now and then", self._where, kind, extra=self._facts())

    def refused(self) -> None:
        """Note a question that was not asked."""
        self._count += 1

    def over(self) -> None:
        """Note an answer."""
        if self._count:
            logger.warning("Redis at %s answers again", self._where, extra=self._facts())
            self._count, self._next = 0, min(self._next, time.monotonic() + 1.0)

    def _facts(self) -> dict[str, Any]:
        seconds = round(time.monotonic() - self._began, 1)
        return {"event": "store_unavailable", "fields": {"unanswered": self._count, "seconds": seconds}}


def _kind(error: BaseException) -> str:
    """Return the class of what went wrong first. The class alone: the text of an error may quote what was sent."""
    # A time limit is kept by a cancellation, which explains nothing.
    while (cause := error.__cause__ or error.__context__) and not isinstance(cause, asyncio.CancelledError):
        error = cause
    return type(error).__name__
