"""Strict JSON and media types."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_body import (
    NotJson,
    dump,
    is_compressed,
    matches_media,
    media_type_of,
    parse,
)
from policy_engine.sdk import Headers

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_json_comes_back_as_it_was(value: Any) -> None:
    assert parse(dump(value)) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"a":1,"a":1}', "twice"),
        (b'[{"b":{"a":1,"\\u0061":2}}]', "twice"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "NaN"),
        (b"1e999", "too large"),
        (b"1" * 5000, "digits"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udc00":1}', "surrogate"),
        (b'"\xff"', "UTF-8"),
        (b"\xef\xbb\xbf1", "line 1"),
        (b"", "line 1"),
        (b"{} {}", "line 1"),
        (b"[" * 65 + b"]" * 65, "64 levels"),
        (b"[" * 200_000, "64 levels"),
        (b'{"a":secret}', "line 1, column 6"),
    ],
)
def test_what_two_parsers_could_read_in_two_ways_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(NotJson, match=why) as caught:
        parse(text)
    assert "secret" not in str(caught.value)


def test_depth_counts_containers() -> None:
    assert parse(b"[[1]]", 2) == [[1]]
    with pytest.raises(NotJson):
        parse(b"[[[]]]", 2)


def test_media_types() -> None:
    headers = Headers.of(
        {"content-type": 'Application/Problem+JSON; a=b; Charset="UTF-8"', "content-encoding": "identity, br"}
    )
    assert media_type_of(headers) == "application/problem+json"
    assert is_compressed(headers)
    assert not is_compressed(Headers.of({"content-encoding": "identity"}))
    assert media_type_of(Headers.of({"content-type": ["application/json", "text/plain"]})) == ""
    assert matches_media("application/problem+json", ["application/*+json"])
    assert not matches_media("application/json", ["application/*+json"])
    assert matches_media("text/plain", ["text/*"])
    assert not matches_media("text/", ["text/*"])
    assert matches_media("text/plain", ["*/*"])
    assert not matches_media("", ["*/*"])
