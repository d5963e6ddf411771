"""The live trace in a worker process: who listens, which requests they want, and what waits to be sent to them.

Bounded: what is more than `MOST_WAITING`, and than `PER_SECOND` after a while, is not recorded at all, and counted. To
record a request takes some 0.3 ms of the event loop.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from policy_engine.explain.recorder import Ended, Wanted
from policy_engine.sdk import Request, Response
from policy_engine.worker.chains.route_patterns import RoutePattern
from policy_engine.worker.conditions.condition import Condition, ConditionError, compile_condition

MOST_WAITING = 256
PER_SECOND = 200.0
MOST_BODY = 64 << 10
"""Characters of a body that a listener may ask for."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which requests a listener wants: by route key (`*` stands for anything) and by a condition; empty for all."""

    route: str = ""
    where: str = ""
    body_limit: int = 0

    def condition(self) -> Condition | None:
        """Return the condition; raises ConditionRefused."""
        return compile_condition(self.where, phase_has_response=True) if self.where else None


@dataclass(frozen=True, slots=True)
class _Listener:
    number: int
    filter: Filter
    condition: Condition | None

    def may_want(self, request: Request) -> bool:
        if self.filter.route and not RoutePattern.of(self.filter.route).matches(request.route):
            return False
        return self.condition is None or self.condition.decided_late or self.holds(request, None)

    def wants(self, ended: Ended) -> bool:
        late = self.condition is not None and self.condition.decided_late
        return not late or self.holds(ended.request, ended.response)

    def holds(self, request: Request, response: Response | None) -> bool:
        try:
            return self.condition is None or self.condition.evaluate(request, response)
        except ConditionError:
            return False  # as a filter it does not hold where it cannot be answered


class LiveTrace:
    """Wants the requests of all listeners; `ready` is called when something waits to be taken."""

    def __init__(self, worker: int, ready: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = float(MOST_WAITING)
        self._since = clock()
        self._worker = worker
        self._ready = ready
        self._listeners: dict[int, _Listener] = {}
        self._waiting: deque[tuple[list[int], dict[str, Any]]] = deque()
        self._dropped = 0

    @property
    def watching(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def listen(self, number: int, wanted: Filter) -> None:
        """Add listener `number`; raises ConditionRefused."""
        self._listeners[number] = _Listener(number, wanted, wanted.condition())

    def leave(self, number: int) -> None:
        """Listener `number` is gone."""
        self._listeners.pop(number, None)
        if not self._listeners:
            self._waiting.clear()
            self._dropped = 0

    def wants(self, request: Request) -> Wanted | None:
        """See `Watcher`."""
        found = [one for one in self._listeners.values() if one.may_want(request)]
        if not found:
            return None
        if len(self._waiting) >= MOST_WAITING or not self._may_record():
            self.dropped()
            return None
        return Wanted(partial(self._ended, found), max(one.filter.body_limit for one in found))

    def _may_record(self) -> bool:
        now = self._clock()
        self._left = min(float(MOST_WAITING), self._left + (now - self._since) * PER_SECOND)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def dropped(self) -> None:
        """See `Watcher`."""
        self._dropped += 1
        self._ready()

    def take(self, most: int) -> tuple[list[tuple[list[int], dict[str, Any]]], int]:
        """Return up to `most` records that wait, each with its listeners, and how many were dropped since."""
        taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        dropped, self._dropped = self._dropped, 0
        return taken, dropped

    def _ended(self, listeners: list[_Listener], ended: Ended) -> None:
        numbers = [one.number for one in listeners if one.number in self._listeners and one.wants(ended)]
        if not numbers:
            return
        if len(self._waiting) >= MOST_WAITING:
            self.dropped()
            return
        ended.record.worker = self._worker
        self._waiting.append((numbers, ended.record.as_document()))
        self._ready()
