"""add-team through the test kit: what the upstream gets, and what is refused."""

from __future__ import annotations

import pytest

from policy_engine.sdk import ParameterError
from policy_engine.sdk.testing import load_policy, request, run


def test_the_upstream_gets_the_header() -> None:
    policy = load_policy(__file__, {"header": "x-add-team", "value": "edge-1"})
    outcome = run(policy, request("GET", "/", headers={"x-add-team": "forged"}))
    assert outcome.request.headers.get_all("x-add-team") == ("edge-1",)


def test_a_value_that_would_end_the_header_is_refused() -> None:
    with pytest.raises(ParameterError):
        load_policy(__file__, {"header": "x-add-team", "value": "1\r\nx-admin: true"})
