"""Which target a request gets: by weight among those that work, then the fallbacks in their order; in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_LONGEST_S = 3600.0
"""What `retry-after` may say at most: no answer of a backend takes it out for longer."""


@dataclass(frozen=True, slots=True)
class Target:
    """A backend, and the model to ask for there; empty for what the client asked for."""

    backend: str
    model: str = ""
    weight: int = 1


@dataclass(slots=True)
class _State:
    failed: int = 0
    until: float = 0.0


class Health:
    """Which targets fail: after `failures` in a row, one is left alone for `cooldown` seconds or longer."""

    def __init__(self, failures: int, cooldown: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures = failures
        self._cooldown = cooldown
        self._clock = clock
        self._states: dict[tuple[str, str], _State] = {}

    def works(self, target: Target) -> bool:
        """Return whether it may be asked; after its time a first request tries."""
        state = self._states.get((target.backend, target.model))
        return state is None or state.until <= self._clock()

    def answered(self, target: Target, *, failed: bool, retry_after: float = 0.0) -> None:
        """Take note of an answer."""
        name = target.backend, target.model
        if not failed:
            self._states.pop(name, None)
            return
        state = self._states.setdefault(name, _State())
        state.failed += 1
        if state.failed >= self._failures:
            state.until = self._clock() + max(self._cooldown, min(retry_after, _LONGEST_S))


def chosen(targets: Sequence[Target], fallbacks: Sequence[Target], health: Health, share: float) -> Target:
    """Return a target; `share`, from 0 up to 1, says where among the weights.

    Where nothing works, the target that is next by weight is asked all the same: better than to refuse.
    """
    working = [one for one in targets if one.weight and health.works(one)]
    if working:
        return _by_weight(working, share)
    return next((one for one in fallbacks if health.works(one)), None) or _by_weight(targets, share)


def _by_weight(targets: Sequence[Target], share: float) -> Target:
    at = share * sum(one.weight for one in targets)
    for one in targets:
        at -= one.weight
        if at < 0:
            return one
    return targets[-1]
