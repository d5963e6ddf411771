"""What one evaluation may cost, by the sizes of what the client sent, known before the CEL engine begins.

An engine counts the steps of macros, not what a step does: it copies a text each time it is mentioned, and looks
through it from the start. Tokens say how often that is; where they do not tell, the dearest case is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policy_engine.worker.conditions.source import MACROS, VARIABLES, Source, plain_text

MOST_UNITS = 8_000_000
"""Bytes to be copied or, multiplied, looked through: what takes about 15 ms on the C++ engine."""

_CONTAINS, _MATCHES = 16, 4
"""A byte that a text search or a regular expression looks at costs as much as so many copied ones, at worst."""
_NEEDLE = 2048
"""Bytes of a text that is searched for, when the client chose it, that double the cost of each byte searched."""
_NESTED = frozenset({"metadata", "request.envoy_metadata"})
"""Maps whose entries are maps in turn."""
_CHEAP_MENTIONS = 4
"""So many variables mentioned outside of macros cannot cost more than the limit, with headers within theirs."""


@dataclass(frozen=True, slots=True)
class _Mention:
    """A variable in the expression: inside how many macros, and how much of it is read there."""

    name: str
    depth: int
    key: str | None
    """The entry of a map that is looked up, where it is constant."""
    element: bool
    """Whether the steps of the innermost macro read the map once altogether: its own range, or an entry for each."""


@dataclass(frozen=True, slots=True)
class Cost:
    """How the cost of an expression grows with the variables."""

    mentions: tuple[_Mention, ...]
    weight: int
    searches_for_variable: bool
    elements: int
    """The longest list that the expression itself may hold."""

    def within_limit(self, variables: Mapping[str, Any]) -> bool:
        """Tell whether an evaluation with these values of the variables is cheap enough."""
        sizes = {name: _size(value) for name, value in variables.items()}
        count = max(self.elements, 1, *(_count(value) for value in variables.values()))
        weight = self.weight
        if self.searches_for_variable:
            weight *= 1 + sum(sizes.values()) // _NEEDLE
        units = 0
        for one in self.mentions:
            size = sizes.get(one.name, 0)
            if one.key is not None:
                size = _size(variables[one.name].get(one.key, ""))
            units += (size + 1) * count ** (one.depth - one.element)
        return units * weight <= MOST_UNITS


def cost_of(source: Source) -> Cost | None:
    """Return how the cost of the expression grows, None when it is small whatever a client sends."""
    mentions = tuple(_mentions(source))
    contains = [index for index, token in enumerate(source.tokens) if token.text == "contains"]
    for_variable = any(plain_text(source, index + 2) is None for index in contains)
    matches = any(token.text == "matches" for token in source.tokens)
    if not source.macro_nesting and not for_variable and len(mentions) <= _CHEAP_MENTIONS:
        return None
    weight = _CONTAINS if contains else _MATCHES if matches else 1
    elements = sum(token.text == "," for token in source.tokens) + 1
    return Cost(mentions, weight, for_variable, elements)


def _mentions(source: Source) -> list[_Mention]:
    texts = [token.text for token in source.tokens] + [""] * 6
    found: list[_Mention] = []
    macros: list[bool] = []
    for index, token in enumerate(source.tokens):
        if token.text in {"(", "[", "{"}:
            macros.append(token.text == "(" and texts[index - 1] in MACROS and texts[index - 2] == ".")
        elif token.text in {")", "]", "}"} and macros:
            macros.pop()
        elif token.kind == "name" and (index == 0 or texts[index - 1] != "."):
            name, last = token.text, index
            if name not in VARIABLES and texts[index + 1] == ".":
                name, last = f"{name}.{texts[index + 2]}", index + 2
            if name in VARIABLES:
                found.append(_mention(source, texts, name, last, sum(macros)))
    return found


def _mention(source: Source, texts: list[str], name: str, last: int, depth: int) -> _Mention:
    """Return the mention of `name`, whose last token is `last`, inside `depth` macros."""
    key, element = None, False
    if VARIABLES[name].endswith("map") and name not in _NESTED:
        after = texts[last + 1]
        if after == "." and texts[last + 3] != "(":
            key = texts[last + 2]
        elif after == "[" and texts[last + 3] == "]":
            key = plain_text(source, last + 2)
            element = key is None and depth > 0 and source.tokens[last + 2].kind == "name"
    return _Mention(name, depth, key, element)


def _size(value: Any) -> int:
    """Return the characters in a value, containers included."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(len, value)) + sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 1


def _count(value: Any) -> int:
    """Return the most elements that a container in a value has."""
    if isinstance(value, Mapping):
        return max(len(value), 0, *map(_count, value.values()))
    return max(len(value), 0, *map(_count, value)) if isinstance(value, list) else 0
