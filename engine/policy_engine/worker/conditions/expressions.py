"""Expressions that policies compile from their parameters: conditions, and expressions that give a value.

Apart from `condition` because a policy's own expression decides nothing for the engine.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from policy_engine.sdk import Expression, ExpressionFailed, Json, Request, Response
from policy_engine.worker.conditions.condition import (
    ENGINE,
    Engine,
    ValueProgram,
    Variables,
    check_patterns,
    checked_source,
    compile_condition,
)
from policy_engine.worker.conditions.source import EvaluationFailed, Source


class ValueExpression:
    """A compiled expression of any type; immutable, usable from several threads at once."""

    __slots__ = ("_program", "_variables", "text")

    def __init__(self, source: Source, program: ValueProgram) -> None:
        self.text = source.text
        self._program = program
        self._variables = Variables(source)

    def evaluate(self, request: Request, response: Response | None = None) -> Json:
        """Return the value as JSON data; raises ExpressionFailed."""
        try:
            value: Json = self._program.evaluate(self._variables.of(request, response))
        except EvaluationFailed as error:
            raise ExpressionFailed(str(error), self.text) from None
        return value


def compile_value(text: str, *, with_response: bool, engine: Engine = ENGINE) -> ValueExpression:
    """Compile and type-check an expression of any type; raises ConditionRefused with every problem found."""
    source = checked_source(text, phase_has_response=with_response)
    program = engine.compile_value(source)
    engine.check_types(source, gives="value")
    check_patterns(source, engine)
    return ValueExpression(source, program)


@lru_cache(maxsize=4096)
def compile_expression(text: str, *, boolean: bool, with_response: bool) -> Expression[Any]:
    """Compile an expression once for all policies that have it; raises ConditionRefused with every problem found.

    One that is `boolean` is a condition in all that it may say. `with_response` allows `response.*`.
    """
    if boolean:
        return compile_condition(text, phase_has_response=with_response)
    return compile_value(text, with_response=with_response)
