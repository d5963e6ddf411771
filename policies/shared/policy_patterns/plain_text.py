"""Text as a reader takes it in: without what shows nothing, in compatibility form, with single spaces.

A separate module because it knows Unicode and no patterns. All of it is linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

import re2

_RANGES = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x2800, 0x2800),  # a braille cell without dots: no default-ignorable character, and as empty as they are
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)
"""Default_Ignorable_Code_Point (Unicode, DerivedCoreProperties.txt), and what else shows nothing."""

_CLASS = "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in _RANGES)
_SHOWING_NOTHING = frozenset(chr(code) for first, last in _RANGES for code in range(first, last + 1))
_UNSHOWN = ("Cc", "Cf", "Cn")  # control, format, unassigned
_LINE_AND_SPACE = frozenset("\t\n\v\f\r\x85")
_ASCII_UNSHOWN = [code for code in (*range(32), 127) if chr(code) not in _LINE_AND_SPACE]
_LONGEST_RUN = 30  # of combining marks: UAX #15, 13, Stream-Safe Text Format
_MARKS = re2.compile(rf"\pM{{{_LONGEST_RUN}}}")
_JOINER = "\u034f"  # COMBINING GRAPHEME JOINER, which the Stream-Safe Text Process puts between
_FORMS = "\u2070-\u209c\u2100-\u214f\u2460-\u24ff\ufb00-\ufb06\uff01-\uffee\U0001d400-\U0001d7ff\U0001f100-\U0001f1e5"
"""Where Unicode keeps letters that are other letters in another form: full width, in circles, bold."""

_HIDDEN_OR_FORM = re.compile(rf"[{_CLASS}]+|[{_FORMS}]")
_WHITE = re.compile(r"\s{2,}|[^\S ]")
_SPECIAL = re.compile(rf"[\s{_CLASS}]{{2,}}|[{_CLASS}]|[^\S ]|[{_FORMS}]")


def searchable(text: str) -> str:
    """Return `text` with every lone surrogate, which RE2 cannot take, as U+FFFD: of the same length."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def normal_form(text: str, unshown: str = "", *, kept: str = "") -> str:
    """Return `text` in NFKC, each character that shows nothing, but for those `kept`, as `unshown`.

    White space and line ends stay. Runs of combining marks are parted after 30 as UAX #15 has it: the work to order one
    grows with its square.
    """
    if text.isascii():
        if text.isprintable():
            return text
        table = {code: unshown for code in _ASCII_UNSHOWN if chr(code) not in kept}
        return text.replace("\r\n", "\n").translate(table)
    text = _shown(searchable(text).replace("\r\n", "\n"), unshown, kept)
    return _shown(unicodedata.normalize("NFKC", _stream_safe(text)), unshown, kept)


def has_unshown(text: str) -> bool:
    """Tell whether `text` holds characters that show nothing."""
    return not text.isascii() and not _SHOWING_NOTHING.isdisjoint(text)


class Folded:
    """A text without what shows nothing, runs of white space as one space, letters in their plain form.

    `origin` leads from a span of it back to the text that it was made of. The work grows with the text; what only
    `origin` needs is made when it is first asked.
    """

    __slots__ = ("_changes", "_first", "_places", "text")

    def __init__(self, text: str) -> None:
        self._first = text
        self._changes: list[_Change] | None = None
        self._places: list[int] = []
        if not text.isascii():
            text = _HIDDEN_OR_FORM.sub(lambda found: _folded(found[0]), text)
        self.text = _WHITE.sub(" ", text)

    @property
    def changed(self) -> bool:
        """Whether the text is another than the first one."""
        return self.text != self._first

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the first text that became `start` to `end`, whole where it fell inside a change."""
        changes = self._changes
        if changes is None:
            changes = self._changes = list(_changes(self._first))
            self._places = [change.here for change in changes]
        before, after = bisect_right(self._places, start), bisect_left(self._places, end)
        return (
            _origin(changes[before - 1], start) if before else start,
            _origin(changes[after - 1], end, last=True) if after else end,
        )


class _Change(NamedTuple):
    """What became of a piece of the first text: place and length now, place and length then."""

    here: int
    length: int
    there: int
    length_there: int


def _changes(text: str) -> Iterator[_Change]:
    at = size = 0
    for found in _SPECIAL.finditer(text):
        start, end = found.span()
        size += start - at
        length = len(_folded(found[0]))
        yield _Change(size, length, start, end - start)
        size += length
        at = end


def _origin(change: _Change, at: int, *, last: bool = False) -> int:
    behind = at - change.here - change.length
    if behind < 0:
        return change.there + change.length_there if last else change.there
    return change.there + change.length_there + behind


def _folded(special: str) -> str:
    if len(special) == 1 and special not in _SHOWING_NOTHING and not special.isspace():
        plain = unicodedata.normalize("NFKC", special)
        return special if " " in plain else plain  # an accent that stands alone is no space
    return " " if any(map(str.isspace, special)) else ""


def _shown(text: str, unshown: str, kept: str) -> str:
    used = set(text)
    shown = {char for char in used if char in kept or _shows(char)}
    if len(shown) == len(used):
        return text
    if not unshown:
        return "".join(filter(shown.__contains__, text))
    return "".join([char if char in shown else unshown for char in text])


def _shows(char: str) -> bool:
    if char in _SHOWING_NOTHING:
        return False
    return char in _LINE_AND_SPACE or unicodedata.category(char) not in _UNSHOWN


def _stream_safe(text: str) -> str:
    data = text.encode()
    ends = [found.end() for found in _MARKS.finditer(data)]
    if not ends:
        return text
    parts = [data[start:end].decode() for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
    return _JOINER.join(parts)
