"""Threads for calls that block, as many as are needed up to a bound, and no more waiting than another.

A pool of its own for each server, so that a slow one holds up no calls to others. The threads are daemons: a call that
hangs does not keep a process from ending, as those of `concurrent.futures` would.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
_IDLE_SECONDS = 10.0


class Busy(Exception):
    """As many calls as may are under way and waiting."""


class Threads:
    """Runs up to `most` jobs at once, while up to `waiting` more wait; safe for use from any thread."""

    def __init__(self, most: int, waiting: int) -> None:
        self._most, self._waiting = most, waiting
        self._ready = threading.Condition()
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._threads = self._idle = 0

    def start(self, job: Callable[[], T]) -> Future[T]:
        """Return what will have the job's result, or what it raised; raises Busy."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # one that gives up must not cancel it for others
        with self._ready:
            if len(self._jobs) >= self._waiting + self._idle:
                raise Busy
            self._jobs.append((job, future))
            if len(self._jobs) > self._idle and self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._work, name="http-call", daemon=True).start()
            self._ready.notify()
        return future

    def _work(self) -> None:
        while True:
            with self._ready:
                if not self._jobs:
                    self._idle += 1
                    self._ready.wait_for(lambda: bool(self._jobs), _IDLE_SECONDS)
                    self._idle -= 1
                if not self._jobs:
                    self._threads -= 1
                    return
                job, future = self._jobs.popleft()
            try:
                found = job()
            except BaseException as error:  # whoever waits must not wait for ever
                future.set_exception(error)
            else:
                future.set_result(found)
            del job, future
