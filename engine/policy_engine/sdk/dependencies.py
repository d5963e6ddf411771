"""Servers that policies ask (a store, a key set): whether they answer, as metrics and `/readyz` tell it.

A separate module because an outage of such a server is no failure of the engine: what it costs is decided by each
chain's `failure_mode`, and all the engine can do is to say so.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from weakref import WeakValueDictionary

_LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class DependencyState:
    """What is known of a server. `up` is None when it has not been asked yet; `failing_seconds` is 0 while it is up.

    `errors` counts what it did not answer, `reason` is why the last of them failed.
    """

    kind: str
    name: str
    up: bool | None
    failing_seconds: float
    errors: int
    reason: str


class Dependency:
    """One server as this process knows it; whoever asks it says what came of it. Safe for use from any thread."""

    __slots__ = ("__weakref__", "_errors", "_failing_since", "_lock", "_reason", "_up", "kind", "name")

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        self._lock = threading.Lock()
        self._up: bool | None = None
        self._failing_since = 0.0
        self._errors = 0
        self._reason = ""

    def answered(self) -> None:
        """Note an answer."""
        self._up = True

    def failed(self, reason: str) -> None:
        """Note that it did not answer; `reason` is shown to operators, and holds no secret."""
        with self._lock:
            if self._up is not False:
                self._up, self._failing_since = False, time.monotonic()
            self._errors += 1
            self._reason = " ".join(reason.split())[:_LONGEST_REASON]

    @property
    def state(self) -> DependencyState:
        """What is known of it now."""
        with self._lock:
            seconds = time.monotonic() - self._failing_since if self._up is False else 0.0
            return DependencyState(self.kind, self.name, self._up, seconds, self._errors, self._reason)


_known: WeakValueDictionary[tuple[str, str], Dependency] = WeakValueDictionary()
_lock = threading.Lock()


def dependency(kind: str, name: str) -> Dependency:
    """Return the one record of this server in this process, to be kept by whoever asks it.

    `kind` is a word such as `redis`, `name` says which one, as an address without credentials: both are shown in
    metrics and in `/readyz`. The record is forgotten with its last user.
    """
    with _lock:
        found = _known.get((kind, name))
        if found is None:
            found = _known[kind, name] = Dependency(kind, name)
        return found


def dependency_states() -> list[DependencyState]:
    """Return what is known of every server that policies of this process ask, ordered by kind and name."""
    with _lock:
        known = list(_known.values())
    return sorted((one.state for one in known), key=lambda state: (state.kind, state.name))


def worst_states(states: list[DependencyState]) -> list[DependencyState]:
    """Return one state for each server of what several processes know: the longest outage, and all errors."""
    merged: dict[tuple[str, str], DependencyState] = {}
    for one in states:
        key = (one.kind, one.name)
        other = merged.get(key)
        merged[key] = one if other is None else _worse(one, other)
    return [merged[key] for key in sorted(merged)]


def _worse(one: DependencyState, other: DependencyState) -> DependencyState:
    worse = max(one, other, key=lambda state: (state.up is False, state.failing_seconds, state.up is True))
    return DependencyState(one.kind, one.name, worse.up, worse.failing_seconds, one.errors + other.errors, worse.reason)
