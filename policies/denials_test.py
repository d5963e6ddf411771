"""What the policies that look at responses make of a denial by a policy after them in the chain."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from policy_engine.sdk import ImmediateResponse, Policy, Request
from policy_engine.sdk.testing import Outcome, load_policy, request, response, run

POLICIES = Path(__file__).parent
APP = "https://app.example.com"
SCHEMA = {"type": "object", "required": ["id"]}
CHAT = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'


class Denies(Policy):
    """Denies without a body."""

    status = 401

    def on_request_headers(self, request: Request) -> ImmediateResponse | None:
        return ImmediateResponse(self.status) if "x-good" not in request.headers else None


class Answers(Policy):
    """Answers in the place of the upstream."""

    def __init__(self, status: int, body: bytes, **headers: str) -> None:
        self._answer = ImmediateResponse(status, body, headers)

    def on_request_headers(self, request: Request) -> ImmediateResponse:
        return self._answer


def policy(name: str, **parameters: Any) -> Policy:
    return load_policy(POLICIES / name / "v1_0_0", parameters)


def denied(*outer: Policy, **given: Any) -> Outcome:
    outcome = run([*outer, Denies({})], request(**given))
    assert not outcome.reached_upstream
    return outcome


def test_a_page_of_an_allowed_origin_may_read_a_401() -> None:
    outcome = denied(policy("cors", allow_origins=[APP]), headers={"origin": APP})
    assert (outcome.status, outcome.response.headers["access-control-allow-origin"]) == (401, APP)
    assert json.loads(outcome.body or b"")["status"] == 401
    other = denied(policy("cors", allow_origins=[APP]), headers={"origin": "https://evil.example.com"})
    assert "access-control-allow-origin" not in other.response.headers


def test_headers_for_every_response_are_on_denials() -> None:
    limit = policy("rate-limit", limits=["5/minute"], key=[{"source": "client_address"}], headers_on_allowed=True)
    outcome = denied(
        policy("security-headers"), policy("request-id"), limit, policy("set-header", response={"set": {"x-a": "1"}})
    )
    headers = outcome.response.headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers.get_all("x-request-id") == (outcome.request.headers["x-request-id"],)
    assert headers["x-a"] == "1"
    assert "r=4" in headers["ratelimit"]


def test_a_denial_is_logged_with_where_it_comes_from(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        denied(policy("log-message"))
    (record,) = [one for one in caplog.records if one.name == "policy.log-message"]
    fields = vars(record)["fields"]
    assert (fields["status"], fields["origin"]) == (401, "policy")


FRESH = {"cache-control": "max-age=60", "content-type": "application/json"}


@pytest.mark.parametrize("answered", [Answers(404, b""), Answers(404, b"{}", **FRESH), Answers(200, b"{}", **FRESH)])
def test_a_cache_stores_nothing_that_a_policy_answered(answered: Policy) -> None:
    cache = policy("cache", default_ttl="60s")
    run([cache, answered], request())
    after = run([cache], request(), response(200, FRESH, b"theirs"))
    assert (after.reached_upstream, after.body) == (True, b"theirs")
    assert run([cache], request()).body == b"theirs"


def test_a_cache_stores_nothing_that_envoy_answered() -> None:
    cache = policy("cache", default_ttl="60s")
    given = response(404, FRESH, b"no route", origin="envoy")
    assert run([cache], request(), given).status == 404
    assert run([cache], request(), response(200, FRESH, b"theirs")).body == b"theirs"


@pytest.mark.parametrize(
    "outer",
    [
        policy("json-schema-validation", response={"schema": SCHEMA, "statuses": ["2xx", "4xx"]}),
        policy(
            "json-transform",
            response={"operations": [{"op": "remove", "path": "/id"}], "statuses": ["4xx"]},
            not_json="refuse",
        ),
        policy("llm-budget", budgets=[{"name": "b", "amount": 1000, "window": "day"}], answer_reserve=1),
        policy("llm-prompt-guard", prompt={"deny_words": ["jailbreak"]}, answer={"deny_words": ["falcon"]}),
        policy("llm-token-limit", max_stream_tokens=1),
        policy("llm-translate", upstream="anthropic"),
        policy("llm-usage", models=["none"]),
        policy("mcp-authorize", rules=[{"name": "all", "action": "allow"}]),
        policy("pii-masking", detect=["email"]),
    ],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.parametrize("accept", ["application/json", "text/plain"])
def test_policies_of_bodies_leave_denials_alone(outer: Policy, accept: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        outcome = denied(
            outer, method="POST", headers={"accept": accept, "content-type": "application/json"}, body=CHAT
        )
    assert outcome.status == 401
    assert b"Unauthorized" in (outcome.body or b"")
    assert [one.getMessage() for one in caplog.records if one.name.startswith("policy.")] == []


def test_an_answer_of_another_policy_is_still_checked() -> None:
    outer = policy("json-schema-validation", response={"schema": SCHEMA})
    wrong = Answers(200, b"{}", **{"content-type": "application/json"})
    assert run([outer, wrong], request()).status == 502
