"""Reads Cache-Control (RFC 9111, 5.2); strictly, since a directive that is overlooked may say "private"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 # a grammar rule (RFC 9110, 5.6.2), no secret
_ONE = re.compile(rf'({_TOKEN})(?:=(?:({_TOKEN})|"((?:[^"\\]|\\.)*)"))?[ \t]*(?:,|$)')
_GAP = re.compile(r"[ \t,]*")
_LONGEST = 4096
_MOST_SECONDS = 2**31  # RFC 9111, 1.2.2


class Directives:
    """The directives of a message, names in lower case."""

    def __init__(self, found: Mapping[str, Sequence[str | None]]) -> None:
        self._found = found

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def seconds(self, name: str) -> int | None:
        """Return the seconds of a directive, None without it; 0 (stale) when it is no number, the least of several."""
        values = self._found.get(name)
        return None if values is None else min(map(delta_seconds, values))


def parse(values: Sequence[str]) -> Directives | None:
    """Return the directives of all Cache-Control lines together; None when they cannot be understood."""
    text = ",".join(values)
    if len(text) > _LONGEST:
        return None
    found: dict[str, list[str | None]] = {}
    position = _end_of_gap(text, 0)
    while position < len(text):
        one = _ONE.match(text, position)
        if one is None:
            return None
        quoted = None if one[3] is None else re.sub(r"\\(.)", r"\1", one[3])
        found.setdefault(one[1].lower(), []).append(quoted if one[2] is None else one[2])
        position = _end_of_gap(text, one.end())
    return Directives(found)


def delta_seconds(text: str | None) -> int:
    """Return the number in `text`, at most 2**31; 0 when it is none (RFC 9111, 4.2.1: as stale)."""
    if text is None or not (text.isascii() and text.isdigit()):
        return 0
    return min(int(text), _MOST_SECONDS) if len(text) <= 10 else _MOST_SECONDS


def _end_of_gap(text: str, position: int) -> int:
    gap = _GAP.match(text, position)
    return position if gap is None else gap.end()
