"""What may not be said: patterns and words, held against text as a reader takes it in; apart as it knows only text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import re2

from policy_engine.sdk import ParameterError
from policy_patterns import Folded, any_of, compile_pattern, has_unshown, normal_form, searchable

Span = tuple[int, int]
_MOST_FINDS = 10_000
"""Finds of one pattern in one text that are told apart. What follows is denied: a text with so many is no accident, and
an expression like `a.*b|a` may look at the whole rest for each of them."""

_MARK = "\0"
_MARK_BYTES = b"\0"
_APART = f"\n{_MARK}\n"
_FOLDED_APART = f" {_MARK} "
"""Between texts that are searched at once: no text holds the mark, and `.` does not go over a line's end."""

_OF_THE_WHOLE = re.compile(r"\\[Az]|\(\?[a-zA-Z]*-[a-zA-Z]*m")
"""What in an expression is about the beginning and the end of a text, and not also true of a line."""


@dataclass(frozen=True, slots=True)
class RuleTexts:
    """Rules as the parameters have them, so that they can be sent to where the work is done."""

    patterns: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    where: str = ""

    @classmethod
    def of(cls, side: Any, where: str) -> RuleTexts:
        """Take the rules of one side of the parameters."""
        patterns, words = side.get("deny_patterns", ()), side.get("deny_words", ())
        return cls(tuple(patterns), tuple(words), tuple(side.get("allow_patterns", ())), where)


@lru_cache(maxsize=256)
def compiled(texts: RuleTexts) -> Rules:
    """Return these rules compiled, once for each process; raises ParameterError."""
    return Rules(texts)


class Rules:
    """Deny patterns and words, less what allow patterns match. All work is linear in the text."""

    def __init__(self, texts: RuleTexts) -> None:
        self._deny = _compiled(texts.patterns, f"{texts.where}deny_patterns")
        words = _word_pattern(texts.words, f"{texts.where}deny_words")
        self._words: Any = compile_pattern(words, f"{texts.where}deny_words", ignore_case=True) if words else None
        every = [*texts.patterns, *([words] if words else [])]
        self._any = any_of(every, ignore_case=True)
        self._lines = _Lines.of(every)
        self._allow = _compiled(texts.allowed, f"{texts.where}allow_patterns")

    def suspects(self, texts: Sequence[str]) -> list[int]:
        """Return which of many texts may hold what is denied, by their places in order; surely not all others.

        A body has as many texts as a client likes: all are searched at once, and each on its own only when it must be.
        """
        if self._lines is None:
            return list(range(len(texts)))
        joined = _APART.join([text.replace(_MARK, "") if _MARK in text else text for text in texts])
        found: set[int] = set()
        for reading in readings(joined, kept=_MARK):
            folded = Folded(reading)
            for form in {reading, folded.text.replace(_FOLDED_APART, _APART)}:
                data = searchable(form).encode()
                found.update(self._lines.touched(data, len(texts)))
        return sorted(found)

    def denies(self, text: str) -> bool:
        """Tell whether `spans` would return any."""
        if self._allow:
            return bool(self.spans(text))
        return any(next(self._finds(data), None) for data in {searchable(one).encode() for one in _forms(text)})

    def spans(self, text: str) -> list[Span]:
        """Return what is denied in `text` in order, overlaps put together; a find inside an allowed match is none."""
        return self.look(text)[0]

    def look(self, text: str) -> tuple[list[Span], list[Span]]:
        """Return what is denied, and the allowed matches that made a find none.

        Looked at is the text as it is, and once more folded (without what shows nothing, white space as one space).
        """
        found, allowed = self._look(text)
        folded = Folded(text)
        if folded.changed:
            more, more_allowed = self._look(folded.text)
            found += [folded.origin(*span) for span in more]
            allowed = [
                [*spans, *(folded.origin(*span) for span in others)]
                for spans, others in zip(allowed, more_allowed, strict=True)
            ]
        if not found:
            return [], []
        return _without_allowed(sorted(set(found)), allowed)

    def _look(self, text: str) -> tuple[list[Span], list[list[Span]]]:
        data = searchable(text).encode()
        found = _characters(data, list(self._finds(data)))
        if not found:
            return [], [[] for _ in self._allow]
        return found, [_characters(data, list(_some(_matches(pattern, data)))) for pattern in self._allow]

    def _finds(self, data: bytes) -> Iterator[Span]:
        if self._any is not None and not self._any.search(data):
            return  # one search for all of them, as most texts hold nothing
        for pattern in self._deny:
            yield from _or_all_the_rest(_matches(pattern, data), len(data))
        if self._words is not None:
            yield from _or_all_the_rest(self._word_matches(data), len(data))

    def _word_matches(self, data: bytes) -> Iterator[Span]:
        at = 0
        while one := self._words.search(data, at):
            yield one.span(1)
            at = max(one.end(1), at + 1)  # the character behind one word may be the edge of the next


