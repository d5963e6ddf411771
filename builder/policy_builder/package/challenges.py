"""Reads `WWW-Authenticate`: which kinds of authentication a registry takes (RFC 9110 11.6.1).

A separate module because a comma separates challenges, parameters of one challenge and nothing at all inside quoted
text, so that only a reader of the whole grammar finds the one it wants. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar's name for a word
_BLANK = re.compile(r"[ \t,]*")
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|{_TOKEN})[ \t]*(?=,|$)', re.DOTALL)
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=,)|$)")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
LONGEST = 16 << 10
"""Characters of one header that are read; what stands behind them is no challenge."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """One kind of authentication: `scheme` and the names of `parameters` in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def read_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Return the challenges of all `WWW-Authenticate` lines of an answer, in their order.

    Where a line stops being what the grammar allows, the rest of that line is passed over. Of a parameter that comes
    twice the first one counts.
    """
    return tuple(challenge for header in headers for challenge in _of_line(header[:LONGEST].strip()))


def _of_line(line: str) -> list[Challenge]:
    found: list[Challenge] = []
    parameters: dict[str, str] = {}
    position = 0
    while (position := _after(_BLANK, line, position)) < len(line):
        parameter = _PARAMETER.match(line, position)
        if parameter is not None and found:
            parameters.setdefault(parameter[1].lower(), _unquoted(parameter[2]))
            position = parameter.end()
            continue
        scheme = _SCHEME.match(line, position)
        if scheme is None:
            break
        parameters = {}
        found.append(Challenge(scheme[1].lower(), parameters))
        position = scheme.end()
        if _PARAMETER.match(line, position) is None:
            position = _after(_TOKEN68, line, position)
    return found


def _after(pattern: re.Pattern[str], line: str, position: int) -> int:
    """Return where the match of `pattern` at `position` ends, `position` itself when there is none."""
    match = pattern.match(line, position)
    return position if match is None else match.end()


def _unquoted(value: str) -> str:
    return _ESCAPED.sub(r"\1", value[1:-1]) if value.startswith('"') else value
