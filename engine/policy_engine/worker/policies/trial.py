"""Policies constructed on trial, so that parameters only a policy itself can judge are judged before activation.

A separate module because it runs authors' code while configuration is checked: as the engine will run it, bounded in
time, and closed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from policy_engine.documents.error_text import error_text
from policy_engine.limits import CONSTRUCTION_SECONDS
from policy_engine.sdk import ParameterError, Policy
from policy_engine.worker.policies.closing import close_now
from policy_engine.worker.policies.construction import Overrun, construct

if TYPE_CHECKING:  # a process that tries policies has no use for schemas
    from policy_engine.worker.policies.registry import PolicyDefinition

_MOST_OVERRUNS = 3
"""Policies of one trial that may hang before the rest is not tried any more: a load has to end."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A policy to construct with these parameters, which satisfy its schema."""

    definition: PolicyDefinition
    parameters: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a policy could not be constructed; `pointer` leads into its parameters, and may be empty.

    `expected` is True when the policy refused its parameters, False when it failed in a way its author did not plan.
    """

    reason: str
    pointer: str = ""
    expected: bool = True


TryOne = Callable[[Trial, float], Refusal | None]
"""Constructs and closes one policy, which may take so many seconds; raises Overrun."""


def try_here(trial: Trial, seconds: float) -> Refusal | None:
    """Construct and close a policy in this process; raises Overrun."""
    return make_and_close(trial.definition.policy_class, trial.parameters, seconds)


def construct_on_trial(
    trials: Sequence[Trial], seconds: float = CONSTRUCTION_SECONDS, try_one: TryOne = try_here
) -> list[Refusal | None]:
    """Construct and close each policy; return for each why it was refused, None where it was not.

    A constructor may take `seconds`, as in the engine.
    """
    refusals: list[Refusal | None] = []
    overruns = 0
    for trial in trials:
        if overruns >= _MOST_OVERRUNS:
            refusals.append(Refusal(f"was not tried, because {overruns} others hang in their constructors"))
            continue
        try:
            refusals.append(try_one(trial, seconds))
        except Overrun as error:
            overruns += 1
            reason = f"its constructor {error}; it must not wait for what may never come (no loops, no network)"
            refusals.append(Refusal(reason, expected=False))
    return refusals


def make_and_close(
    policy_class: type[Policy], parameters: Mapping[str, Any], seconds: float, made: Callable[[], None] = lambda: None
) -> Refusal | None:
    """Return why a policy with these parameters is refused, None when it is not; raises Overrun.

    `made` is called between the making and the closing.
    """
    try:
        policy = construct(policy_class, deepcopy(dict(parameters)), seconds)
    except ParameterError as error:
        return Refusal(error.message, error.path)
    except Overrun:
        raise
    except (Exception, SystemExit) as error:
        return Refusal(f"failed in its constructor with {error_text(error)}", expected=False)
    made()
    try:
        close_now(policy)
    except Overrun as error:
        return Refusal(f"could be constructed but not closed: close {error}", expected=False)
    except (Exception, SystemExit) as error:
        return Refusal(f"could be constructed but not closed: {error_text(error)}", expected=False)
    return None
