"""Policies constructed on trial, so that parameters only a policy itself can judge are judged before activation.

It is its own room because it runs authors' code while configuration is checked: on a thread and an event loop of its
own, so that a constructor may do what it may do in the engine and nothing of it outlives the trial.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from policy_engine.sdk import ParameterError
from policy_engine.worker.registry import PolicyDefinition

_CLOSE_TIMEOUT = 5.0


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


def construct_on_trial(trials: Sequence[Trial]) -> list[Refusal | None]:
    """Construct and close each policy; return for each why it was refused, None where it was not."""
    refusals: list[Refusal | None] = []

    async def run() -> None:
        for trial in trials:
            refusals.append(await _construct(trial))

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="policy-trial", daemon=True)
    thread.start()
    thread.join()
    missing = len(trials) - len(refusals)
    return refusals + [Refusal("was not tried, because the trial ended early", expected=False)] * missing


async def _construct(trial: Trial) -> Refusal | None:
    try:
        policy = trial.definition.policy_class(deepcopy(dict(trial.parameters)))
    except ParameterError as error:
        return Refusal(error.message, error.path)
    except (Exception, SystemExit) as error:
        return Refusal(f"failed in its constructor with {describe(error)}", expected=False)
    try:
        closing = policy.close()
        if closing is not None:
            await asyncio.wait_for(closing, _CLOSE_TIMEOUT)
    except (Exception, SystemExit) as error:
        return Refusal(f"could be constructed but not closed: {describe(error)}", expected=False)
    return None


def describe(error: BaseException, *, message: bool = True) -> str:
    """Return an exception as `Type: message (file:line)`, the place being the innermost one."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    said = f": {error}" if message and str(error) else ""
    return f"{type(error).__name__}{said}{place}"
