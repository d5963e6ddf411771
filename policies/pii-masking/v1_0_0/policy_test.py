"""pii-masking through the test kit: what is found, what stays, and that chunks make no difference."""

from __future__ import annotations

import json
import sys
import time
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError, Policy
from policy_engine.sdk.testing import Outcome, load_policy, request, response, run

TEXT = {"content-type": "text/plain"}
JSON = {"content-type": "application/json"}
CARD = "4111 1111 1111 1111"
IBAN = "DE89 3704 0044 0532 0130 00"
FOUND = {
    "email": ["jane.doe+x@mail.example.com", "jörg@bücher.example"],
    "credit_card": [CARD, "4111111111111111", "5500-0000-0000-0004", "340000000000009"],
    "iban": [IBAN, "DE89370400440532013000", "GB82 WEST 1234 5698 7654 32", "no9386011117947"],
    "phone": [
        "+49 (0)30 1234567".replace("(0)", ""),
        "+14155550123",
        "0041 44 668 18 00",
        "(415) 555-0123",
        "415-555-0123",
    ],
    "ipv4": ["192.0.2.1", "255.255.255.255"],
    "ipv6": ["2001:db8::1", "::1", "::ffff:192.0.2.1", "2001:0db8:0000:0000:0000:ff00:0042:8329"],
}
LEFT = {
    "email": ["a@b", "@example.com", "not an address"],
    "credit_card": ["4111 1111 1111 1112", "41111111111111111111111", "0000 0000 0000 0000", "1234"],
    "iban": [
        "DE88 3704 0044 0532 0130 00",
        "XX89370400440532013000",
        "DE8937040044053201300",
        "aDE89370400440532013000",
    ],
    "phone": ["12345", "2024-01-31", "+1", "10:00:00"],
    "ipv4": ["256.1.1.1", "1.2.3", "1.2.3.4.5", "v1.2.3.4x"],
    "ipv6": ["std::vector", "12:34:56", "a:b", "::"],
}


def policy(**parameters: Any) -> Policy:
    return load_policy(__file__, parameters)


def through(subject: Policy, text: str | bytes, headers: dict[str, str] | None = None) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return run(subject, request(), response(headers=TEXT if headers is None else headers, body=raw)).body or b""


def streamed(subject: Policy, pieces: list[bytes], headers: dict[str, str] | None = None) -> Outcome:
    return run(subject, request(), response(headers=TEXT if headers is None else headers), response_chunks=pieces)


@pytest.mark.parametrize("kind", FOUND)
def test_what_is_found_and_what_is_not(kind: str) -> None:
    subject = policy(detect=[kind], mask={"label": "<{kind}>"})
    for text in FOUND[kind]:
        assert through(subject, f"see {text}, or") == f"see <{kind}>, or".encode(), text
        assert through(subject, text) == f"<{kind}>".encode(), text
    for text in LEFT[kind]:
        assert through(subject, f"see {text}, or") == f"see {text}, or".encode(), text


def test_a_card_is_found_among_other_digits() -> None:
    assert through(policy(detect=["credit_card"]), f"order 12 {CARD} 99") == b"order 12 *** 99"


def test_all_kinds_at_once_and_overlaps_leave_nothing() -> None:
    subject = policy(patterns=[{"name": "a", "pattern": "abcdef"}, {"name": "b", "pattern": "defghi+"}])
    assert through(subject, "xabcdefghiiy\n") == b"x***y\n"


def test_styles() -> None:
    assert through(policy(mask={"style": "keep_last"}), CARD) == b"***1111"
    short = policy(detect=[], patterns=[{"name": "n", "pattern": "[a-z]+"}], mask={"style": "keep_last", "keep": 4})
    assert through(short, "abcdefg") == b"***"
    assert through(short, "abcdefgh") == b"***efgh"


def test_hashes_are_equal_for_equal_data_and_need_the_salt() -> None:
    def hashed(salt: str, text: str) -> bytes:
        return through(policy(mask={"style": "hash", "salt": salt}), text)

    one = hashed("s" * 16, CARD)
    assert one.startswith(b"credit_card_")
    assert one == hashed("s" * 16, CARD.replace(" ", ""))
    assert one != hashed("t" * 16, CARD)
    assert hashed("s" * 16, IBAN) == hashed("s" * 16, IBAN.lower().replace(" ", ""))
    assert hashed("s" * 16, "192.0.2.1") != hashed("s" * 16, "19.20.2.1")


def test_json_texts_are_masked_wherever_escapes_hide_them() -> None:
    body = b'{"a":"x\\u0040y.example","n":4111111111111111,"l":["\\n192.0.2.1",{"d":1.5}],"k@y.example":null}'
    changed = json.loads(through(policy(), body, JSON))
    assert changed == {"a": "***", "n": 4111111111111111, "l": ["\n***", {"d": 1.5}], "k@y.example": None}


