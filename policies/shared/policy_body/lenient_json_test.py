"""JSON of upstreams: what any client could read is read, and comes out as something that all read alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_body import NotJson, parse, read_leniently, write_leniently

LARGEST = 1.7976931348623157e308


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'{"a":{"b":1},"\\u0061":{"b":2}}', {"a": {"b": 2}}),
        (rb'"\x41 \' \u12 \ud83d\ude00 \\x \\\x"', "\\x41 \\' \\u12 \U0001f600 \\x \\\\x"),
        (b'"tab\there\nand a line"', "tab\there\nand a line"),
        (b"\xef\xbb\xbf{}", {}),
        (b'{"a":"\xff"}', {"a": "\ufffd"}),
        (b"[1e999,-1e999]", [LARGEST, -LARGEST]),
        (b"1" * 5000, LARGEST),
        (b"-" + b"1" * 5000, -LARGEST),
        (b'"\\ud800"', "\ud800"),
        (b"[" * 200 + b"]" * 200, None),
    ],
)
def test_what_strict_parsers_refuse_is_read(data: bytes, value: Any) -> None:
    with pytest.raises(NotJson):
        parse(data)
    found = read_leniently(data)
    assert not found.exact
    assert value is None or found.value == value
    assert json.loads(write_leniently(found.value)) == found.value


def test_nan_goes_on_as_nan() -> None:
    found = read_leniently(b'{"usage":[NaN,Infinity,-Infinity],"a":"\\ud800"}')
    assert write_leniently(found.value) == b'{"usage":[NaN,Infinity,-Infinity],"a":"\\ud800"}'


def test_what_is_exact_says_so() -> None:
    assert read_leniently(b'{"a": 1}').exact


@pytest.mark.parametrize(
    "data", [b"", b"{", b"{'a':1}", b"[1,]", b"\xff", b'"a', b"[" * 300 + b"]" * 300, b"[" * 10**6]
)
def test_what_no_parser_takes_is_refused(data: bytes) -> None:
    with pytest.raises(NotJson):
        read_leniently(data)


@given(st.binary(max_size=30) | st.text('[]{}",:\\uda0dNaInfity1e.-\x00\n', max_size=30).map(str.encode))
def test_nothing_but_a_refusal_is_raised(data: bytes) -> None:
    try:
        found = read_leniently(data)
    except NotJson:
        return
    json.loads(write_leniently(found.value), strict=False)
