"""The supervisor's part of the live trace: who listens, and what all worker processes send for each of them."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from policy_engine.explain.live import Filter
from policy_engine.processes.channel import Message

MOST_LISTENERS = 16
MOST_WAITING = 1000
"""Records that wait for one listener; more are dropped, and counted."""
MOST_CHARACTERS = 8 << 20
"""Nor do records wait with more than so many characters of bodies, for one listener."""


Tell = Callable[[str, Message], Awaitable[None]]


class TooManyListeners(RuntimeError):
    """There are as many listeners as there may be."""


class Listener:
    """One listener; `take` gives what has come for it since."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._waiting: deque[dict[str, Any]] = deque()
        self._dropped = 0
        self._characters = 0
        self._came = asyncio.Event()

    def add(self, record: dict[str, Any]) -> None:
        """A record has come."""
        characters = _of_bodies(record)
        if len(self._waiting) >= MOST_WAITING or self._characters + characters > MOST_CHARACTERS:
            self.drop(1)
            return
        self._characters += characters
        self._waiting.append(record)
        self._came.set()

    def drop(self, count: int) -> None:
        """So many records were left out."""
        self._dropped += count
        self._came.set()

    async def take(self, seconds: float) -> tuple[list[dict[str, Any]], int]:
        """Return the records that wait and how many were dropped, after at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._came.wait()
        except TimeoutError:
            return [], 0
        self._came.clear()
        records, dropped = list(self._waiting), self._dropped
        self._waiting.clear()
        self._dropped = self._characters = 0
        return records, dropped


class TraceHub:
    """`tell` gives a message to every worker process, those that will be started included, until `withdraw`."""

    def __init__(self, tell: Tell, withdraw: Tell) -> None:
        self._tell = tell
        self._withdraw = withdraw
        self._listeners: dict[int, Listener] = {}
        self._numbers = itertools.count(1)

    async def listen(self, wanted: Filter) -> Listener:
        """Return a listener for whom every worker process records; raises TooManyListeners or ConditionRefused."""
        wanted.condition()
        if len(self._listeners) >= MOST_LISTENERS:
            raise TooManyListeners(f"{MOST_LISTENERS} listeners are connected, which is the most there may be")
        listener = Listener(next(self._numbers))
        self._listeners[listener.number] = listener
        message = {"number": listener.number, "route": wanted.route, "where": wanted.where, "bodies": wanted.body_limit}
        try:
            await self._tell(_key(listener), {"trace": message})
        except BaseException:
            await self.leave(listener)
            raise
        return listener

    async def leave(self, listener: Listener) -> None:
        """The listener is gone."""
        if self._listeners.pop(listener.number, None) is not None:
            await self._withdraw(_key(listener), {"untrace": listener.number})

    def heard(self, message: Message) -> None:
        """A worker process sent records."""
        for numbers, record in message["traced"]:
            for number in numbers:
                if number in self._listeners:
                    self._listeners[number].add(record)
        if message["dropped"]:
            for listener in self._listeners.values():
                listener.drop(message["dropped"])


def _of_bodies(record: dict[str, Any]) -> int:
    return sum(len((record.get(side) or {}).get("body") or "") for side in _MESSAGES)


_MESSAGES = ("request", "sent", "response", "answer")


def _key(listener: Listener) -> str:
    return f"trace {listener.number}"
