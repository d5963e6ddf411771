"""rewrite through the test kit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError
from policy_engine.sdk.testing import Outcome, load_policy, request, run


def send(parameters: dict[str, Any], target: str, method: str = "GET") -> Outcome:
    return run(load_policy(__file__, parameters), request(method, target))


def prefix(old: str, new: str) -> dict[str, Any]:
    return {"path": {"prefix": {"from": old, "to": new}}}


def regex(pattern: str, replacement: str) -> dict[str, Any]:
    return {"path": {"regex": {"pattern": pattern, "replacement": replacement}}}


@pytest.mark.parametrize(
    ("old", "new", "target", "expected"),
    [
        ("/api", "/", "/api/x?q=1", "/x?q=1"),
        ("/api", "/", "/api", "/"),
        ("/api", "/", "/api/", "/"),
        ("/api", "/", "/api?x", "/?x"),
        ("/api/", "/v2/", "/api/x", "/v2/x"),
        ("/api", "/v2", "/apis/x", "/apis/x"),
        ("/api", "/v2", "/x/api", "/x/api"),
        ("/", "/v2", "/x", "/v2/x"),
        ("/", "/v2", "/", "/v2/"),
        ("/a", "/b", "/a/%2F..?a=%20", "/b/%2F..?a=%20"),
    ],
)
def test_prefix_by_whole_segments(old: str, new: str, target: str, expected: str) -> None:
    assert send(prefix(old, new), target).request.target == expected


@pytest.mark.parametrize(
    ("pattern", "replacement", "target", "expected"),
    [
        ("^/users/([^/]+)/(.*)$", r"/\2/of/\1", "/users/7/orders?a=/users/8/x", "/orders/of/7?a=/users/8/x"),
        ("-", "_", "/a-b-c", "/a_b_c"),
        ("nothing", "x", "/a", "/a"),
        ("a", r"\\", "/a", "/\\"),
    ],
)
def test_regex_on_the_path_alone(pattern: str, replacement: str, target: str, expected: str) -> None:
    assert send(regex(pattern, replacement), target).request.target == expected


def test_full_path_query_method_authority_and_route_cache() -> None:
    parameters = {
        "path": {"full": "/one", "drop_query": True},
        "method": "POST",
        "authority": "b.example.test:8080",
        "clear_route_cache": True,
    }
    outcome = send(parameters, "/a?b=1")
    sent, action = outcome.request, outcome.steps[0].action
    assert (sent.target, sent.method, sent.authority) == ("/one", "POST", "b.example.test:8080")
    assert getattr(action, "clear_route_cache", None) is True


def test_no_change_no_action_and_the_same_action_again() -> None:
    subject = load_policy(__file__, prefix("/api", "/v2"))
    assert run(subject, request("GET", "/other")).steps[0].action is None
    first, second = (run(subject, request("GET", "/api/x")).steps[0].action for _ in range(2))
    assert first is second is not None


@pytest.mark.parametrize("parameters", [regex("^/", ""), regex("a", " "), regex("a", "#"), regex("(a)", r"\1" * 1000)])
def test_what_is_no_path_afterwards_is_refused(parameters: dict[str, Any]) -> None:
    outcome = send(parameters, "/" + "a" * 20)
    assert (outcome.status, outcome.reached_upstream) == (400, False)


@settings(deadline=None)
@given(st.text(max_size=50))
def test_no_path_makes_it_fail(text: str) -> None:
    for parameters in (prefix("/a", "/b"), regex("([a-z]+)", r"<\1>")):
        target = "/" + text
        outcome = run(load_policy(__file__, parameters), request("GET", target.encode("utf-8", "replace").decode()))
        assert outcome.status in {200, 400}


def test_a_path_that_is_no_utf8_is_left_alone() -> None:
    outcome = run(load_policy(__file__, regex("a", "b")), request(headers={":path": b"/a\xff"}))
    assert outcome.request.headers.get_bytes(":path") == b"/a\xff"


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        (regex("(", "x"), "/path/regex/pattern"),
        (regex("(?=a)", "x"), "/path/regex/pattern"),
        (regex("(a)", r"\2"), "/path/regex/replacement"),
        (regex("(a)", "x\\"), "/path/regex/replacement"),
        (regex("(a)", r"\n"), "/path/regex/replacement"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        load_policy(__file__, parameters)
    assert caught.value.path == path
