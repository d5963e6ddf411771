from __future__ import annotations

import time
from typing import Any

import pytest

from policy_engine.sdk.testing import request
from policy_engine.worker.conditions.condition import ENGINE, ValueProgram, compile_condition
from policy_engine.worker.conditions.parts import MOST_PARTS, MOST_SECONDS, part_values
from policy_engine.worker.conditions.source import Source

REQUEST = request("GET", "/v2/x?a=1", {"x-n": "5", "x-t": "yes"})


def parts(text: str) -> dict[str, Any]:
    return {one.text: one.error or one.value for one in part_values(text, REQUEST, None)}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('request.path == "/x"', {"request.path": "/v2/x"}),
        ('request.path.startsWith("/v2")', {"request.path": "/v2/x"}),
        (
            'request.method == "POST" || request.path == "/v2/x"',
            {
                'request.method == "POST"': False,
                "request.method": "GET",
                'request.path == "/v2/x"': True,
                "request.path": "/v2/x",
            },
        ),
        ('!(request.method == "GET")', {'request.method == "GET"': True, "request.method": "GET"}),
        ('"x-n" in request.headers && true', {'"x-n" in request.headers': True}),
        (
            'int(request.headers["x-n"]) - 1 > 3',
            {
                'int(request.headers["x-n"]) - 1': 4,
                'int(request.headers["x-n"])': 5,
                'request.headers["x-n"]': "5",
            },
        ),
        ('request.headers["no"] == "1"', {'request.headers["no"]': "no such key in a map"}),
        ('"a && b" == request.path', {"request.path": "/v2/x"}),
        ('request.path + " ? a : b" == "x"', {'request.path + " ? a : b"': "/v2/x ? a : b", "request.path": "/v2/x"}),
        (
            'request.headers.exists(h, h == "x-n") ? request.path == "a" : true',
            {
                'request.headers.exists(h, h == "x-n")': True,
                'request.path == "a"': False,
                "request.path": "/v2/x",
            },
        ),
        ('(request.query["a"] == "1")', {'request.query["a"] == "1"': True, 'request.query["a"]': "1"}),
        ('metadata["m"] == 1', {'metadata["m"]': "no such key in a map"}),
        ("true", {}),
    ],
)  # fmt: skip
def test_every_part_has_its_value(text: str, found: dict[str, Any]) -> None:
    shown = parts(text)
    assert shown == found


@pytest.mark.parametrize(
    "text",
    [
        "request.path == 'a' && request.path != 'b' || request.method in ['GET', 'PUT']",
        "size(request.headers) > 1 && !(request.host.matches('^a.*b$'))",
        "request.headers.all(h, h.startsWith('x') && size(h) > 2)",
        "request.query.map(k, request.query[k]).exists(v, v == '1')",
        "{'a': request.path}['a'] == '/v2/x'",
        "[request.path, request.method][0] == '/v2/x' && -1 < size(request.path)",
    ],
)
def test_parts_of_booleans_agree_with_what_the_engine_says_of_each_alone(text: str) -> None:
    for one in part_values(text, REQUEST, None):
        if isinstance(one.value, bool):
            alone = compile_condition(one.text, phase_has_response=True, direct=False)
            assert alone.evaluate(REQUEST) == one.value, one.text


def test_a_part_of_a_macro_that_means_nothing_alone_is_left_out() -> None:
    assert all("h ==" not in text or "exists" in text for text in parts('request.headers.exists(h, h == "x-n")'))


def test_a_long_condition_shows_a_bounded_number_of_parts_in_bounded_time() -> None:
    text = " || ".join(f'request.path == "/{number}"' for number in range(150))
    began = time.perf_counter()
    assert len(part_values(text, REQUEST, None)) <= MOST_PARTS
    part_values(text, REQUEST, None)
    assert time.perf_counter() - began < 5


def test_the_first_request_shows_all_parts_however_long_it_takes_to_compile_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compile_value = ENGINE.compile_value

    def slowly(source: Source) -> ValueProgram:
        until = time.thread_time() + 2 * MOST_SECONDS
        while time.thread_time() < until:
            pass
        return compile_value(source)

    monkeypatch.setattr(ENGINE, "compile_value", slowly)
    assert len(parts('request.method == "GET" && request.path == "/first"')) == 4
