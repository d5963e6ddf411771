"""Bounded thread pools for policies that block; a separate module so that a hung policy stalls nobody but itself.

A timed-out thread cannot be killed, it goes on until its call returns. Each policy version therefore has its own
pool with a fixed number of threads and a bounded queue; when both are full a call is refused at once (R-12).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class PoolFull(Exception):
    """Every thread of the policy's pool is busy and its queue is full."""


class BlockingPool:
    """Threads of one policy version; `threads` run at once, `queue` more may wait."""

    __slots__ = ("_executor", "_places", "name", "queue", "threads")

    def __init__(self, name: str, *, threads: int = 8, queue: int = 64) -> None:
        self.name = name
        self.threads = threads
        self.queue = queue
        self._places = threading.BoundedSemaphore(threads + queue)
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)

    def wrap(self, hook: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Return a hook of the same arguments that runs `hook` in the pool and returns an awaitable."""

        async def run(*args: Any) -> Any:
            if not self._places.acquire(blocking=False):
                raise PoolFull(f"all {self.threads} threads of {self.name} are busy and {self.queue} calls wait")
            future = self._executor.submit(hook, *args)
            future.add_done_callback(lambda _: self._places.release())
            return await asyncio.wrap_future(future)

        return run

    def close(self) -> None:
        """Take no more calls; threads that hang are left to the end of the process."""
        self._executor.shutdown(wait=False, cancel_futures=True)
