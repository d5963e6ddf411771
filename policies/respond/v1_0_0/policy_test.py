"""respond through the test kit."""

from __future__ import annotations

from typing import Any

import pytest

from policy_engine.sdk import ParameterError
from policy_engine.sdk.testing import load_policy, request, run


def test_the_response_is_whole_and_the_upstream_not_reached() -> None:
    policy = load_policy(
        __file__,
        {"status": 410, "body": "gone", "headers": {"X-A": "1", "set-cookie": ["a=1", "b=2"]}, "grpc_status": 5},
    )
    outcome = run(policy, request())
    assert (outcome.status, outcome.body, outcome.reached_upstream) == (410, b"gone", False)
    assert outcome.response.headers["content-type"] == "text/plain; charset=utf-8"
    assert outcome.response.headers.get_all("set-cookie") == ("a=1", "b=2")
    assert outcome.immediate is not None
    assert outcome.immediate.grpc_status == 5
    assert run(policy, request()).immediate is outcome.immediate


def test_no_body_no_content_type() -> None:
    outcome = run(load_policy(__file__, {"status": 204}), request())
    assert (outcome.status, outcome.body) == (204, b"")
    assert "content-type" not in outcome.response.headers


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"status": 204, "body": "x"}, "/body"),
        ({"status": 200, "content_type": "a\nb"}, "/content_type"),
        ({"status": 200, "headers": {"a b": "1"}}, "/headers/a b"),
        ({"status": 200, "headers": {"a": ["1", "2\r\n"]}}, "/headers/a"),
        ({"status": 200, "headers": {"Content-Type": "a/b"}}, "/headers/Content-Type"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        load_policy(__file__, parameters)
    assert caught.value.path == path