def test_json_without_finds_stays_byte_for_byte() -> None:
    body = b'{ "a" : "caf\\u00e9", "b": 1.0e3 }'
    outcome = run(policy(), request(), response(headers=JSON, body=body))
    assert outcome.body == body
    assert all(step.action is None for step in outcome.steps if step.hook == "on_response_body")


def test_pointers_choose_the_places() -> None:
    body = json.dumps({"u": [{"m": "a@b.example", "p": "a@b.example"}], "s": {"m": "a@b.example"}, "t": "a@b.example"})

    def left(**pointers: list[str]) -> Any:
        return json.loads(through(policy(json_pointers=pointers), body, JSON))

    assert left(exclude=["/s", "/u/*/p"]) == {
        "u": [{"m": "***", "p": "a@b.example"}],
        "s": {"m": "a@b.example"},
        "t": "***",
    }
    assert left(include=["/u/*/p", "/s"]) == {
        "u": [{"m": "a@b.example", "p": "***"}],
        "s": {"m": "***"},
        "t": "a@b.example",
    }
    assert left(include=["/u"], exclude=["/u/0/m"])["u"] == [{"m": "a@b.example", "p": "***"}]
    assert left(exclude=[""]) == json.loads(body)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (JSON, b"{"),
        (JSON, b'{"a":"a@b.example","a":1}'),
        (JSON, b'"' + b"x" * 200 + b'"'),
        ({"content-type": "text/plain; charset=utf-16"}, b"a@b.example"),
        ({"content-type": "text/plain; charset=utf-7"}, b"a+AEA-b.example"),
        ({"content-type": "text/plain; charset=utf-8; charset=utf-16"}, b"a@b.example"),
        ({"content-type": "text/plain,image/png"}, b"a@b.example"),
        ({"content-type": "image/png,text/plain"}, b"a@b.example"),
        ({"content-type": "text"}, b"a@b.example"),
        (TEXT, "a@b.example".encode("utf-16")),
        (TEXT, "a@b.example".encode("utf-16-le")),
        (TEXT, "a@b.example".encode("utf-16-be")),
        (TEXT, "a@b.example".encode("utf-32")),
        ({"content-type": "text/plain; charset=utf-8"}, "a@b.example".encode("utf-16-be")),
        ({"content-type": "text/plain; charset=iso-8859-1"}, "a@b.example".encode("utf-16-le")),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_unless_the_operator_lets_it_pass(
    headers: dict[str, str], body: bytes
) -> None:
    answer = response(headers=headers, body=body)
    assert run(policy(max_json_bytes=100), request(), answer).status == 502
    assert run(policy(max_json_bytes=100, unmaskable="pass"), request(), answer).body == body
    cut = [body[:1], body[1:3], body[3:]]
    assert b"".join(streamed(policy(max_json_bytes=100), cut, headers).response_chunks) == b""
    passed = streamed(policy(max_json_bytes=100, unmaskable="pass"), cut, headers)
    assert b"".join(passed.response_chunks) == body


def test_a_compressed_stream_is_not_passed_on() -> None:
    headers = {**TEXT, "content-encoding": "gzip"}
    assert streamed(policy(), [b"\x1f\x8b", b"a@b.example"], headers).response_chunks == []
    assert streamed(policy(unmaskable="pass"), [b"\x1f\x8b", b"x"], headers).response_chunks == [b"\x1f\x8b", b"x"]
    assert run(policy(), request(headers={"accept-encoding": "gzip"})).request.headers["accept-encoding"] == "identity"


def test_other_types_pass() -> None:
    assert through(policy(), "a@b.example", {"content-type": "image/png"}) == b"a@b.example"
    assert streamed(policy(), [b"a@b.exam", b"ple"], {}).response_chunks == [b"a@b.exam", b"ple"]


def test_requests_and_their_refusal() -> None:
    subject = policy(directions=["request"])
    outcome = run(
        subject, request("POST", headers=TEXT, body=b"a@b.example"), response(headers=TEXT, body=b"a@b.example")
    )
    assert (outcome.request.body, outcome.body) == (b"***", b"a@b.example")
    assert run(subject, request("POST", headers=JSON, body=b"{")).status == 415
    chunks = run(subject, request("POST", headers=TEXT), request_chunks=[b"a@b.ex", b"ample\n1"]).request_chunks
    assert b"".join(chunks) == b"***\n1"


def test_headers() -> None:
    subject = policy(headers={"request": ["X-User"], "response": ["x-mail"]})
    answer = response(headers={"x-mail": ["a@b.example", "plain", "c@d.example"], "x-other": "a@b.example"})
    outcome = run(subject, request(headers={"x-user": b"a@b.example \xff"}), answer)
    assert outcome.request.headers.get_bytes("x-user") == b"*** \xff"
    assert outcome.response.headers.get_all("x-mail") == ("***", "plain", "***")
    assert outcome.response.headers["x-other"] == "a@b.example"


