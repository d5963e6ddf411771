"""Answers that are kept for as long as they may be, and one call for each question however many ask it at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
_RETRY_SECONDS = 1.0
"""After a call ahead of an answer's end that failed, before the next one."""


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """An answer and how long it may be used, in seconds; 0 for those only who wait for it now.

    After `refresh_after` seconds the next one to ask gets it still, and starts a new call. `cheap` marks an answer that
    anybody can have as many of as they like (a token that is not valid): those are kept apart, so that they push out
    no others.
    """

    value: T
    seconds: float
    refresh_after: float | None = None
    cheap: bool = False


class Remembered(Generic[T]):
    """Up to `most` answers, and as many cheap ones; safe for use from any thread. Keys are hashes, never secrets."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: tuple[dict[bytes, tuple[float, Kept[T]]], ...] = ({}, {})
        self._pending: dict[bytes, Future[Kept[T]]] = {}
        self._retry_at: dict[bytes, float] = {}

    def find(self, key: bytes, call: Callable[[], Future[Kept[T]]]) -> T | Future[Kept[T]]:
        """Return the answer that is kept, or the call under way, started with `call` if there is none."""
        with self._lock:
            found = self._fresh(key)
            if found is not None:
                since, kept = found
                if kept.refresh_after is None or key in self._pending:
                    return kept.value
                if self._clock() < self._retry_at.get(key, since + kept.refresh_after):
                    return kept.value
            started = self._pending.get(key)
            if started is None:
                started = self._pending[key] = call()
                begun = True
            else:
                begun = False
        if begun:
            started.add_done_callback(lambda done: self._done(key, done))
        return started if found is None else found[1].value

    def forget(self, key: bytes) -> None:
        """Keep the answer no longer."""
        with self._lock:
            self._retry_at.pop(key, None)
            for kept in self._kept:
                kept.pop(key, None)

    def _fresh(self, key: bytes) -> tuple[float, Kept[T]] | None:
        for kept in self._kept:
            found = kept.get(key)
            if found is not None:
                if self._clock() < found[0] + found[1].seconds:
                    return found
                del kept[key]
                self._retry_at.pop(key, None)
        return None

    def _done(self, key: bytes, done: Future[Kept[T]]) -> None:
        with self._lock:
            self._pending.pop(key, None)
            self._retry_at.pop(key, None)
            if done.exception() is not None:
                if any(key in kept for kept in self._kept):
                    self._retry_at[key] = self._clock() + _RETRY_SECONDS
                return
            answer = done.result()
            for kept in self._kept:
                kept.pop(key, None)
            if answer.seconds <= 0 or not self._most:
                return
            place = self._kept[answer.cheap]
            while len(place) >= self._most:
                oldest = next(iter(place))
                del place[oldest]
                self._retry_at.pop(oldest, None)
            place[key] = (self._clock(), answer)
