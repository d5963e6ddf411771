"""JSON Pointers as RFC 6901 has them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import MISSING, PointerError, find, format_pointer, parse_pointer
from policy_engine.sdk.json_pointer import index_of, path_within

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~01-", max_size=3), inner, max_size=3),
    max_leaves=12,
)


def paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], Any]]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(path, value), *(found for name, item in members for found in paths(item, (*path, name)))]


@given(st.lists(st.text("ab/~01\x00é", max_size=6)))
def test_pointers_come_back(tokens: list[str]) -> None:
    assert list(parse_pointer(format_pointer(tokens))) == tokens


@given(JSON)
def test_every_value_is_found_by_its_path_and_by_its_pointer(document: Any) -> None:
    for path, value in paths(document):
        pointer = format_pointer(path)
        assert find(document, path) is value
        assert find(document, parse_pointer(pointer)) is value
        assert path_within(document, pointer) == path


@given(JSON, st.text("/ab01~-", max_size=8))
def test_a_pointer_leads_as_far_as_its_path_exists(document: Any, pointer: str) -> None:
    path = path_within(document, pointer)
    assert find(document, path) is not MISSING
    assert pointer.count("/") >= len(path)


RFC_DOCUMENT: dict[str, Any] = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
    "~1": 9,
}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", RFC_DOCUMENT),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
        ("/~01", 9),
    ],
)
def test_the_examples_of_rfc_6901_5(pointer: str, value: Any) -> None:
    assert find(RFC_DOCUMENT, parse_pointer(pointer)) == value


@pytest.mark.parametrize("token", ["00", "01", "-", "-1", "+1", "1.0", " 1", "1 ", "", "٣", "1_0", "2", "9" * 30])
def test_an_index_has_digits_without_leading_zeros_and_lies_within(token: str) -> None:
    assert find(RFC_DOCUMENT, ("foo", token)) is MISSING
    assert path_within(RFC_DOCUMENT, f"/foo/{token}") == ("foo",)


@pytest.mark.parametrize("pointer", ["/x", "/foo/0/0", "/foo/bar", "/ /7"])
def test_what_is_not_there_is_missing(pointer: str) -> None:
    assert find(RFC_DOCUMENT, parse_pointer(pointer)) is MISSING


@pytest.mark.parametrize("pointer", ["a", "#/a", "/~", "/~2", "/a~", "/a/~x"])
def test_what_is_no_pointer_is_refused(pointer: str) -> None:
    with pytest.raises(PointerError):
        parse_pointer(pointer)


def test_negative_indices_do_not_count_from_the_end() -> None:
    assert index_of(-1) is None
    assert find([1], (-1,)) is MISSING
