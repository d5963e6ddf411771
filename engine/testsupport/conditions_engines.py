"""Runs a condition in each of the two CEL engines; shared by the condition tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from policy_engine.sdk import Headers, Request
from policy_engine.worker.conditions import celcpp, celpy
from policy_engine.worker.conditions.condition import (
    Condition,
    ConditionError,
    ConditionRefused,
    Engine,
    compile_condition,
)
from testsupport.conditions_corpus import ERROR, REFUSED, Outcome, sample_request, sample_response

ENGINES: list[Engine] = [celcpp, celpy]
"""The engine of choice and the second opinion."""
both = pytest.mark.parametrize("engine", ENGINES, ids=lambda one: one.NAME)


def compiled(text: str, engine: Engine = celcpp) -> Condition:
    """Compile for a policy that has response hooks only, so that every variable may be used; the engine evaluates."""
    return compile_condition(text, phase_has_response=True, engine=engine, direct=False)


def outcome(text: str, engine: Engine) -> Outcome:
    """Return what `text` gives on the corpus's sample request."""
    try:
        condition = compiled(text, engine)
    except ConditionRefused:
        return REFUSED
    try:
        return condition.evaluate(sample_request(), sample_response())
    except ConditionError:
        return ERROR


def request_with(metadata: Mapping[str, Any] | None = None, **headers: str | bytes) -> Request:
    """Return a GET request; an underscore in a header's name stands for a hyphen."""
    values = {name.replace("_", "-"): value for name, value in headers.items()}
    path = values.pop("path", "/")
    return Request(Headers.of({":path": path, ":method": "GET", **values}), metadata=dict(metadata or {}))
