"""request-id through the test kit."""

from __future__ import annotations

from uuid import RFC_4122, UUID

import pytest

from policy_engine.sdk import ParameterError
from policy_engine.sdk.testing import load_policy, request, response, run


def test_a_good_id_is_kept_and_goes_everywhere() -> None:
    outcome = run(load_policy(__file__), request(headers={"x-request-id": "abc-1"}), response())
    assert outcome.request.headers["x-request-id"] == "abc-1"
    assert outcome.response.headers["x-request-id"] == "abc-1"
    assert outcome.metadata["request_id"] == "abc-1"


@pytest.mark.parametrize("bad", [None, "", "a b", "a" * 129, "x\ty", "<script>", "é", ["a", "b"]])
def test_a_missing_or_bad_id_is_replaced(bad: str | list[str] | None) -> None:
    outcome = run(load_policy(__file__), request(headers={} if bad is None else {"x-request-id": bad}, request_id=""))
    (made,) = outcome.request.headers.get_all("x-request-id")
    assert UUID(made).version == 4
    assert UUID(made).variant == RFC_4122
    assert str(UUID(made)) == made == outcome.response.headers["x-request-id"] == outcome.metadata["request_id"]


def test_the_upstream_cannot_change_it() -> None:
    outcome = run(
        load_policy(__file__), request(headers={"x-request-id": "a"}), response(headers={"x-request-id": "b"})
    )
    assert outcome.response.headers.get_all("x-request-id") == ("a",)


def test_incoming_ids_can_be_refused_and_the_response_left_alone() -> None:
    policy = load_policy(__file__, {"header": "X-Mine", "accept_incoming": False, "in_response": False})
    outcome = run(policy, request(headers={"x-mine": "abc"}))
    assert outcome.request.headers["x-mine"] != "abc"
    assert outcome.hooks == ["RequestId.on_request_headers"]


def test_wrong_header() -> None:
    with pytest.raises(ParameterError) as caught:
        load_policy(__file__, {"header": "host"})
    assert caught.value.path == "/header"
