"""set-header v1.1 through the test kit: all of v1.0, and values from expressions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError
from policy_engine.sdk.testing import load_policy, request, response, run

CLAIMS = {"sub": "ann", "groups": ["a", "b"], "level": 3, "none": None, "deep": {"x": [1]}, "odd": ["a,b"], "yes": True}


def sent(cel: str, **given: Any) -> tuple[str, ...]:
    """Return what the upstream gets in x-a, which the client forged, when it is set to this expression."""
    policy = load_policy(__file__, {"request": {"set": {"X-A": {"cel": cel}}}})
    asked = request("GET", given.pop("target", "/a"), headers={"x-a": "forged"}, metadata={"jwt": CLAIMS}, **given)
    return tuple(run(policy, asked).request.headers.get_all("x-a"))


@pytest.mark.parametrize(
    ("cel", "value"),
    [
        ("metadata.jwt.sub", "ann"),
        ('"user:" + metadata.jwt.sub', "user:ann"),
        ("metadata.jwt.groups", "a,b"),
        ("metadata.jwt.level", "3"),
        ("metadata.jwt.yes", "true"),
        ('request.path.startsWith("/b")', "false"),
        ("metadata.jwt.deep", '{"x":[1]}'),
        ('request.attributes["connection.mtls"]', "true"),
        ('"x-none" in request.headers ? "there" : "not there"', "not there"),
    ],
)
def test_values_of_every_kind(cel: str, value: str) -> None:
    assert sent(cel, attributes={"connection.mtls": True}) == (value,)


@pytest.mark.parametrize(
    "cel",
    [
        "metadata.jwt.none",
        "metadata.jwt.nothing",
        "metadata.key.client",
        "metadata.jwt.odd",
        "metadata.jwt.level / 0",
        "request.query.q",
    ],
)
def test_what_has_no_value_leaves_the_header_out_and_the_clients_does_not_pass(cel: str) -> None:
    assert sent(cel, target="/?q=a%0d%0ax-admin:%20true") == ()


@given(st.text(max_size=30))
def test_no_text_of_a_client_breaks_the_line(text: str) -> None:
    policy = load_policy(__file__, {"request": {"set": {"x-a": {"cel": "metadata.text"}}}})
    found = run(policy, request(metadata={"text": text})).request.headers.get_all("x-a")
    assert all("\n" not in one and "\r" not in one and "\0" not in one for one in found)


def test_a_request_made_to_be_dear_loses_the_headers_and_no_more() -> None:
    cel = 'request.query.exists(k, k.matches("(a|b|c)*z")) ? "a" : "b"'
    policy = load_policy(__file__, {"request": {"set": {f"x-{number}": {"cel": cel} for number in range(100)}}})
    outcome = run(policy, request("GET", "/?" + "&".join(f"{'ab' * 8}{number}=1" for number in range(900))))
    assert outcome.reached_upstream
    assert sum(f"x-{number}" in outcome.request.headers for number in range(100)) < 50


def test_expressions_beside_fixed_values_in_both_directions() -> None:
    parameters = {
        "request": {
            "remove": ["x-b"],
            "set": {"x-c": "fixed"},
            "append": {
                "x-b": ["1", {"cel": "request.method"}, {"cel": "metadata.nothing"}],
                "x-d": {"cel": "request.host"},
            },
        },
        "response": {
            "set": {"x-status": {"cel": "response.status"}, "x-was": {"cel": 'response.headers["x-old"]'}},
            "append": {"set-cookie": {"cel": '"seen=" + request.id'}},
        },
    }
    asked = request(headers={"x-b": "0"})
    outcome = run(load_policy(__file__, parameters), asked, response(404, {"x-old": "o", "set-cookie": "a=1"}))
    assert outcome.request.headers.get_all("x-b") == ("1", "GET")
    assert (outcome.request.headers["x-c"], outcome.request.headers["x-d"]) == ("fixed", "api.example.test")
    headers = outcome.response.headers
    assert (headers["x-status"], headers["x-was"]) == ("404", "o")
    assert headers.get_all("set-cookie") == ("a=1", "seen=test-request")


def test_without_expressions_it_is_v1_0() -> None:
    policy = load_policy(__file__, {"request": {"set": {"x-a": "1"}}, "response": {"remove": ["server"]}})
    first, second = run(policy, request()), run(policy, request())
    assert first.hooks == ["SetHeader.on_request_headers", "SetHeader.on_response_headers"]
    assert first.steps[0].action is second.steps[0].action
    assert first.steps[1].action is second.steps[1].action
    only = load_policy(__file__, {"response": {"set": {"x-a": {"cel": "response.status"}}}})
    assert run(only, request()).hooks == ["SetHeader.on_response_headers"]


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"request": {"set": {"x-a": {"cel": "metadata.jwt."}}}}, "/request/set/x-a/cel"),
        ({"request": {"set": {"x-a": {"cel": "request.pth"}}}}, "/request/set/x-a/cel"),
        ({"request": {"set": {"x-a": {"cel": "response.status"}}}}, "/request/set/x-a/cel"),
        ({"request": {"append": {"x-a": ["1", {"cel": "1 +"}]}}}, "/request/append/x-a/1/cel"),
        ({"response": {"append": {"x-a": {"cel": "nope()"}}}}, "/response/append/x-a/cel"),
        ({"request": {"set": {":path": {"cel": "request.path"}}}}, "/request/set/:path"),
        ({"request": {"set": {"x-a": "1\r\nx-admin: true"}}}, "/request/set/x-a"),
        ({"request": {"set": {"x-a": "1", "X-A": {"cel": "request.path"}}}}, "/request/set/X-A"),
        ({"response": {"remove": ["ok", "content-length"]}}, "/response/remove/1"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_path(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        load_policy(__file__, parameters)
    assert caught.value.path == path


@pytest.mark.parametrize("value", [{}, {"cel": ""}, {"cel": 1}, {"cel": "request.path", "x": 1}, 1, None])
def test_values_that_the_schema_rules_out(value: Any) -> None:
    with pytest.raises(ValueError, match="x-a"):
        load_policy(__file__, {"request": {"set": {"x-a": value}}})