def test_a_line_goes_on_as_soon_as_it_is_whole() -> None:
    outcome = streamed(policy(), [b"a@b.exam", b"ple one\ntw", b"o\n", b"c@d.example"])
    assert outcome.response_chunks == [b"*** one\n", b"two\n", b"***"]


def test_two_in_one_chain_keep_their_streams_apart() -> None:
    first, second = policy(detect=["email"]), policy(detect=["ipv4"])
    outcome = run(
        [first, second], request(), response(headers=TEXT), response_chunks=[b"a@b.exam", b"ple 192.0.", b"2.1"]
    )
    assert b"".join(outcome.response_chunks) == b"*** ***"


PIECES = st.sampled_from(
    [
        CARD,
        IBAN,
        "a.b@c.example",
        "192.0.2.1",
        "2001:db8::1",
        "+49 30 1234567",
        " ",
        "\n",
        "x",
        "1",
        "ü",
        "€",
        "@",
        "::",
        "-",
        "9" * 700,
        "y" * 3000,
        " z" * 2500,
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=14), st.lists(st.integers(0, 30_000), max_size=8), st.binary(max_size=4))
def test_chunks_make_no_difference(parts: list[str], cuts: list[int], noise: bytes) -> None:
    noise = noise.replace(b"\0", b"")
    raw = "".join(parts).encode() + noise + "".join(parts[::-1]).encode()
    places = sorted({cut % (len(raw) + 1) for cut in cuts})
    pieces = [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)]
    assert b"".join(streamed(policy(), pieces).response_chunks) == through(policy(), raw)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(["a@b.example", "192.0.2.1", "y" * 9, " ", "\n", "y" * 40]), max_size=30),
    st.lists(st.integers(0, 999)),
)
def test_chunks_make_no_difference_around_small_windows(parts: list[str], cuts: list[int]) -> None:
    raw = "".join(parts).encode()
    places = sorted({cut % (len(raw) + 1) for cut in cuts})
    pieces = [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)]
    subject = policy(mask={"label": "<{kind}>"})
    masker = sys.modules[type(subject).__module__.rpartition(".")[0] + ".masker"]
    with patch.object(masker, "WINDOW", 64), patch.object(masker, "LONGEST_MATCH", 24):
        assert b"".join(streamed(subject, pieces).response_chunks) == through(subject, raw)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([one for many in FOUND.values() for one in many]), st.integers(0, 9000))
def test_a_find_is_hidden_wherever_it_stands_in_a_long_line(find: str, before: int) -> None:
    masked = through(policy(), "y" * before + " " + find + " " + "y" * 9000).decode()
    assert find not in masked
    assert masked == "y" * before + " *** " + "y" * 9000


@pytest.mark.parametrize("border", [8192 - 1024, 8192])
def test_a_find_at_the_border_of_a_window_is_hidden(border: int) -> None:
    for before in range(border - 24, border + 2):
        text = "y" * before + f" {CARD} " + "y" * 9000
        assert through(policy(), text).decode() == "y" * before + " *** " + "y" * 9000


@pytest.mark.parametrize("kind", ["text/plain,text/plain", "text/plain;charset=utf8", 'Text/Plain; charset="UTF-8"'])
def test_types_that_are_text_in_another_spelling_are_masked(kind: str) -> None:
    assert through(policy(), "a@b.example", {"content-type": kind}) == b"***"


@given(st.binary(max_size=200), st.integers(0, 200))
def test_bytes_without_finds_pass_unchanged(raw: bytes, cut: int) -> None:
    raw = raw.replace(b"\0", b"").replace(b"\xff", b"")
    subject = policy(detect=["iban"])
    assert b"".join(streamed(subject, [raw[:cut], raw[cut:]]).response_chunks) == raw


def test_hostile_text_takes_linear_time() -> None:
    began = time.process_time()
    for text in ("a" * 200_000 + "@", "1 " * 100_000, "DE89" * 50_000, ":" * 200_000, "a@a." * 50_000, "1." * 100_000):
        through(policy(patterns=[{"name": "p", "pattern": "(a+)+$"}]), text)
    assert time.process_time() - began < 20  # some seconds; what is quadratic here takes minutes


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"patterns": [{"name": "x", "pattern": "("}]}, "/patterns/0/pattern"),
        ({"detect": []}, "/detect"),
        ({"mask": {"style": "hash"}}, "/mask/salt"),
        ({"headers": {"response": [":status"]}}, "/headers/response/0"),
        ({"json_pointers": {"include": ["a"]}}, "/json_pointers/include/0"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        policy(**parameters)
    assert caught.value.path == path
