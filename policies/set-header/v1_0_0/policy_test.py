"""set-header through the test kit: what upstream and client get, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from policy_engine.sdk import ParameterError
from policy_engine.sdk.testing import load_policy, request, response, run


def test_request_set_append_remove() -> None:
    policy = load_policy(
        __file__,
        {"request": {"remove": ["X-Debug"], "set": {"X-Gateway": "edge-1"}, "append": {"via": ["1.1 a", "1.1 b"]}}},
    )
    outcome = run(policy, request(headers={"x-debug": "1", "x-gateway": ["forged", "twice"], "via": "1.1 client"}))
    assert "x-debug" not in outcome.request.headers
    assert outcome.request.headers.get_all("x-gateway") == ("edge-1",)
    assert outcome.request.headers["via"] == "1.1 client,1.1 a,1.1 b"


def test_response_keeps_several_cookies_apart() -> None:
    policy = load_policy(__file__, {"response": {"append": {"set-cookie": ["a=1", "b=2"]}, "remove": ["server"]}})
    outcome = run(policy, request(), response(headers={"server": "x", "set-cookie": "c=3"}))
    assert outcome.response.headers.get_all("set-cookie") == ("c=3", "a=1", "b=2")
    assert "server" not in outcome.response.headers


def test_remove_comes_before_append_so_a_header_can_be_replaced_by_several_values() -> None:
    policy = load_policy(__file__, {"request": {"remove": ["x-a"], "append": {"x-a": ["1", "2"]}}})
    assert run(policy, request(headers={"x-a": "0"})).request.headers.get_all("x-a") == ("1", "2")


def test_the_same_action_every_time_and_no_phase_without_work() -> None:
    policy = load_policy(__file__, {"request": {"set": {"x-a": "1"}}})
    first, second = run(policy, request()), run(policy, request())
    assert first.hooks == ["SetHeader.on_request_headers"]
    assert first.steps[0].action is second.steps[0].action
    assert run(load_policy(__file__, {"response": {"set": {"x-a": "1"}}}), request()).hooks == [
        "SetHeader.on_response_headers"
    ]


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"request": {"set": {"x-a": "1\r\nx-admin: true"}}}, "/request/set/x-a"),
        ({"request": {"set": {":path": "/admin"}}}, "/request/set/:path"),
        ({"request": {"set": {"Host": "a"}}}, "/request/set/Host"),
        ({"request": {"set": {"a/b~c": "1"}}}, "/request/set/a~1b~0c"),
        ({"request": {"set": {"x-a": "1", "X-A": "2"}}}, "/request/set/X-A"),
        ({"response": {"append": {"x-a": ["1", "2\0"]}}}, "/response/append/x-a/1"),
        ({"response": {"append": {"x a": "1"}}}, "/response/append/x a"),
        ({"response": {"remove": ["ok", "content-length"]}}, "/response/remove/1"),
    ],
)
def test_what_may_not_be_sent_is_refused_with_its_path(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        load_policy(__file__, parameters)
    assert caught.value.path == path
