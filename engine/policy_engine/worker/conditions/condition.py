"""Conditions: when a policy instance runs (R-10). The one door to the CEL engines for the rest of the worker.

`cel-expr-python` evaluates; where it has no wheel, `cel-python` does (slower, and type errors show at the first request
instead of at load). See `docs/conditions.md` for what an operator may write.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol, cast

from policy_engine.sdk import ExpressionFailed, Request, Response
from policy_engine.worker.conditions.cost import Cost, cost_of
from policy_engine.worker.conditions.direct import Evaluate, compile_direct, compile_direct_text
from policy_engine.worker.conditions.source import (
    ConditionRefused,
    EvaluationFailed,
    Gives,
    Problem,
    Source,
    read_source,
)
from policy_engine.worker.conditions.values import Reader, reader

__all__ = [
    "Condition",
    "ConditionError",
    "ConditionRefused",
    "Problem",
    "TextExpression",
    "check_condition",
    "check_text",
    "compile_condition",
    "compile_text",
    "ENGINE",
]


class Program(Protocol):
    """A condition compiled by an engine."""

    def evaluate(self, variables: dict[str, Any]) -> bool:
        """Return the result; raises EvaluationFailed."""

    def text(self, variables: dict[str, Any]) -> str:
        """Return the result of an expression for a text; raises EvaluationFailed."""


class ValueProgram(Protocol):
    """An expression of any type compiled by an engine."""

    def evaluate(self, variables: dict[str, Any]) -> Any:
        """Return the value as JSON data; raises EvaluationFailed."""


class Engine(Protocol):
    """A CEL implementation."""

    NAME: str

    def compile_value(self, source: Source) -> ValueProgram:
        """Compile an expression of any type; raises ConditionRefused."""

    def compile_source(self, source: Source, *, text: bool = False) -> Program:
        """Compile a condition, or with `text` an expression for one; raises ConditionRefused."""

    def check_types(self, source: Source, *, gives: Gives = "truth") -> None:
        """Hold the attributes that a compiled expression looks up against their types; raises ConditionRefused."""


@cache
def cel_engine() -> Engine:
    """Return the engine in use, which is imported when this is first called."""
    try:
        from policy_engine.worker.conditions import celcpp  # noqa: PLC0415 - importing is what may fail
    except ImportError:
        from policy_engine.worker.conditions import celpy  # noqa: PLC0415 - costs 0.3 s, so only when needed

        return celpy
    return celcpp


class _FirstUse:
    """Stands for the engine in use: a process that compiles no expression does without CEL's memory."""

    def __getattr__(self, name: str) -> Any:
        return getattr(cel_engine(), name)


ENGINE: Engine = cast("Engine", _FirstUse())
"""The engine in use, imported with the first expression; `ENGINE.NAME` belongs into the build info."""


class ConditionError(ExpressionFailed):
    """Raised when a condition could not be evaluated: counts as a failure of the policy (R-10, R-11)."""

    def __init__(self, reason: str, expression: str) -> None:
        super().__init__(reason, expression, "condition")


class Variables:
    """What an expression reads of a request: its variables, as far as it may cost so much."""

    __slots__ = ("_cost", "_readers")

    def __init__(self, source: Source) -> None:
        self._readers: tuple[tuple[str, Reader], ...] = tuple(
            (name, reader(name, keys)) for name, keys in source.variables.items()
        )
        self._cost: Cost | None = cost_of(source)

    def of(self, request: Request, response: Response | None) -> dict[str, Any]:
        """Return the values by name; raises EvaluationFailed."""
        variables = {name: read(request, response) for name, read in self._readers}
        if self._cost is not None and not self._cost.within_limit(variables):
            raise EvaluationFailed("it would cost too much with headers or a query of this size")
        return variables


