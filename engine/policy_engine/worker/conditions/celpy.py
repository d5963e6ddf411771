"""Conditions on `cel-python`: the fallback where `cel-expr-python` has no wheel, and the second opinion in tests.

It has no type checker. Names and functions are checked on the tokens, and a trial evaluation with empty values finds
most type errors at load; the rest shows at the first request as a failed condition. An evaluation takes 250 µs or more.
"""

from __future__ import annotations

import logging
from typing import Any

import celpy
from celpy import celtypes
from celpy.celparser import CELParseError
from celpy.evaluation import CELEvalError

from policy_engine.sdk.attributes import ATTRIBUTES, AttributeKind
from policy_engine.worker.conditions.source import (
    MACROS,
    VARIABLES,
    ConditionRefused,
    EvaluationFailed,
    Gives,
    Problem,
    Source,
    plain_value,
    unknown_name,
)

NAME = "cel-python"

# celpy logs the arguments of functions that fail, and those are the client's headers.
logging.getLogger("celpy").setLevel(logging.CRITICAL + 1)

# The interpreter, not the five times faster CompiledRunner: that one writes Python source from the expression, and
# fails when an interpreter was made earlier in the same process.
_ENVIRONMENT = celpy.Environment()

MAX_ITERATIONS = 10_000
"""Steps of all macros together; cel-python has no budget of its own."""
_TYPE_NAMES = {"int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type"}
_WORDS = frozenset({"true", "false", "null", "in"} | _TYPE_NAMES)
_SAMPLES = {"string": "", "int": 200, "string map": {}, "dyn map": {}}
_SAMPLE_ATTRIBUTES = {AttributeKind.STRING: "", AttributeKind.INT: 200, AttributeKind.BOOL: False}
_SCALARS: dict[type, Any] = {
    bool: celtypes.BoolType,
    str: celtypes.StringType,
    int: celtypes.IntType,
    float: celtypes.DoubleType,
}

_TEXTS = (celtypes.StringType, celtypes.IntType)


class _Bounded:
    """A parsed expression whose macros may go through so many elements and no more."""

    __slots__ = ("_literals", "_macro_nesting", "_runner")

    def __init__(self, source: Source, runner: celpy.Runner) -> None:
        self._runner = runner
        self._macro_nesting = source.macro_nesting
        self._literals = sum(token.text == "," for token in source.tokens) + 1

    def _value(self, variables: dict[str, Any]) -> Any:
        context = {}
        count = [self._literals]
        for name, value in variables.items():
            context[name] = _to_cel(value, count)
        if count[0] ** self._macro_nesting > MAX_ITERATIONS:
            raise EvaluationFailed("a macro went through too many elements")
        try:
            return self._runner.evaluate(context)
        except CELEvalError as error:
            raise EvaluationFailed(_reason(error)) from None
        except Exception:
            raise EvaluationFailed("the expression could not be evaluated") from None


class Program(_Bounded):
    """A compiled condition, or expression for a text."""

    __slots__ = ()

    def evaluate(self, variables: dict[str, Any]) -> bool:
        """Return the result for `variables`; raises EvaluationFailed."""
        value = self._value(variables)
        if isinstance(value, celtypes.BoolType):
            return bool(value)
        raise EvaluationFailed(f"the result is not true or false but of type {_type_name(value)}")

    def text(self, variables: dict[str, Any]) -> str:
        """Return the result of an expression that is a text, or a whole number as text; raises EvaluationFailed."""
        value = self._value(variables)
        if isinstance(value, _TEXTS):
            return str(value)
        raise EvaluationFailed(f"the result is not a text but of type {_type_name(value)}")


class ValueProgram(_Bounded):
    """A compiled expression of any type."""

    __slots__ = ()

    def evaluate(self, variables: dict[str, Any]) -> Any:
        """Return the value as plain data; raises EvaluationFailed."""
        value = self._value(variables)
        return plain_value(bool(value) if isinstance(value, celtypes.BoolType) else value)


def compile_value(source: Source) -> ValueProgram:
    """Parse an expression of any type; raises ConditionRefused with every problem."""
    return ValueProgram(source, _runner(source))


def compile_source(source: Source, *, text: bool = False) -> Program:
    """Parse and check a condition, or with `text` an expression for one, as far as possible without a type checker.

    Raises ConditionRefused with every problem.
    """
    runner = _runner(source)
    _try(source, runner, text=text)
    return Program(source, runner)


