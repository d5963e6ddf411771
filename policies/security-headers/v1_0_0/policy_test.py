"""security-headers through the test kit."""

from __future__ import annotations

from typing import Any

import pytest

from policy_engine.sdk import ParameterError
from policy_engine.sdk.testing import load_policy, request, response, run


def test_the_defaults_replace_what_the_upstream_says_and_hide_what_it_is() -> None:
    policy = load_policy(__file__, {})
    upstream = response(headers={"server": "x/1", "x-powered-by": "y", "x-frame-options": ["ALLOWALL", "SAMEORIGIN"]})
    outcome = run(policy, request(), upstream)
    assert dict(outcome.response.headers.items()) == {
        "strict-transport-security": "max-age=31536000; includeSubDomains",
        "x-frame-options": "DENY",
        "x-content-type-options": "nosniff",
        "referrer-policy": "strict-origin-when-cross-origin",
    }
    assert run(policy, request()).steps[0].action is outcome.steps[0].action


def test_an_empty_value_leaves_the_header_alone() -> None:
    policy = load_policy(__file__, {"frame_options": "", "strict_transport_security": "", "remove": []})
    outcome = run(policy, request(), response(headers={"x-frame-options": "SAMEORIGIN", "server": "x"}))
    assert outcome.response.headers["x-frame-options"] == "SAMEORIGIN"
    assert outcome.response.headers["server"] == "x"
    assert "strict-transport-security" not in outcome.response.headers


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"content_security_policy": "default-src 'self'\n"}, "/content_security_policy"),
        ({"remove": ["server", "a b"]}, "/remove/1"),
        ({"remove": ["X-Frame-Options"]}, "/remove/0"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        load_policy(__file__, parameters)
    assert caught.value.path == path
