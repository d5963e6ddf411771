"""The text of a condition before any CEL engine sees it: limits, names and constant look-ups.

Apart from the engines because both must refuse the same texts, and because knowing which names and which map entries
an expression mentions is what makes its evaluation cheap (only those are bound). It works on tokens, not on a syntax
tree: where a token pattern is not certain, the whole variable is bound, which costs time but never changes a result.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from policy_engine.sdk.attributes import ATTRIBUTES, why_not
from policy_engine.sdk.expressions import ExpressionRefused

Gives = Literal["truth", "text", "value"]
"""What an expression is for: a condition, a text such as a key, or any value."""

Kind = Literal["string", "int", "string map", "dyn map"]

VARIABLES: dict[str, Kind] = {
    "request.path": "string",
    "request.target": "string",
    "request.query_string": "string",
    "request.query": "string map",
    "request.method": "string",
    "request.headers": "string map",
    "request.authority": "string",
    "request.host": "string",
    "request.scheme": "string",
    "request.client_address": "string",
    "request.route": "string",
    "request.id": "string",
    "request.attributes": "dyn map",
    "request.envoy_metadata": "dyn map",
    "response.status": "int",
    "response.origin": "string",
    "response.headers": "string map",
    "metadata": "dyn map",
}
"""Every variable of a condition (R-10). All are flat: the dotted name is the variable, `request` alone is not one."""

MACROS = frozenset({"all", "exists", "exists_one", "map", "filter"})
FUNCTIONS = MACROS | {
    *("bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"),
    *("contains", "endsWith", "matches", "size", "startsWith", "has"),
    *("getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours"),
    *("getMilliseconds", "getMinutes", "getMonth", "getSeconds"),
}
"""The standard functions of CEL (cel-spec, "List of Standard Definitions"); nothing else, whatever an engine adds."""

MAX_LENGTH = 4096
"""Characters in one expression."""
MAX_NESTING = 12
"""Brackets within brackets; the C++ parser's own limit of 32 counts grammar levels and its message says nothing."""
MAX_MACRO_NESTING = 2
"""Macros within macros: the cost is the product of the collections' sizes, which the client may choose."""

ASKED_OF_ENVOY = {
    "request.attributes": 'an attribute (["connection.mtls"])',
    "request.envoy_metadata": 'a namespace (["envoy.filters.http.jwt_authn"])',
}
"""Maps of which only named entries can be used, with what these are."""

_ROOTS = frozenset(name.partition(".")[0] for name in VARIABLES)
_SUGGESTION_CUTOFF = 0.6
_SHOWN_WIDTH = 110
_SHOWN_NAME = 80

_OPERATORS_ELSEWHERE = {"and": "&&", "or": "||", "not": "!", "is": "==", "eq": "==", "ne": "!="}
_QUOTES_ELSEWHERE = "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a"

_UNUSABLE = re.compile("[\0\ud800-\udfff]")
_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\n\f\r]+|//[^\n]*)
    | (?P<string>[bB]?(?:
          [rR](?:\"{3}(?s:.)*?\"{3}|'{3}(?s:.)*?'{3}|"[^"\n\r]*"|'[^'\n\r]*')
        | \"{3}(?s:\\.|[^\\])*?\"{3} | '{3}(?s:\\.|[^\\])*?'{3}
        | "(?:[^\\"\n\r]|\\.)*" | '(?:[^\\'\n\r]|\\.)*'
      ))
    | (?P<number>(?:0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)[uU]?)
    | (?P<name>[_a-zA-Z][_a-zA-Z0-9]*)
    | (?P<sign>&&|\|\||==|!=|<=|>=|[-+*/%!<>?:.,()\[\]{}])
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a condition is refused: `line` and `column` count from 1; `source_line` is shown with a caret under it."""

    message: str
    line: int
    column: int
    source_line: str

    def __str__(self) -> str:
        start = max(0, self.column - 1 - _SHOWN_WIDTH // 2)
        shown = "".join(one if one.isprintable() else " " for one in self.source_line[start : start + _SHOWN_WIDTH])
        caret = " " * (self.column - 1 - start) + "^"
        return f"line {self.line}, column {self.column}: {self.message}\n  {shown}\n  {caret}"


class ConditionRefused(ExpressionRefused):
    """Raised when a condition cannot be used; `problems` holds all that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class EvaluationFailed(Exception):
    """Raised by an engine for a run-time error; the text never holds request data."""