def _runner(source: Source) -> celpy.Runner:
    problems = _unknown_names(source)
    if problems:
        raise ConditionRefused(problems)
    try:
        return _ENVIRONMENT.program(_ENVIRONMENT.compile(source.text))
    except CELParseError as error:
        at_end = not error.line or error.line < 0 or not error.column
        offset = len(source.text) if at_end else source.offset(error.line or 1, error.column or 1)
        raise ConditionRefused([source.problem("syntax error", offset)]) from None
    except RecursionError:
        raise ConditionRefused([source.problem("the expression is nested too deep", 0)]) from None
    except Exception:
        raise ConditionRefused([source.problem("not a CEL expression", 0)]) from None


def check_types(source: Source, *, gives: Gives = "truth") -> None:
    """Check nothing: there is no type checker; the trial evaluation has attributes of the right types."""


def _unknown_names(source: Source) -> list[Problem]:
    tokens = source.tokens
    texts = ["", "", *(token.text for token in tokens), "", "", ""]
    own = {
        token.text
        for index, token in enumerate(tokens, 2)
        if token.kind == "name" and texts[index - 1] == "(" and texts[index - 2] in MACROS and texts[index + 1] == ","
    }
    problems = []
    for index, token in enumerate(tokens, 2):
        if token.kind != "name" or token.text in _WORDS or token.text in own or texts[index + 1] == "(":
            continue
        if texts[index - 1] == "." and index > 3 and texts[index - 2] not in {"", "(", "[", "{", ",", "&&", "||", "!"}:
            continue
        name = token.text
        if name not in VARIABLES and texts[index + 1] == ".":
            name = f"{name}.{texts[index + 2]}"
        if name not in VARIABLES:
            problems.append(source.problem(unknown_name(name), token.offset))
    return problems


def _try(source: Source, runner: celpy.Runner, *, text: bool) -> None:
    """Evaluate with empty values: a type error or a result that is no bool will not get better with real ones."""
    context = {name: _to_cel(_SAMPLES[VARIABLES[name]], [0]) for name in source.variables}
    if attributes := source.looked_up("request.attributes"):
        samples = {name: _SAMPLE_ATTRIBUTES[ATTRIBUTES[name]] for name in attributes}
        context["request.attributes"] = _to_cel(samples, [0])
    try:
        value = runner.evaluate(context)
    except RecursionError:
        raise ConditionRefused([source.problem("the expression is nested too deep", 0)]) from None
    except CELEvalError as error:
        # An operator on the error of a missing key or a division by zero raises TypeError too; that proves nothing.
        if TypeError in error.args and "CELEvalError" not in repr(error.args):
            known = error.line is not None and error.column is not None
            offset = source.offset(error.line or 1, error.column or 1) if known else 0
            message = "an operator or function does not fit the types it got"
            raise ConditionRefused([source.problem(message, offset)]) from None
        return
    except Exception:
        return
    if not isinstance(value, _TEXTS if text else celtypes.BoolType):
        what = "the expression must be a text" if text else "the condition must be true or false"
        message = f"{what}, but it is of type {_type_name(value)}"
        raise ConditionRefused([source.problem(message, 0)])


def _to_cel(value: Any, count: list[int]) -> Any:
    """Return the CEL value of a plain one, adding the number of values to `count`."""
    count[0] += 1
    if isinstance(value, list):
        return celtypes.ListType([_to_cel(one, count) for one in value])
    if isinstance(value, dict):
        return celtypes.MapType({celtypes.StringType(name): _to_cel(one, count) for name, one in value.items()})
    convert = _SCALARS.get(type(value))
    return convert(value) if convert else value


def _type_name(value: Any) -> str:
    if value is None:
        return "null_type"
    return type(value).__name__.removesuffix("Type").lower()


def _reason(error: CELEvalError) -> str:
    kinds = error.args
    if KeyError in kinds:
        return "no such key in a map"
    if ZeroDivisionError in kinds:
        return "division by zero"
    if TypeError in kinds:
        return "an operator or function does not fit the types it got"
    if IndexError in kinds:
        return "no such index in a list"
    if "match error" in kinds:
        return "invalid regular expression"
    return "the expression could not be evaluated"
