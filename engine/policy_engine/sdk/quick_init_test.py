"""Actions are made quickly, and are frozen dataclasses all the same."""

from __future__ import annotations

import copy
import inspect
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from policy_engine.sdk import RequestMutation, ResponseMutation

ACTIONS = (RequestMutation, ResponseMutation)


@pytest.mark.parametrize("action", ACTIONS)
def test_it_cannot_be_changed(action: Any) -> None:
    made = action(set_headers={"a": "b"})
    assert type(made) is action
    for name in ("body", "no_such_field", "__class__"):
        with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
            setattr(made, name, b"x")
    with pytest.raises(FrozenInstanceError):
        del made.body
    assert made.body is None


@pytest.mark.parametrize("action", ACTIONS)
def test_every_field_has_what_was_given_or_its_default(action: Any) -> None:
    plain, full = action(), action(**{one.name: one.name for one in fields(action)})
    assert [getattr(full, one.name) for one in fields(action)] == [one.name for one in fields(action)]
    assert plain == action() != full
    assert replace(full, body=b"y").body == b"y"
    assert copy.copy(full) == full
    assert list(inspect.signature(action).parameters) == [one.name for one in fields(action)]


@pytest.mark.parametrize("action", ACTIONS)
def test_a_mistake_is_told_of_the_class_that_was_called(action: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"{action.__name__}.__init__\(\) got an unexpected keyword argument 'hedaers'"
    ):
        action(hedaers={})
    with pytest.raises(TypeError, match="positional"):
        action({})
