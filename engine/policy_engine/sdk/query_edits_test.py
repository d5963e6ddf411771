"""Query parameters changed: encoded in one place, and nothing else of the query touched."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import Policy, Request, RequestMutation
from policy_engine.sdk.query_edits import edited_target
from policy_engine.sdk.testing import entry, request, run


@pytest.mark.parametrize(
    ("target", "edit", "expected"),
    [
        ("/a", {"replaced": {"x": "1"}}, "/a?x=1"),
        ("/a?", {"replaced": {"x": "1"}}, "/a?x=1"),
        ("/a?x=0", {"replaced": {"x": "1"}}, "/a?x=1"),
        ("/a?x=0&y=2&x=3", {"replaced": {"x": "1"}}, "/a?x=1&y=2"),
        ("/a?y=2&x", {"replaced": {"x": ["1", "2"]}}, "/a?y=2&x=1&x=2"),
        ("/a?%78=0&y=2", {"replaced": {"x": "1"}}, "/a?x=1&y=2"),
        ("/a?a+b=0&a%20b=1", {"replaced": {"a b": "c d"}}, "/a?a%20b=c%20d"),
        ("/a?x=0", {"replaced": {"x": []}}, "/a"),
        ("/a?x=0&y=1", {"removed": ["x"]}, "/a?y=1"),
        ("/a?x=0&x=1", {"removed": ["x"]}, "/a"),
        ("/a?x=0&y=1", {"removed": ["x"], "replaced": {"x": "2"}}, "/a?y=1&x=2"),
        ("/a?x=0", {"appended": [("x", "1"), ("x", "2")]}, "/a?x=0&x=1&x=2"),
        ("/a?b=c+d%2fe&&flag&=v&%zz=%", {"appended": [("n", "&=+#? ü")]}, None),
        ("/a?x=0", {"removed": ["y"]}, "/a?x=0"),
        ("/a?", {"removed": ["y"]}, "/a?"),
        ("/a?x=1?y=2", {"replaced": {"x": "?"}}, "/a?x=%3F"),
        ("/a?X=1", {"removed": ["x"]}, "/a?X=1"),
        ("/a?x=1;y=2", {"replaced": {"y": "a;b"}}, "/a?x=1;y=2&y=a%3Bb"),
    ],
)
def test_what_becomes_of_a_query(target: str, edit: dict[str, Any], expected: str | None) -> None:
    if expected is None:
        expected = f"{target}&n=%26%3D%2B%23%3F%20%C3%BC"
    assert edited_target(target, **edit) == expected


_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


@given(st.lists(st.tuples(_TEXT, _TEXT), max_size=4), st.text("ab=&+%2 ;é", max_size=12))
def test_what_was_added_is_read_again_and_the_rest_keeps_its_bytes(pairs: list[tuple[str, str]], query: str) -> None:
    target = edited_target(f"/p?{query}", appended=pairs)
    assert target.startswith(f"/p?{query}" if query else "/p")
    added = parse_qsl(target.partition("?")[2], keep_blank_values=True)[-len(pairs) :] if pairs else []
    assert added == pairs


class Editing(Policy):
    """Returns the one action that it was made with, as policies with constant actions do."""

    def on_request_headers(self, request: Request) -> RequestMutation:
        action: RequestMutation = self.action
        return action

    def __init__(self, **edit: Any) -> None:
        self.action = RequestMutation(**edit)


class Seeing(Policy):
    def on_request_headers(self, request: Request) -> None:
        request.metadata["seen"] = (request.target, request.query_values("x"))


def test_later_policies_and_the_upstream_see_the_new_query() -> None:
    chain = [Editing(set_query={"x": ["1", "2"]}, remove_query=["token"]), Seeing({})]
    outcome = run(chain, request("GET", "/a?token=secret&y=%2F"))
    assert outcome.request.target == "/a?y=%2F&x=1&x=2"
    assert outcome.metadata["seen"] == ("/a?y=%2F&x=1&x=2", ("1", "2"))


def test_one_constant_action_is_another_change_for_each_request() -> None:
    policy = Editing(set_query={"x": "1"}, set_headers={"x-a": "1"})
    for target in ("/a", "/b?x=0&y=2", "/a"):
        outcome = run(policy, request("GET", target))
        assert outcome.request.target == edited_target(target, replaced={"x": "1"})
        assert outcome.request.headers["x-a"] == "1"


def test_a_new_path_comes_first() -> None:
    outcome = run(Editing(path="/new?a=1", append_query=[("b", "2")]), request("GET", "/old?c=3"))
    assert outcome.request.target == "/new?a=1&b=2"
    assert run(Editing(path="/old", remove_query=["c"]), request("GET", "/old")).request.target == "/old"


@pytest.mark.parametrize(
    "edit",
    [
        {"set_query": {"x": 1}},
        {"set_query": {"x": [1]}},
        {"set_query": {"x": "\ud800"}},
        {"set_query": [("x", "1")]},
        {"append_query": {"x": "1"}},
        {"append_query": ["xy"]},
        {"append_query": (pair for pair in [("x", "1")])},
        {"remove_query": "x"},
        {"remove_query": [None]},
        {"set_query": {str(number): "" for number in range(300)}},
    ],
    ids=range(10),
)
def test_what_is_no_query_is_refused_as_any_other_action(edit: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="quer"):
        run(Editing(**edit), request("GET", "/a"))
    outcome = run(entry(Editing(**edit), failure_mode="open"), request("GET", "/a"))
    assert outcome.request.target == "/a"
