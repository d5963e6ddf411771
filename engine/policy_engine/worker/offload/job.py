"""What is sent to a helper: how to make the policy again, what to call on it, and what came of it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from policy_engine.sdk import Policy

_keys = count()


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a helper makes a policy of one chain entry for itself: the same code, the same parameters.

    `key` tells instances of one worker process apart. Parameters may hold secrets: they go over a private socket only.
    """

    key: int
    directory: str
    module: str
    class_name: str
    label: str
    parameters: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, directory: str, entrypoint: str, label: str, parameters: Mapping[str, Any]) -> Recipe:
        """Return the recipe for a policy that was loaded from `directory`."""
        module, _, class_name = entrypoint.partition(":")
        return cls(next(_keys), directory, module, class_name, label, dict(parameters))


@dataclass(frozen=True, slots=True)
class Record:
    """A log record that a policy wrote in a helper, to be logged by the worker process."""

    logger: str
    level: int
    message: str
    extra: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """What a helper says beside the result: whether it is an error, what was logged, and the memory it holds."""

    failed: bool
    logged: tuple[Record, ...]
    resident_bytes: int


class CannotOffload(TypeError):
    """The call cannot be sent to another process; the message says what can."""


def call_of(policy: Policy, function: Callable[..., Any]) -> tuple[str, Any]:
    """Return how a helper finds `function`: by the name of a method of its own policy, or a function of a module."""
    if getattr(function, "__self__", None) is policy:
        return function.__name__, None
    return "", function


def explained(error: Exception, function: Callable[..., Any]) -> CannotOffload:
    """Return the error for what pickle refused."""
    name = getattr(function, "__qualname__", repr(function))
    return CannotOffload(
        f"offload({name}, …) cannot run in another process ({type(error).__name__}: {error}); what can: a method of "
        "this policy or a function of a module, with bytes, text, numbers and plain containers of them as arguments"
    )


Unpicklable = (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError)
"""What pickle raises for values it cannot write."""
