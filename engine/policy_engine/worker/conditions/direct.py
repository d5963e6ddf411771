"""Conditions that need no CEL engine: texts and the status compared, joined by `&&`, `||` and `!`.

An engine's evaluation costs 3 µs in a loop and 10 µs between other work, where its code has left the processor's
caches, and its code and environment cost some 10 MB; these closures cost 0.5 µs and nothing. Whatever is one of these
forms is an expression of type bool to an engine too, so that none has to look at it. Anything that is not surely one is
left to the engine, and property tests hold both to the same: what they take, results, and errors.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

from policy_engine.sdk import Request, Response
from policy_engine.worker.conditions.source import VARIABLES, EvaluationFailed, Source, plain_text
from policy_engine.worker.conditions.values import joined_header, present, reader

Evaluate = Callable[[Request, Response | None], bool]
_Value = Callable[[Request, Response | None], Any]

_METHODS: Final[dict[str, Callable[[str, str], bool]]] = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": operator.contains,
}
_EQUALITY: Final[dict[str, Callable[[Any, Any], bool]]] = {"==": operator.eq, "!=": operator.ne}
_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def compile_direct(source: Source) -> Evaluate | None:
    """Return a function with the result of the expression, or None when it is not of the forms known here.

    The function raises EvaluationFailed as an engine does. `source` has no problems.
    """
    parser = _Parser(source)
    try:
        found = parser.alternative()
    except _NotDirect:
        return None
    return found if parser.position == len(source.tokens) else None


def compile_direct_text(source: Source) -> Callable[[Request, Response | None], str] | None:
    """Return a function with the text that the expression is, or None when it is more than one variable."""
    parser = _Parser(source)
    try:
        value, kind = parser.variable()
    except _NotDirect:
        return None
    return value if kind == "string" and parser.position == len(source.tokens) else None


_MOST_DIGITS = 18
"""Of a number that surely is one of CEL's, of 64 bits."""


class _NotDirect(Exception):
    """The expression is left to the CEL engine."""


class _Parser:
    """Recursive descent over the tokens, by the grammar of the CEL specification as far as it is needed."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.position = 0

    def alternative(self) -> Evaluate:
        """`a || b`"""
        found = self._conjunction()
        while self._take("||"):
            found = _either(found, self._conjunction())
        return found

    def _conjunction(self) -> Evaluate:
        found = self._unary()
        while self._take("&&"):
            found = _both(found, self._unary())
        return found

    def _unary(self) -> Evaluate:
        if self._take("!"):
            # `!` binds to what follows at once: `!a == b` is `(!a) == b`, so only a bracket is taken here.
            if self._text() != "(":
                raise _NotDirect
            return _negated(self._unary())
        if self._take("("):
            found = self.alternative()
            self._expect(")")
            return found
        return self._relation()

    def _relation(self) -> Evaluate:
        literal = plain_text(self._source, self.position)
        if literal is not None:
            self.position += 1
            return self._membership(literal)
        value, kind = self.variable()
        if kind == "int":
            return self._comparison(value, {**_EQUALITY, **_ORDER}, self._number)
        if self._take("in"):
            return _among(value, self._list())
        if self._take("."):
            return self._call(value)
        return self._comparison(value, _EQUALITY, self._literal)

    def _membership(self, literal: str) -> Evaluate:
        """`"name" in request.headers`"""
        self._expect("in")
        name = self._name()
        if not name.endswith(".headers") or self._text() in {".", "["}:
            raise _NotDirect
        if name.startswith("request"):
            return lambda request, response: literal in request.headers
        return lambda request, response: literal in present(response).headers

    def variable(self) -> tuple[_Value, str]:
        """A variable, or one header; with its kind."""
        name = self._name()
        kind = VARIABLES[name]
        if kind in {"string", "int"}:
            return reader(name, None), kind
        if not name.endswith(".headers"):
            raise _NotDirect
        self._expect("[")
        key = self._literal()
        self._expect("]")
        return _header(key, of_request=name.startswith("request")), "string"

    def _name(self) -> str:
        tokens = self._source.tokens[self.position : self.position + 3]
        name = "".join(token.text for token in tokens)
        if len(tokens) != 3 or tokens[1].text != "." or name not in VARIABLES:
            raise _NotDirect
        self.position += 3
        return name

    def _call(self, value: _Value) -> Evaluate:
        method = _METHODS.get(self._text())
        if method is None:
            raise _NotDirect
        self.position += 1
        self._expect("(")
        literal = self._literal()
        self._expect(")")
        return lambda request, response: method(value(request, response), literal)

    def _comparison(
        self, value: _Value, operators: dict[str, Callable[[Any, Any], bool]], constant: Callable[[], Any]
    ) -> Evaluate:
        compare = operators.get(self._text())
        if compare is None:
            raise _NotDirect
        self.position += 1
        expected = constant()
        return lambda request, response: compare(value(request, response), expected)

    def _list(self) -> frozenset[str]:
        self._expect("[")
        found = [self._literal()]
        while self._take(","):
            found.append(self._literal())
        self._expect("]")
        return frozenset(found)

    def _literal(self) -> str:
        literal = plain_text(self._source, self.position)
        if literal is None or "\r" in literal:  # CEL makes CR LF one newline
            raise _NotDirect
        self.position += 1
        return literal

    def _number(self) -> int:
        text = self._text()
        if not text.isdecimal() or len(text) > _MOST_DIGITS:
            raise _NotDirect
        self.position += 1
        return int(text)

    def _text(self) -> str:
        tokens = self._source.tokens
        return tokens[self.position].text if self.position < len(tokens) else ""

    def _take(self, text: str) -> bool:
        if self._text() != text:
            return False
        self.position += 1
        return True

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise _NotDirect


def _header(name: str, *, of_request: bool) -> _Value:
    def read(request: Request, response: Response | None) -> str:
        values = (request if of_request else present(response)).headers.get_all(name)
        if not values:
            raise EvaluationFailed("no such key in a map")
        return joined_header(name, values)

    return read


def _among(value: _Value, known: frozenset[str]) -> Evaluate:
    return lambda request, response: value(request, response) in known


def _negated(one: Evaluate) -> Evaluate:
    return lambda request, response: not one(request, response)


def _both(one: Evaluate, other: Evaluate) -> Evaluate:
    """`&&` of CEL: false on either side decides, even beside an error (cel-spec, "Logical Operators")."""

    def evaluate(request: Request, response: Response | None) -> bool:
        try:
            if not one(request, response):
                return False
        except EvaluationFailed:
            if other(request, response):
                raise
            return False
        return other(request, response)

    return evaluate


def _either(one: Evaluate, other: Evaluate) -> Evaluate:
    def evaluate(request: Request, response: Response | None) -> bool:
        try:
            if one(request, response):
                return True
        except EvaluationFailed:
            if not other(request, response):
                raise
            return True
        return other(request, response)

    return evaluate
