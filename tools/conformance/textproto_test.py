"""The text format as cel-spec's files use it, and what of the format they do not use yet."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf import text_format

from tools.conformance.textproto import first, read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", {}),
        ("# only a comment\n", {}),
        ('name: "basic"', {"name": [b"basic"]}),
        ('a: "one" "two"\n\'three\'', {"a": [b"onetwothree"]}),
        (r'a: "\303\277\x41\n\"" # and a comment', {"a": [b'\xc3\xbfA\n"']}),
        ('a: "#no comment"', {"a": [b"#no comment"]}),
        ("a { b { c: 1 } }", {"a": [{"b": [{"c": [1]}]}]}),
        ("a: { b: 1 } a < b: 2 >", {"a": [{"b": [1]}, {"b": [2]}]}),
        ("a: [1, 2] a: 3", {"a": [1, 2, 3]}),
        ("a: []", {"a": []}),
        ("a: 1, b: 2; c: 3", {"a": [1], "b": [2], "c": [3]}),
        ("a: -9223372036854775808 b: 18446744073709551615", {"a": [-(2**63)], "b": [2**64 - 1]}),
        ("a: 0x10 b: 010 c: 0", {"a": [16], "b": [8], "c": [0]}),
        ("a: 1.5 b: -1e-3 c: 2f d: -.5", {"a": [1.5], "b": [-0.001], "c": [2.0], "d": [-0.5]}),
        ("a: inf b: -inf c: -Infinity", {"a": [math.inf], "b": [-math.inf], "c": [-math.inf]}),
        ("a: true b: NULL_VALUE", {"a": ["true"], "b": ["NULL_VALUE"]}),
        (
            "v { [type.googleapis.com/google.protobuf.Duration] { seconds: 1 } }",
            {"v": [{"[type.googleapis.com/google.protobuf.Duration]": [{"seconds": [1]}]}]},
        ),
    ],
)
def test_messages(text: str, message: dict[str, Any]) -> None:
    assert read(text) == message


def test_nan() -> None:
    assert math.isnan(read("a: nan")["a"][0])


@pytest.mark.parametrize("text", ["a {", 'a: "open', "a: 1 }", ": 1"])
def test_what_is_no_message_is_refused(text: str) -> None:
    with pytest.raises(text_format.ParseError):
        read(text)


def test_the_first_of_a_field() -> None:
    assert first({"a": [1, 2]}, "a") == 1
    assert first({}, "a") is None
    assert first({}, "a", 5) == 5
