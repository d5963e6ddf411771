"""A condition taken apart, so that people see which of its parts decided: each part is evaluated by the engine itself.

The text is cut where operators stand outside brackets, loosest first. A cut that were wrong could only lose a part,
or show one that nobody wrote: the decision never comes from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from time import thread_time
from typing import Any

from policy_engine.sdk import Request, Response
from policy_engine.worker.conditions.condition import ENGINE, ConditionRefused, ValueProgram, Variables
from policy_engine.worker.conditions.source import VARIABLES, EvaluationFailed, Source, Token, read_source

MOST_PARTS = 40
MOST_SECONDS = 0.005
"""After so much work no further part is evaluated: those who look on must not hold up others."""

_LOOSEST_FIRST: tuple[frozenset[str], ...] = (
    frozenset({"?", ":"}),
    frozenset({"||"}),
    frozenset({"&&"}),
    frozenset({"==", "!=", "<", "<=", ">", ">=", "in"}),
    frozenset({"+", "-"}),
    frozenset({"*", "/", "%"}),
)
"""The binary operators of CEL by how tightly they bind (cel-spec, "Grammar")."""

_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")


@dataclass(frozen=True, slots=True)
class PartValue:
    """What one part of a condition gave: `value` as JSON data, or why there is none in `error`.

    `depth` is how deep it stands in the whole. `variables` are those it mentions; of a map, the entries that it looks
    up by constant keys, or None for the whole map.
    """

    text: str
    depth: int
    value: Any
    error: str
    variables: dict[str, frozenset[str] | None]


@dataclass(frozen=True, slots=True)
class _Part:
    source: Source
    depth: int
    program: ValueProgram
    variables: Variables

    def evaluate(self, request: Request, response: Response | None) -> PartValue:
        value, error = None, ""
        try:
            value = self.program.evaluate(self.variables.of(request, response))
        except EvaluationFailed as failed:
            error = str(failed)
        return PartValue(self.source.text, self.depth, value, error, self.source.variables)


def part_values(text: str, request: Request, response: Response | None) -> tuple[PartValue, ...]:
    """Return what each part of the condition `text` gives for this request, outer parts before what is in them.

    Literals are left out; there are at most `MOST_PARTS`.
    """
    parts = _parts(text)  # compiled once for a text, and not charged to the request that comes first
    until = thread_time() + MOST_SECONDS
    found = []
    for part in parts:
        found.append(part.evaluate(request, response))
        if thread_time() > until:
            break
    return tuple(found)


@lru_cache(maxsize=1024)
def _parts(text: str) -> tuple[_Part, ...]:
    source = read_source(text)
    if source.problems:
        return ()
    found: dict[str, _Part] = {}
    for tokens, depth in _cut(source.tokens, 0):
        part = _compiled(text[tokens[0].offset : tokens[-1].offset + len(tokens[-1].text)], depth)
        if part is not None and part.source.variables:
            found.setdefault(part.source.text, part)
        if len(found) > MOST_PARTS:
            break
    found.pop(text.strip(), None)
    return tuple(found.values())[:MOST_PARTS]


def _compiled(text: str, depth: int) -> _Part | None:
    """Return the part, None for a whole map and for what means nothing by itself, as what stands in a macro."""
    source = read_source(text)
    if source.problems or VARIABLES.get(text, "").endswith("map"):
        return None
    try:
        program = ENGINE.compile_value(source)
    except ConditionRefused:
        return None
    return _Part(source, depth, program, Variables(source))


def _cut(tokens: Sequence[Token], depth: int) -> Iterator[tuple[Sequence[Token], int]]:
    """Yield `tokens` and, one deeper each, what they are made of."""
    tokens = _unwrapped(tokens)
    if not tokens:
        return
    yield tokens, depth
    for inner in _made_of(tokens):
        yield from _cut(inner, depth + 1)


def _made_of(tokens: Sequence[Token]) -> list[Sequence[Token]]:
    for operators in _LOOSEST_FIRST:
        pieces = _split(tokens, operators)
        if len(pieces) > 1:
            return pieces
    if tokens[0].text in {"!", "-"}:
        return [tokens[1:]]
    return _of_member(tokens)


def _of_member(tokens: Sequence[Token]) -> list[Sequence[Token]]:
    """Return receiver and arguments of the last call: of `a.b(c, d)` that is `a`, `c`, `d`; of `a["b"]` nothing."""
    if tokens[-1].text != ")":
        return []
    opening = _opening_of_last(tokens)
    if opening < 1 or tokens[opening - 1].kind != "name":
        return []
    arguments = _split(tokens[opening + 1 : -1], frozenset({","}))
    receiver = tokens[: opening - 2] if opening >= 3 and tokens[opening - 2].text == "." else ()
    return [receiver, *arguments]


def _opening_of_last(tokens: Sequence[Token]) -> int:
    depth = 0
    for position in range(len(tokens) - 1, -1, -1):
        text = tokens[position].text
        depth += (text in _CLOSING) - (text in _OPENING)
        if depth == 0:
            return position
    return -1


def _split(tokens: Sequence[Token], separators: frozenset[str]) -> list[Sequence[Token]]:
    pieces: list[Sequence[Token]] = []
    depth = start = 0
    for position, token in enumerate(tokens):
        depth += (token.text in _OPENING) - (token.text in _CLOSING)
        if depth == 0 and token.text in separators and token.kind != "string" and _is_binary(tokens, position):
            pieces.append(tokens[start:position])
            start = position + 1
    return [*pieces, tokens[start:]]


def _is_binary(tokens: Sequence[Token], position: int) -> bool:
    """Tell `a - b` from `-b`."""
    if tokens[position].text != "-":
        return True
    before = tokens[position - 1] if position else None
    return before is not None and (before.kind in {"name", "number", "string"} or before.text in _CLOSING)


def _unwrapped(tokens: Sequence[Token]) -> Sequence[Token]:
    while len(tokens) > 1 and tokens[0].text == "(" and _opening_of_last(tokens) == 0:
        tokens = tokens[1:-1]
    return tokens
