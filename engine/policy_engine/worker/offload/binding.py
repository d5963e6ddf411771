"""Joins a policy's `offload` with the helpers of its worker process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from policy_engine.sdk import Policy
from policy_engine.worker.offload import frames
from policy_engine.worker.offload.helpers import Helpers
from policy_engine.worker.offload.job import Recipe, Unpicklable, call_of, explained


@dataclass(frozen=True, slots=True)
class Away:
    """Runs the calls of one policy in helpers; `seconds` is the timeout of its chain entry."""

    helpers: Helpers
    recipe: Recipe
    policy: Policy
    seconds: float

    async def __call__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Return `function(*arguments)` as a helper's copy of the policy computes it."""
        name, sent = call_of(self.policy, function)
        try:
            parts = frames.encode((name, sent, *arguments))
        except Unpicklable as error:
            raise explained(error, function) from None
        return await self.helpers.call(self.recipe, parts, self.seconds)
