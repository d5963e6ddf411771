"""Expressions that policies compile: values of every kind, and refusals and failures that say what, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from policy_engine.sdk import ExpressionFailed, ParameterError, Policy
from policy_engine.sdk.testing import request, response
from policy_engine.worker.conditions import celcpp, celpy
from policy_engine.worker.conditions.condition import Engine
from policy_engine.worker.conditions.expressions import compile_value

ENGINES: list[Any] = [celcpp, celpy]
METADATA = {"jwt": {"sub": "ann", "groups": ["a", "b"], "level": 3, "none": None, "deep": {"x": [True]}}}


@pytest.fixture(params=ENGINES, ids=lambda one: one.NAME)
def value_of(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    engine: Engine = request.param

    def evaluate(text: str) -> Any:
        return compile_value(text, with_response=False, engine=engine).evaluate(made())

    return evaluate


def made() -> Any:
    return request("GET", "/a?q=1", headers={"x-a": "b"}, metadata=METADATA)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("request.path", "/a"),
        ('"user-" + metadata.jwt.sub', "user-ann"),
        ("metadata.jwt.level + 1", 4),
        ("metadata.jwt.groups", ["a", "b"]),
        ("metadata.jwt.deep", {"x": [True]}),
        ("metadata.jwt.none", None),
        ('request.method == "GET"', True),
        ('"x-b" in request.headers ? request.headers["x-b"] : "none"', "none"),
        ("size(metadata.jwt.groups)", 2),
        ("1.5", 1.5),
    ],
)
def test_values(value_of: Callable[[str], Any], text: str, value: Any) -> None:
    found = value_of(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("metadata.user.name", "no such key in a map"), ('request.headers["x-zz"]', "no such key"), ("1 / 0", "division")],
)
def test_a_failure_says_why_without_the_request(value_of: Callable[[str], Any], text: str, reason: str) -> None:
    with pytest.raises(ExpressionFailed, match=reason) as caught:
        value_of(text)
    assert caught.value.expression == text
    assert "ann" not in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda one: one.NAME)
def test_what_a_client_sends_does_not_make_an_expression_expensive(engine: Engine) -> None:
    text = "request.query.map(a, request.query.map(b, request.target))"
    expression = compile_value(text, with_response=False, engine=engine)
    dear = request("GET", "/?" + "&".join(f"k{number}=1" for number in range(900)))
    with pytest.raises(ExpressionFailed, match="cost too much"):
        expression.evaluate(dear)


class Asks(Policy):
    """Has expressions."""


REFUSED = [
    ("request.pth", "did you mean `request.path`"),
    ("response.status", "is not known when the request is handled"),
    ("nope(request.path)", "unknown function `nope`"),
    ("request.path +", "line 1, column 15"),
    ("  ", "is empty"),
    ('request.path.matches("(")', "not a valid RE2 regular expression"),
    ("request.path + 1", "line 1"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED)
@pytest.mark.parametrize("compiler", [Asks.condition, Asks.expression])
def test_a_policy_refuses_with_pointer_and_place(compiler: Callable[..., Any], text: str, reason: str) -> None:
    with pytest.raises(ParameterError) as caught:
        compiler(Asks({}), text, "/rules/0/when")
    assert caught.value.path == "/rules/0/when"
    assert reason in caught.value.message


def test_a_condition_must_be_true_or_false_and_an_expression_need_not() -> None:
    assert Asks({}).expression("request.path").evaluate(made()) == "/a"
    with pytest.raises(ParameterError, match="must be true or false"):
        Asks({}).condition("request.path", "/when")
    condition = Asks({}).condition('metadata.jwt.sub == "ann"', "/when")
    assert condition.evaluate(made()) is True
    with pytest.raises(ExpressionFailed):
        condition.evaluate(request())


def test_the_response_is_there_for_those_who_say_so() -> None:
    expression = Asks({}).expression("string(response.status)", with_response=True)
    assert expression.evaluate(made(), response(404)) == "404"
    with pytest.raises(ExpressionFailed, match="no response"):
        expression.evaluate(made())
    assert Asks({}).condition("response.status > 399", with_response=True).evaluate(made(), response(404))