@dataclass(frozen=True, slots=True)
class Token:
    """One lexical token and its offset in the text."""

    kind: str
    text: str
    offset: int


@dataclass(slots=True)
class Source:
    """A condition's text and what its tokens say about it."""

    text: str
    tokens: list[Token] = field(default_factory=list)
    variables: dict[str, frozenset[str] | None] = field(default_factory=dict)
    """Variables mentioned; for a map the entries looked up by constant key, None when the whole map is needed."""
    patterns: list[Token] = field(default_factory=list)
    """The literal regular expressions given to `matches`."""
    macro_nesting: int = 0
    problems: list[Problem] = field(default_factory=list)

    def looked_up(self, name: str) -> frozenset[str]:
        """Return the entries of the map variable `name` that the condition looks up; empty for none of it."""
        return self.variables.get(name) or frozenset()

    def problem(self, message: str, offset: int) -> Problem:
        """Return a problem at `offset` characters from the start of the text."""
        offset = max(0, min(offset, len(self.text)))
        before = self.text[:offset]
        line_start = before.rfind("\n") + 1
        source_line = self.text[line_start:].partition("\n")[0]
        return Problem(message, before.count("\n") + 1, offset - line_start + 1, source_line)

    def offset(self, line: int, column: int) -> int:
        """Return the offset of `line` and `column`, both from 1."""
        lines = self.text.split("\n")
        return sum(len(one) + 1 for one in lines[: line - 1]) + column - 1

    def refuse(self, message: str, offset: int) -> None:
        """Note a problem."""
        self.problems.append(self.problem(message, offset))


def read_source(text: str) -> Source:
    """Split `text` into tokens and check what does not need a CEL engine; the result's `problems` tell the outcome."""
    source = Source(text)
    if not isinstance(text, str):
        source.text = ""
        source.refuse(f"a condition is a text, not a {type(text).__name__}; put it in quotes", 0)
    elif not text.strip():
        source.refuse("the condition is empty; leave it out where it is always to hold", 0)
    elif len(text) > MAX_LENGTH:
        source.refuse(f"the condition has {len(text)} characters; at most {MAX_LENGTH} are allowed", MAX_LENGTH)
    elif unusable := _UNUSABLE.search(text):
        source.refuse("the condition holds a NUL or surrogate character", unusable.start())
    elif _tokenize(source) and _check_words(source):
        _check_brackets(source)
        _find_variables(source)
        _check_calls(source)
    return source


def attribute_lookups(source: Source) -> list[tuple[int, int, str]]:
    """Return where attributes are looked up: start and end in the text, and the attribute's name, in their order."""
    found = []
    for index, token in enumerate(source.tokens):
        written = [one.text for one in source.tokens[index : index + 4]]
        if written != ["request", ".", "attributes", "["] or _is_field(source, index):
            continue
        name = plain_text(source, index + 4)
        if name is not None and name in ATTRIBUTES and _at(source, index + 5) == "]":
            found.append((token.offset, source.tokens[index + 5].offset + 1, name))
    return found


