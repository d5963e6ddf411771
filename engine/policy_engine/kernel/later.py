"""Replies that are known now or when a policy has been awaited, without a task where none waits."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any, TypeVar, cast

from policy_engine.kernel.stream import Replies

_Value = TypeVar("_Value")

Result = Replies | Coroutine[Any, Any, Replies]


def then(value: _Value | Coroutine[Any, Any, _Value], done: Callable[[_Value], Result]) -> Result:
    """Go on with `done` now, or when what gives its value has been awaited."""
    return _later(value, done) if isinstance(value, CoroutineType) else done(cast(_Value, value))


async def _later(value: Coroutine[Any, Any, _Value], done: Callable[[_Value], Result]) -> Replies:
    result = done(await value)
    return result if result is None or isinstance(result, bytes | tuple) else await result