def readings(text: str, *, kept: str = "") -> Iterator[str]:
    """Yield what a model may take a text for: what shows nothing may be nothing, or part two words."""
    yield normal_form(text, kept=kept)
    if has_unshown(text):
        yield normal_form(text, " ", kept=kept)


def redacted(text: str, spans: Sequence[Span], label: str) -> str:
    """Return `text` with `label` in the place of the spans."""
    parts: list[str] = []
    at = 0
    for start, end in spans:
        parts += (text[at:start], label)
        at = end
    parts.append(text[at:])
    return "".join(parts)


def _compiled(texts: Sequence[str], where: str) -> list[Any]:
    return [compile_pattern(text, f"{where}/{at}", ignore_case=True) for at, text in enumerate(texts)]


@dataclass(frozen=True, slots=True)
class _Lines:
    """Expressions that match wherever the given ones do in one of many lines.

    `any` is all of them in one, None when they do not fit: it tells in one pass that there is nothing, which is most
    often so. Finds come from `each`: a search for several goes on as long as one of them may still match.
    """

    any: Any
    each: tuple[Any, ...]

    @classmethod
    def of(cls, patterns: Sequence[str]) -> _Lines | None:
        """Return them, None where some say of a whole text what is not true of a line, or are too long."""
        if _OF_THE_WHOLE.search("|".join(patterns)):
            return None
        lines = [f"(?m:{pattern})" for pattern in patterns]
        each = tuple(any_of([line], ignore_case=True) for line in lines)
        return None if None in each else cls(any_of(lines, ignore_case=True), each)

    def touched(self, data: bytes, count: int) -> Iterator[int]:
        """Yield the places of the texts that a find touches."""
        if self.any is None or self.any.search(data):
            for pattern in self.each:
                yield from _touched(pattern, data, count)


def _touched(pattern: Any, data: bytes, count: int) -> Iterator[int]:
    """Yield the places of the texts that a match touches; all that follow when the matches are too many."""
    at = before = 0
    for start, end in _or_all_the_rest(_matches(pattern, data), len(data)):
        before += data.count(_MARK_BYTES, at, start)
        at = start
        yield from range(before, min(count, before + data.count(_MARK_BYTES, start, end) + 1))


def _word_pattern(words: Sequence[str], where: str) -> str:
    """Return an expression whose group 1 is one of `words`; what a client sends has the same form."""
    spelled = [Folded(normal_form(word)).text.strip() for word in words]
    if "" in spelled:
        raise ParameterError("a word that shows something is expected", f"{where}/{spelled.index('')}")
    return rf"(?:^|[^\pL\pN_])({'|'.join(map(re2.escape, spelled))})(?:$|[^\pL\pN_])" if spelled else ""


def _forms(text: str) -> tuple[str, ...]:
    folded = Folded(text)
    return (text, folded.text) if folded.changed else (text,)


def _matches(pattern: Any, data: bytes) -> Iterator[Span]:
    return (one.span() for one in pattern.finditer(data) if one.end() > one.start())


def _some(spans: Iterator[Span]) -> Iterator[Span]:
    return (span for span, _ in zip(spans, range(_MOST_FINDS), strict=False))


def _or_all_the_rest(spans: Iterator[Span], size: int) -> Iterator[Span]:
    yield from _some(spans)
    last = next(spans, None)
    if last is not None:
        yield last[0], size


def _characters(data: bytes, spans: list[Span]) -> list[Span]:
    """Return spans of bytes as spans of characters, in one pass over `data`."""
    if data.isascii() or not spans:
        return spans
    places = sorted({place for span in spans for place in span})
    counted: dict[int, int] = {}
    at = size = 0
    for place in places:
        size += len(data[at:place].decode())
        counted[place] = size
        at = place
    return [(counted[start], counted[end]) for start, end in spans]


def _without_allowed(found: list[Span], allowed: list[list[Span]]) -> tuple[list[Span], list[Span]]:
    """Part what is denied (overlaps put together) from the matches that allow; both in one pass over each rule's."""
    exempt: set[Span] = set()
    excused: set[Span] = set()
    for spans in allowed:
        around = iter(sorted(spans))
        match = next(around, None)
        widest: Span | None = None
        for start, end in found:
            while match is not None and match[0] <= start:
                widest = match if widest is None or match[1] >= widest[1] else widest
                match = next(around, None)
            if widest is not None and end <= widest[1]:
                exempt.add(widest)
                excused.add((start, end))
    kept: list[Span] = []
    for start, end in found:
        if (start, end) in excused:
            continue
        if kept and start < kept[-1][1]:
            kept[-1] = (kept[-1][0], max(end, kept[-1][1]))
        else:
            kept.append((start, end))
    return kept, sorted(exempt)