def plain_value(value: Any) -> Any:
    """Return what an engine gave as JSON data: what has no form there (a duration, a type) as its text."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, list | tuple):
        return [plain_value(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): plain_value(one) for name, one in value.items()}
    return str(value)


def unknown_name(name: str) -> str:
    """Return the message for an unknown variable, with the nearest known ones."""
    return f"unknown name `{_short(name)}`{_nearest(name, VARIABLES)}"


def unknown_function(name: str) -> str:
    """Return the message for an unknown function, with the nearest known ones."""
    return f"unknown function `{_short(name)}`{_nearest(name, FUNCTIONS)}"


def _short(name: str) -> str:
    return name if len(name) <= _SHOWN_NAME else name[:_SHOWN_NAME] + "…"


def _nearest(name: str, known: dict[str, Kind] | frozenset[str]) -> str:
    """Return the nearest known names, or all when none is near."""
    near = difflib.get_close_matches(name[:_SHOWN_NAME], known, n=2, cutoff=_SUGGESTION_CUTOFF)
    if near:
        return f"; did you mean {' or '.join(f'`{one}`' for one in near)}?"
    return f"; known: {', '.join(sorted(known))}"


def _tokenize(source: Source) -> bool:
    position = 0
    while position < len(source.text):
        match = _TOKEN.match(source.text, position)
        if match is None:
            character = source.text[position]
            known = {
                "'": "unterminated text",
                '"': "unterminated text",
                "=": "`=` is not an operator; compare with `==`",
            }
            known |= dict.fromkeys(_QUOTES_ELSEWHERE, "a quote of a word processor; texts stand in \" or '")
            hint = {"&": "write `&&` for and", "|": "write `||` for or", "`": 'write ["name"] for an unusual name'}
            message = known.get(character) or f"unexpected character {character!r}"
            source.refuse(f"{message}; {hint[character]}" if character in hint else message, position)
            return False
        kind = match.lastgroup or ""
        if kind != "space":
            source.tokens.append(Token(kind, match.group(), position))
        position = match.end()
    return True


def _check_words(source: Source) -> bool:
    """Explain operators of other languages, where no name can stand: beside a value."""
    for index, token in enumerate(source.tokens):
        operator = _OPERATORS_ELSEWHERE.get(token.text.lower()) if token.kind == "name" else None
        if operator is None or _at(source, index - 1) == ".":
            continue
        after_value = _kind(source, index - 1) in {"name", "string", "number"} or _at(source, index - 1) in {")", "]"}
        before_value = _kind(source, index + 1) in {"name", "string", "number"} and _at(source, index + 1) != "in"
        before_value = before_value or _at(source, index + 1) in {"(", "!"}
        if after_value or before_value:
            source.refuse(f"`{token.text}` is not an operator; write `{operator}`", token.offset)
    for first, second in pairwise(source.tokens):
        if (first.text, second.text) == ("<", ">") and second.offset == first.offset + 1:
            source.refuse("`<>` is not an operator; write `!=`", first.offset)
    return not source.problems


def _check_brackets(source: Source) -> None:
    """Bound the nesting of brackets and of macros; whether brackets match is the parser's business."""
    open_macros: list[bool] = []
    for index, token in enumerate(source.tokens):
        if token.text in {"(", "[", "{"}:
            is_macro = token.text == "(" and _at(source, index - 1) in MACROS and _at(source, index - 2) == "."
            open_macros.append(is_macro)
            source.macro_nesting = max(source.macro_nesting, sum(open_macros))
            if len(open_macros) > MAX_NESTING:
                source.refuse(f"brackets are nested more than {MAX_NESTING} deep", token.offset)
                return
            if sum(open_macros) > MAX_MACRO_NESTING:
                source.refuse(f"macros are nested more than {MAX_MACRO_NESTING} deep", token.offset)
                return
        elif token.text in {")", "]", "}"} and open_macros:
            open_macros.pop()


def _find_variables(source: Source) -> None:
    keys: dict[str, set[str] | None] = {}
    for index, token in enumerate(source.tokens):
        if token.text not in _ROOTS or token.kind != "name" or _is_field(source, index):
            continue
        if _at(source, index - 1) == "(" and _at(source, index - 2) in MACROS and _at(source, index + 1) == ",":
            source.refuse(f"`{token.text}` cannot be the name of a macro's variable; choose another", token.offset)
        name, last = token.text, index
        if name not in VARIABLES and _at(source, index + 1) == ".":
            name, last = f"{name}.{_at(source, index + 2)}", index + 2
        if name not in VARIABLES:
            continue  # the engine reports it, with everything else that is unknown
        if _at(source, index - 2) == "has" and _at(source, index - 1) == "(" and _at(source, last + 1) == ")":
            source.refuse(f"`{name}` is always there; has() asks for an entry of a map", token.offset)
        key = _constant_key(source, index, last) if VARIABLES[name].endswith("map") else None
        known = keys.setdefault(name, set())
        if key is None and name in ASKED_OF_ENVOY:
            what = ASKED_OF_ENVOY[name]
            source.refuse(f"look up {what} in `{name}` by its name: it is what Envoy is asked for", token.offset)
        if key is None or known is None:
            keys[name] = None
        else:
            known.add(key)
            if name.endswith(".headers"):
                _check_header_name(source, key, token.offset)
            elif name == "request.attributes":
                _check_attribute(source, key, token.offset)
    source.variables = {name: None if found is None else frozenset(found) for name, found in keys.items()}


