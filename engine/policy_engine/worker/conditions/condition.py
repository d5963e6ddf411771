"""Conditions: when a policy instance runs (R-10). The one door to the CEL engines for the rest of the worker.

`cel-expr-python` evaluates; where it has no wheel, `cel-python` does (slower, and type errors show at the first request
instead of at load). See `docs/conditions.md` for what an operator may write.
"""

from __future__ import annotations

from typing import Any, Protocol

from policy_engine.sdk import Request, Response
from policy_engine.worker.conditions.cost import Cost, cost_of
from policy_engine.worker.conditions.direct import Evaluate, compile_direct, compile_direct_text
from policy_engine.worker.conditions.source import (
    ConditionRefused,
    EvaluationFailed,
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

_SHOWN_LENGTH = 200


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

    def compile_value(self, source: Source) -> ValueProgram | None:
        """Compile an expression of any type; None when it is not one by itself."""

    def compile_source(self, source: Source, *, text: bool = False) -> Program:
        """Compile a condition, or with `text` an expression for one; raises ConditionRefused."""

    def check_types(self, source: Source, *, text: bool = False) -> None:
        """Hold the attributes that a compiled condition looks up against their types; raises ConditionRefused."""


def _choose_engine() -> Engine:
    try:
        from policy_engine.worker.conditions import celcpp  # noqa: PLC0415 - importing is what may fail
    except ImportError:
        from policy_engine.worker.conditions import celpy  # noqa: PLC0415 - costs 0.3 s, so only when needed

        return celpy
    return celcpp


ENGINE: Engine = _choose_engine()
"""The engine in use; `ENGINE.NAME` belongs into the build info."""


class ConditionError(Exception):
    """Raised when a condition could not be evaluated: counts as a failure of the policy (R-10, R-11).

    `reason` and `expression` hold nothing of the request.
    """

    def __init__(self, reason: str, expression: str) -> None:
        shown = expression if len(expression) <= _SHOWN_LENGTH else expression[:_SHOWN_LENGTH] + "…"
        super().__init__(f"condition failed: {reason}; condition: {shown}")
        self.reason = reason
        self.expression = expression


class Condition:
    """A compiled condition; immutable, usable from several threads at once."""

    __slots__ = ("_cost", "_direct", "_program", "_readers", "text", "uses_metadata", "uses_response")

    def __init__(
        self,
        text: str,
        program: Program,
        readers: dict[str, Reader],
        direct: Evaluate | None = None,
        cost: Cost | None = None,
    ) -> None:
        self.text = text
        self._cost = cost
        self.uses_response = any(name.startswith("response.") for name in readers)
        self.uses_metadata = "metadata" in readers
        self._direct = direct
        self._program = program
        self._readers = tuple(readers.items())

    def evaluate(self, request: Request, response: Response | None = None) -> bool:
        """Tell whether the policy runs; raises ConditionError for a run-time error or a result that is not a bool."""
        try:
            if self._direct is not None:
                return self._direct(request, response)
            variables = {name: read(request, response) for name, read in self._readers}
            if self._cost is not None and not self._cost.within_limit(variables):
                raise EvaluationFailed("it would cost too much with headers or a query of this size")
            return self._program.evaluate(variables)
        except EvaluationFailed as error:
            raise ConditionError(str(error), self.text) from None

    def __repr__(self) -> str:
        return f"Condition({self.text!r})"


def compile_condition(
    text: str, *, phase_has_response: bool, engine: Engine = ENGINE, direct: bool = True
) -> Condition:
    """Compile and type-check a condition (R-10); `direct` False leaves every evaluation to the CEL engine.

    `phase_has_response` is True only for a policy all of whose hooks run in the response phase. `response.*` is
    refused for every other policy: its request hooks run before there is a response, and a condition that cannot be
    answered there would decide about authentication by accident.

    Raises ConditionRefused with every problem found.
    """
    source = read_source(text)
    if not phase_has_response:
        _refuse_response(source)
    if source.problems:
        raise ConditionRefused(source.problems)
    program = engine.compile_source(source)
    engine.check_types(source)
    _check_patterns(source, engine)
    readers = {name: reader(name, keys) for name, keys in source.variables.items()}
    return Condition(text, program, readers, compile_direct(source) if direct else None, cost_of(source))


class TextExpression:
    """A compiled expression for a text, such as the key by which requests are shared out; immutable."""

    __slots__ = ("_cost", "_direct", "_program", "_readers", "text")

    def __init__(self, source: Source, program: Program, *, direct: bool) -> None:
        self.text = source.text
        self._program = program
        self._readers = tuple((name, reader(name, keys)) for name, keys in source.variables.items())
        self._direct = compile_direct_text(source) if direct else None
        self._cost = cost_of(source)

    def evaluate(self, request: Request) -> str | None:
        """Return the text, None where the request does not have what the expression asks for."""
        try:
            if self._direct is not None:
                return self._direct(request, None)
            variables = {name: read(request, None) for name, read in self._readers}
            if self._cost is not None and not self._cost.within_limit(variables):
                return None
            return self._program.text(variables)
        except EvaluationFailed:
            return None


def compile_text(text: str, *, engine: Engine = ENGINE, direct: bool = True) -> TextExpression:
    """Compile and type-check an expression of `request.*` and `metadata` whose value is a text or a whole number.

    Raises ConditionRefused with every problem found.
    """
    source = read_source(text)
    _refuse_response(source)
    if source.problems:
        raise ConditionRefused(source.problems)
    program = engine.compile_source(source, text=True)
    engine.check_types(source, text=True)
    _check_patterns(source, engine)
    return TextExpression(source, program, direct=direct)


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


def _check_patterns(source: Source, engine: Engine) -> None:
    for pattern in source.patterns:
        try:
            engine.compile_source(read_source(f'"".matches({pattern.text})')).evaluate({})
        except (ConditionRefused, EvaluationFailed):
            source.refuse("not a valid RE2 regular expression", pattern.offset)
    if source.problems:
        raise ConditionRefused(source.problems)
