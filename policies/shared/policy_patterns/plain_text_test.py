"""Text as a reader takes it in: what is dropped, what is folded, the way back, and what it costs."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from policy_patterns import Folded, has_unshown, normal_form, plain_text

UNSHOWN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b\u180e\u180f\u200b\u200d\u200f\u202a\u202e\u2060\u2065\u206f"
    "\u2800\u3164\ufe00\ufe0f\ufeff\uffa0\ufff0\U0001bca0\U0001d173\U000e0000\U000e0041\U000e007f\U000e01ef\U000e0fff"
)


@pytest.mark.parametrize("char", UNSHOWN, ids=lambda char: f"U+{ord(char):04X}")
def test_what_shows_nothing_is_dropped(char: str) -> None:
    assert normal_form(f"ig{char}nore") == "ignore"
    assert normal_form(f"ig{char}nore", " ") == "ig nore"
    assert Folded(f"ig{char * 2}nore").text == "ignore"
    assert has_unshown(char)


def test_whatever_unicode_counts_as_a_mark_that_is_reordered_is_bounded() -> None:
    marks = [chr(code) for code in range(0x110000) if unicodedata.combining(chr(code))]
    assert [mark for mark in marks if re2.match(r"\pM", mark) is None] == []


def test_formats_and_controls_are_dropped_and_white_space_stays() -> None:
    hidden = [chr(code) for code in range(0x3000) if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cn")]
    kept = set("\t\n\v\f\r\x85")
    assert normal_form("".join(char for char in hidden if char not in kept)) == ""
    assert normal_form("a\tb\r\nc\vd\u2003e\u00a0f") == "a\tb\nc\vd e f"


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("a \n\t b", "a b"),
        ("a\u2003\u3000b\u2028c\x85d", "a b c d"),
        ("a \u200b \u2800b", "a b"),
        ("\uff22\uff21\uff24 \U0001d41b\u24d0d", "BAD bad"),
        ("f\ufb01t", "ffit"[:1] + "fit"),
        ("plain text", "plain text"),
        ("\uffe3", "\uffe3"),
    ],
)
def test_folding(text: str, folded: str) -> None:
    assert Folded(text).text == folded
    assert Folded(text).changed == (text != folded)


TEXT = st.text(st.sampled_from("ab  \n\t\u200b\u2800\uff21\ufb01\uffe3\u2003é\u0301\U0001d41b"), max_size=30)


@given(TEXT, st.integers(0, 30), st.integers(0, 30))
def test_a_span_leads_back_to_what_it_was_made_of(text: str, first: int, second: int) -> None:
    folded = Folded(text)
    start, end = sorted((first % (len(folded.text) + 1), second % (len(folded.text) + 1)))
    back = folded.origin(start, end)
    assert 0 <= back[0] <= len(text)
    if start < end:
        assert back[0] < back[1] <= len(text)
        assert folded.text[start:end].strip() in Folded(text[slice(*back)]).text
    assert [folded.origin(at, at + 1)[0] for at in range(len(folded.text))] == sorted(
        folded.origin(at, at + 1)[0] for at in range(len(folded.text))
    )


@given(st.text(max_size=40))
def test_nothing_makes_it_fail_and_twice_is_once(text: str) -> None:
    once = normal_form(text)
    assert normal_form(once) == once
    assert not has_unshown(once)
    Folded(text).origin(0, 0)


SHAPES: dict[str, Callable[[int], str]] = {
    "marks of two classes": lambda n: "a" + "\u0301" * n + "\u0316" * n,
    "marks one by one": lambda n: "\u0316\u0301" * n,
    "marks that become several": lambda n: "a" + "\u0344" * n + "\u0316" * n,
    "marks parted by what is dropped": lambda n: "a" + "\u0301\u034f" * n + "\u0316" * n,
    "expansions": lambda n: "\ufb03" * n,
    "syllables": lambda n: "\u1100\u1161\u11a8" * n,
    "unshown": lambda n: "a\u200b" * n,
    "spaces": lambda n: "a  " * n,
    "full width": lambda n: "\uff21" * n,
    "every letter": lambda n: "".join(chr(0x4E00 + at % 20_000) for at in range(n)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cost_is_linear(shape: str) -> None:
    def cost(size: int) -> float:
        text = SHAPES[shape](size)
        begin = time.process_time()
        normal_form(text)
        Folded(text).origin(0, 1)
        return time.process_time() - begin

    costs = [min(cost(size) for _ in range(3)) for size in (10_000, 20_000, 40_000)]
    assert costs[2] < 10 * max(costs[0], 0.02), costs  # of 10 ms and less, noise is the larger part


def test_the_classes_are_written_once() -> None:
    assert sum(last - first + 1 for first, last in plain_text._RANGES) == len(plain_text._SHOWING_NOTHING)