class Condition:
    """A compiled condition; immutable, usable from several threads at once."""

    __slots__ = ("_evaluate", "_variables", "decided_late", "text", "uses_response")

    def __init__(self, source: Source, evaluate: Evaluate | Program) -> None:
        self.text = source.text
        self.uses_response = any(name.startswith("response.") for name in source.variables)
        # Of a whole exchange: when its request begins, neither the answer nor what policies add to it is known.
        self.decided_late = self.uses_response or "metadata" in source.variables
        self._variables = variables = Variables(source)
        self._evaluate: Evaluate
        if callable(evaluate):
            self._evaluate = evaluate
        else:
            self._evaluate = lambda request, response: evaluate.evaluate(variables.of(request, response))

    def evaluate(self, request: Request, response: Response | None = None) -> bool:
        """Tell whether the policy runs; raises ConditionError for a run-time error or a result that is not a bool."""
        try:
            return self._evaluate(request, response)
        except EvaluationFailed as error:
            raise ConditionError(str(error), self.text) from None

    def __repr__(self) -> str:
        return f"Condition({self.text!r})"


def compile_condition(
    text: str, *, phase_has_response: bool, engine: Engine = ENGINE, direct: bool = True
) -> Condition:
    """Compile and type-check a condition (R-10); `direct` False leaves everything to the CEL engine.

    `phase_has_response` is True only for a policy all of whose hooks run in the response phase. `response.*` is
    refused for every other policy: its request hooks run before there is a response, and a condition that cannot be
    answered there would decide about authentication by accident.

    Raises ConditionRefused with every problem found.
    """
    source = checked_source(text, phase_has_response=phase_has_response)
    evaluate = compile_direct(source) if direct else None
    if evaluate is not None:
        return Condition(source, evaluate)
    program = engine.compile_source(source)
    engine.check_types(source)
    check_patterns(source, engine)
    return Condition(source, program)


def checked_source(text: str, *, phase_has_response: bool) -> Source:
    """Return the text taken apart; raises ConditionRefused with all that is wrong before an engine sees it."""
    source = read_source(text)
    if not phase_has_response:
        _refuse_response(source)
    if source.problems:
        raise ConditionRefused(source.problems)
    return source


class TextExpression:
    """A compiled expression for a text, such as the key by which requests are shared out; immutable."""

    __slots__ = ("_evaluate", "text")

    def __init__(self, text: str, evaluate: Callable[[Request, Response | None], str]) -> None:
        self.text = text
        self._evaluate = evaluate

    def evaluate(self, request: Request) -> str | None:
        """Return the text, None where the request does not have what the expression asks for."""
        try:
            return self._evaluate(request, None)
        except EvaluationFailed:
            return None


def compile_text(text: str, *, engine: Engine = ENGINE, direct: bool = True) -> TextExpression:
    """Compile and type-check an expression of `request.*` and `metadata` whose value is a text or a whole number.

    Raises ConditionRefused with every problem found.
    """
    source = checked_source(text, phase_has_response=False)
    evaluate = compile_direct_text(source) if direct else None
    if evaluate is not None:
        return TextExpression(text, evaluate)
    program = engine.compile_source(source, text=True)
    engine.check_types(source, gives="text")
    check_patterns(source, engine)
    variables = Variables(source)
    return TextExpression(text, lambda request, response: program.text(variables.of(request, response)))


def check_text(text: str, *, engine: Engine = ENGINE) -> list[Problem]:
    """Return what is wrong with an expression for a text, an empty list when it can be used."""
    try:
        compile_text(text, engine=engine)
    except ConditionRefused as refused:
        return refused.problems
    return []


def check_condition(text: str, *, phase_has_response: bool, engine: Engine = ENGINE) -> list[Problem]:
    """Return what is wrong with a condition, an empty list when it can be used."""
    try:
        compile_condition(text, phase_has_response=phase_has_response, engine=engine)
    except ConditionRefused as refused:
        return refused.problems
    return []


def _refuse_response(source: Source) -> None:
    for name in source.variables:
        if name.startswith("response."):
            source.refuse(
                f"`{name}` is not known when the request is handled, and this policy has request hooks; "
                "use request.* or metadata, or a policy that has response hooks only",
                source.text.find("response"),
            )


def check_patterns(source: Source, engine: Engine) -> None:
    """Hold the literal regular expressions against RE2; raises ConditionRefused."""
    for pattern in source.patterns:
        try:
            engine.compile_source(read_source(f'"".matches({pattern.text})')).evaluate({})
        except (ConditionRefused, EvaluationFailed):
            source.refuse("not a valid RE2 regular expression", pattern.offset)
    if source.problems:
        raise ConditionRefused(source.problems)