def _constant_key(source: Source, first: int, last: int) -> str | None:
    """Return K for `name["K"]`, `name.K` and `"K" in name`, else None."""
    after = _at(source, last + 1)
    if after == "[" and _at(source, last + 3) == "]":
        return plain_text(source, last + 2)
    if after == "." and _kind(source, last + 2) == "name" and _at(source, last + 3) != "(":
        return _at(source, last + 2)
    if after in {"[", "."}:
        return None
    # `"K" in name`, where no operator that binds tighter than `in` stands before the text.
    if _at(source, first - 1) == "in" and _at(source, first - 3) in {"", "(", "[", "{", ",", ":", "?", "&&", "||"}:
        return plain_text(source, first - 2)
    return None


def plain_text(source: Source, index: int) -> str | None:
    """Return the value of the text literal without escapes at token `index`, None for anything else."""
    if _kind(source, index) != "string":
        return None
    text = _at(source, index)
    if text[0] in "bB" or "\\" in text:
        return None
    text = text.lstrip("rR")
    quotes = 3 if text[:3] in {'"""', "'''"} else 1
    return text[quotes:-quotes]


def _check_header_name(source: Source, name: str, offset: int) -> None:
    if name.startswith(":"):
        source.refuse(f"pseudo-headers are not in the map; use a variable such as request.path for `{name}`", offset)
    elif name != name.lower():
        source.refuse(f"header names are lower case; write `{name.lower()}` for `{name}`", offset)


def _check_attribute(source: Source, name: str, offset: int) -> None:
    reason = why_not(name)
    if not reason:
        return
    message = f"attribute `{_short(name)}` {reason}{_nearest(name, frozenset(ATTRIBUTES))}"
    if any(one.startswith(f"{name}.") for one in ATTRIBUTES):
        message = f'the name of an attribute holds dots; write request.attributes["{name}.…"]'
    source.refuse(message, offset)


def _check_calls(source: Source) -> None:
    for index, token in enumerate(source.tokens):
        if token.kind != "name" or token.text == "in":
            continue
        if _at(source, index + 1) == "{":
            source.refuse("an expression cannot build messages", token.offset)
        elif _at(source, index + 1) != "(":
            continue
        elif token.text not in FUNCTIONS:
            source.refuse(unknown_function(token.text), token.offset)
        elif token.text == "matches":
            _check_pattern(source, index)
        elif token.text == "has":
            _check_has(source, index)


def _check_pattern(source: Source, index: int) -> None:
    """A pattern must stand in the condition itself: then it is checked once, at load, and no client can choose it."""
    last = _closing_bracket(source, index + 1) - 1
    if _kind(source, last) == "string" and _at(source, last - 1) in {"(", ","}:
        source.patterns.append(source.tokens[last])
    else:
        source.refuse("the regular expression of matches() must be a text literal", source.tokens[index].offset)


def _check_has(source: Source, index: int) -> None:
    last = _closing_bracket(source, index + 1) - 1
    if _kind(source, last) != "name" or _at(source, last - 1) != ".":
        source.refuse(
            'has() takes a field, as in has(request.headers.cookie); for other names write "x-y" in request.headers',
            source.tokens[index].offset,
        )


def _closing_bracket(source: Source, opening: int) -> int:
    depth = 0
    for position in range(opening, len(source.tokens)):
        text = source.tokens[position].text
        depth += (text in {"(", "[", "{"}) - (text in {")", "]", "}"})
        if depth == 0:
            return position
    return len(source.tokens)


def _is_field(source: Source, index: int) -> bool:
    """Tell whether the name at `index` is the `b` of `a.b`, and not the `b` of `b` or `.b`."""
    if _at(source, index - 1) != ".":
        return False
    return _kind(source, index - 2) in {"name", "string", "number"} or _at(source, index - 2) in {")", "]", "}"}


def _at(source: Source, index: int) -> str:
    return source.tokens[index].text if 0 <= index < len(source.tokens) else ""


def _kind(source: Source, index: int) -> str:
    return source.tokens[index].kind if 0 <= index < len(source.tokens) else ""
