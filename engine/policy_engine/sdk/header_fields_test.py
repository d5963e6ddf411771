"""Header fields in every way in which Envoy, other proxies and clients write one and the same value."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import (
    Headers,
    Request,
    UnreadableHeader,
    authority_of,
    content_codings,
    credentials,
    list_members,
    media_type,
    single,
)


def of_type(*lines: str) -> Headers:
    return Headers.of({"content-type": lines})


@pytest.mark.parametrize(
    "lines",
    [
        ("application/json",),
        ("application/json", "application/json"),
        ("application/json,application/json",),
        ("application/json , application/json,", "application/json"),
        (" application/json\t",),
        (",application/json",),
    ],
)
def test_equal_values_of_a_single_valued_header_count_as_one(lines: tuple[str, ...]) -> None:
    assert single(of_type(*lines), "content-type") == "application/json"


@pytest.mark.parametrize(
    "lines",
    [
        ("application/json", "text/plain"),
        ("application/json,text/plain",),
        ("text/plain;charset=utf-8,application/json",),
        ('text/plain;a="x",application/json',),
        ('text/plain;a="x\\",application/json', "application/json"),
    ],
)
def test_different_values_of_a_single_valued_header_are_unreadable(lines: tuple[str, ...]) -> None:
    with pytest.raises(UnreadableHeader) as refused:
        media_type(of_type(*lines))
    assert "json" not in str(refused.value)


def test_an_absent_or_empty_header_has_no_value() -> None:
    assert single(Headers(), "content-type") is None
    assert media_type(of_type("")) is None
    assert media_type(of_type(",")) is None


def test_a_media_type_is_read_with_its_parameters() -> None:
    read = media_type(of_type('Text/PLAIN; Charset="UTF\\-8" ;; format=flowed;'))
    assert read is not None
    assert (read.essence, read.charset, read.parameters["format"]) == ("text/plain", "utf-8", "flowed")


def test_a_comma_in_a_quoted_parameter_does_not_end_the_value() -> None:
    read = media_type(of_type('text/plain; note="a,b\\"c,d"'))
    assert read is not None
    assert read.parameters["note"] == 'a,b"c,d'


def test_a_parameter_that_is_repeated_with_the_same_value_is_one() -> None:
    read = media_type(of_type("text/plain;charset=utf-8;CHARSET=utf-8"))
    assert read is not None
    assert read.charset == "utf-8"


@pytest.mark.parametrize(
    "text",
    [
        "json",
        "application/",
        "/json",
        "application json",
        "application/json x",
        "text/plain;charset=utf-8;charset=utf-16",
        "text/plain;charset",
        "text/plain;charset=",
        'text/plain;a="unterminated',
        "text/plain;=x",
        "application/json\x0b",
    ],
)
def test_what_is_no_media_type_is_unreadable_and_not_some_other_type(text: str) -> None:
    with pytest.raises(UnreadableHeader):
        media_type(of_type(text))


def test_members_of_a_list_are_the_same_however_the_lines_are_joined() -> None:
    assert list_members(["a, b", "c"]) == list_members(["a,b,c"]) == list_members([" a ,, b,c,"]) == ["a", "b", "c"]
    assert list_members(['"a,b", c', '"d\\",e"']) == ['"a,b"', "c", '"d\\",e"']


def test_content_codings_are_read_from_all_lines() -> None:
    assert content_codings(Headers.of({"content-encoding": ["identity, GZIP", "br"]})) == ["gzip", "br"]
    assert content_codings(Headers()) == []


@pytest.mark.parametrize(
    "authority",
    [
        *("api.example.com", "API.EXAMPLE.COM", "api.example.com.", "api.example.com:80", "API.example.com.:80"),
        *("api.example.com:", "api.example.com.:443", "api.example.com:0080"),
    ],
)
def test_spellings_of_a_host_are_one_host(authority: str) -> None:
    request = Request(Headers.of({":authority": authority}))
    assert request.host == "api.example.com"
    assert request.authority == authority


def test_spellings_of_an_address_in_brackets_are_one_host() -> None:
    hosts = {Request(Headers.of({":authority": one})).host for one in ("[::1]", "[0:0::1]:443", "[0:0:0:0:0:0:0:1]")}
    assert hosts == {"[::1]"}


def test_the_port_is_part_of_an_authority_unless_it_is_the_scheme_s_own() -> None:
    assert authority_of("API.example.com.:443", "https") == authority_of("api.example.com", "https")
    assert authority_of("api.example.com:443", "http") == "api.example.com:443"
    assert authority_of("[::1]:08080", "http") == "[::1]:8080"


READERS: dict[str, Callable[[str], object]] = {
    "single": lambda text: single(Headers.of({"x-a": [text]}), "x-a"),
    "list_members": lambda text: list_members([text]),
    "media_type": lambda text: media_type(Headers.of({"content-type": [text]})),
    "content_codings": lambda text: content_codings(Headers.of({"content-encoding": [text]})),
    "credentials": lambda text: credentials(Headers.of({"authorization": [text]}), "authorization", "Basic "),
    "authority_of": lambda text: authority_of(text, "http"),
}
SHAPES = [
    '"',
    '""',
    '\\"',
    '"\\',
    '"a",',
    'W/"a",',
    "a,",
    ",",
    " ,",
    'a="b;',
    "a/b;a=b",
    'a/b;a="\\',
    "a.",
    "a:1",
    "[::1],",
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reader", READERS)
def test_the_cost_of_reading_is_linear(reader: str, shape: str) -> None:
    def cost(size: int) -> float:
        text = (shape * size)[:size]
        begin = time.process_time()
        with suppress(UnreadableHeader):
            READERS[reader](text)
        return time.process_time() - begin

    costs = [min(cost(size) for _ in range(3)) for size in (100_000, 200_000, 400_000)]
    assert costs[2] < 10 * max(costs[0], 0.02), costs  # of 10 ms and less, noise is the larger part


@given(st.text(alphabet='",\\a \n', max_size=30))
def test_members_are_what_lies_between_commas_outside_quoted_strings(text: str) -> None:
    members, quoted, escaped = [""], False, False
    for char in text:
        if char == "," and not quoted:
            members.append("")
            continue
        members[-1] += char
        if quoted and escaped:
            escaped = False
        elif quoted and char == "\\":
            escaped = True
        elif char == '"':
            quoted = not quoted
    assert list_members([text]) == [one.strip(" \t") for one in members if one.strip(" \t")]
