"""What may not be said: patterns and words, held against text in a normal form; apart as it knows only text.

The normal form (NFKC, no control or invisible characters) is what a model reads out of letters that only look alike.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import re2

from policy_patterns import compile_pattern, searchable

Span = tuple[int, int]
_KEPT = "\n\t"


def normal(text: str) -> str:
    """Return `text` in NFKC, with line ends and tabs kept, without other control, format or unassigned characters."""
    if text.isascii() and text.isprintable():
        return text
    plain = unicodedata.normalize("NFKC", searchable(text).replace("\r\n", "\n"))
    return "".join(char for char in plain if char in _KEPT or unicodedata.category(char) not in ("Cc", "Cf", "Cn"))


class Rules:
    """Deny patterns and words, less what allow patterns match."""

    def __init__(self, patterns: Sequence[str], words: Sequence[str], allowed: Sequence[str], where: str) -> None:
        self._deny = [
            compile_pattern(text, f"{where}deny_patterns/{at}", ignore_case=True) for at, text in enumerate(patterns)
        ]
        spelled = [re2.escape(normal(word)) for word in words]
        if spelled:
            edge = r"(?:^|[^\pL\pN_])"
            text = rf"{edge}({'|'.join(spelled)})(?:$|[^\pL\pN_])"
            self._words: Any = compile_pattern(text, f"{where}deny_words", ignore_case=True)
        else:
            self._words = None
        self._allow = [
            compile_pattern(text, f"{where}allow_patterns/{at}", ignore_case=True) for at, text in enumerate(allowed)
        ]

    def spans(self, text: str) -> list[Span]:
        """Return what is denied in `text` in order, overlaps put together; a find inside an allowed match is none."""
        return self.look(text)[0]

    def look(self, text: str) -> tuple[list[Span], list[Span]]:
        """Return what is denied, and the allowed matches that made a find none."""
        plain = searchable(text)
        found = [one.span() for pattern in self._deny for one in pattern.finditer(plain) if one.end() > one.start()]
        at = 0
        while self._words is not None and (one := self._words.search(plain, at)):
            found.append(one.span(1))
            at = max(one.end(1), at + 1)  # the character behind one word may be the edge of the next
        if not found:
            return [], []
        allowed = [one.span() for pattern in self._allow for one in pattern.finditer(plain)]
        kept: list[Span] = []
        exempt: list[Span] = []
        for start, end in sorted(found):
            around = [one for one in allowed if one[0] <= start and end <= one[1]]
            exempt += around
            if around:
                continue
            if kept and start < kept[-1][1]:
                kept[-1] = (kept[-1][0], max(end, kept[-1][1]))
            else:
                kept.append((start, end))
        return kept, exempt


def redacted(text: str, spans: Sequence[Span], label: str) -> str:
    """Return `text` with `label` in the place of the spans."""
    parts: list[str] = []
    at = 0
    for start, end in spans:
        parts += (text[at:start], label)
        at = end
    parts.append(text[at:])
    return "".join(parts)
