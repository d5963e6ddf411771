"""authorize through the test kit: which rule decides, on which side a failure falls, and what is refused at load."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError, Policy, Request
from policy_engine.sdk.testing import Outcome, entry, load_policy, request, run

ADMINS = {"name": "admins", "action": "allow", "when": '"admin" in metadata.jwt.groups'}
INTERNAL = {"name": "internal", "action": "deny", "when": 'request.path.startsWith("/internal")'}
READERS = {"name": "readers", "action": "allow", "when": 'request.method in ["GET", "HEAD"]'}


def policy(*rules: dict[str, Any], **parameters: Any) -> Policy:
    return load_policy(__file__, {"rules": list(rules) or [ADMINS, INTERNAL, READERS], **parameters})


def of(method: str, target: str, *groups: str) -> Request:
    return request(method, target, metadata={"jwt": {"sub": "ann", "groups": list(groups)}})


def details(outcome: Outcome) -> str:
    assert not outcome.reached_upstream
    assert outcome.immediate is not None
    return outcome.immediate.details


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        (of("DELETE", "/internal/x", "a", "admin"), "admins"),
        (of("GET", "/orders"), "readers"),
        (of("HEAD", "/orders?x=/internal", "a"), "readers"),
    ],
)
def test_the_first_rule_that_holds_allows(asked: Request, rule: str) -> None:
    outcome = run(policy(), asked)
    assert (outcome.status, outcome.reached_upstream) == (200, True)
    assert outcome.metadata["authorize"] == {"rule": rule}


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (of("GET", "/internal/x", "staff"), "authorize_denied:internal"),
        (of("POST", "/orders", "staff"), "authorize_no_rule"),
        (of("get", "/orders"), "authorize_no_rule"),
    ],
)
def test_all_else_is_refused_and_only_operators_learn_why(asked: Request, why: str) -> None:
    outcome = run(policy(), asked)
    assert (outcome.status, details(outcome)) == (403, why)
    assert "authorize" not in outcome.metadata
    shown = (outcome.body or b"").decode() + str(dict(outcome.response.headers.items()))
    assert not any(word in shown for word in ("internal", "authorize", "rule", "admins"))


def test_the_order_decides() -> None:
    assert details(run(policy(INTERNAL, ADMINS), of("GET", "/internal", "admin"))) == "authorize_denied:internal"
    assert run(policy(ADMINS, INTERNAL), of("GET", "/internal", "admin")).reached_upstream


@pytest.mark.parametrize("metadata", [{}, {"jwt": {}}, {"jwt": {"groups": 3}}, {"jwt": {"groups": b"admin"}}])
def test_a_rule_that_cannot_be_evaluated_falls_on_the_safe_side(metadata: dict[str, Any]) -> None:
    asked = request("POST", "/", metadata=metadata)
    assert details(run(policy(ADMINS), asked)) == "authorize_rule_failed:admins"
    blocked = {**ADMINS, "name": "blocked", "action": "deny"}
    everybody = {"name": "everybody", "action": "allow"}
    assert details(run(policy(blocked, everybody), asked)) == "authorize_rule_failed:blocked"
    assert run(policy(ADMINS, everybody), asked).metadata["authorize"] == {"rule": "everybody"}


def test_a_rule_without_an_expression_always_holds() -> None:
    closed = policy(READERS, {"name": "closed", "action": "deny"}, default="allow")
    assert details(run(closed, of("PUT", "/"))) == "authorize_denied:closed"


def test_the_default_and_the_status_can_be_chosen() -> None:
    outcome = run(policy(INTERNAL, default="allow"), of("PUT", "/"))
    assert outcome.metadata["authorize"] == {"rule": "default"}
    assert run(policy(status=404), of("PUT", "/")).status == 404
    # A failure of a rule that would have allowed changes nothing where all are allowed.
    assert run(policy(ADMINS, default="allow"), request()).reached_upstream


def test_it_decides_on_what_earlier_policies_of_the_chain_left() -> None:
    class Marks(Policy):
        def on_request_headers(self, request: Request) -> None:
            request.metadata["api_key"] = {"tier": request.headers["x-tier"]}

    tiers = policy({"name": "tiers", "action": "allow", "when": 'metadata.api_key.tier == "gold"'})
    assert run([Marks({}), tiers], request(headers={"x-tier": "gold"})).reached_upstream
    assert run([Marks({}), tiers], request(headers={"x-tier": "tin"})).status == 403
    skipped = entry(tiers, condition='request.path == "/health"')
    assert run([Marks({}), skipped], request("GET", "/x", headers={"x-tier": "tin"})).reached_upstream


def test_a_rule_can_ask_for_what_envoy_knows() -> None:
    when = 'request.attributes["connection.uri_san_peer_certificate"] == "spiffe://shop/orders"'
    subject = policy({"name": "orders", "action": "allow", "when": when})
    for name, passes in (("spiffe://shop/orders", True), ("spiffe://shop/other", False)):
        asked = request(attributes={"connection.uri_san_peer_certificate": name})
        assert run(subject, asked).reached_upstream is passes
    assert run(subject, request()).status == 403


@pytest.mark.parametrize("step", ['k.matches("(a|b|c)*z")', 'k.contains("zz")', "request.target.contains(k)"])
def test_a_request_made_to_be_dear_is_refused(step: str) -> None:
    when = f"request.query.exists(k, {step})"
    dear = [{"name": f"r{number}", "action": "allow", "when": f"!{when} && {when}"} for number in range(200)]
    target = "/?" + "&".join(f"{'ab' * 8}{number}=1" for number in range(900))
    why = details(run(policy(*dear), request("GET", target)))
    assert why in {"authorize_too_expensive", "authorize_rule_failed:r0"}


@given(st.text(max_size=30), st.lists(st.text(max_size=8), max_size=4), st.text(max_size=30))
def test_no_claim_or_path_gets_in_that_is_not_allowed(path: str, groups: list[str], subject: str) -> None:
    asked = request("POST", "/" + path, metadata={"jwt": {"sub": subject, "groups": groups}})
    assert run(policy(ADMINS), asked).reached_upstream is ("admin" in groups)


@pytest.mark.parametrize(
    ("rules", "path", "said"),
    [
        ([ADMINS, {**READERS, "when": "request.metod"}], "/rules/1/when", ["rule readers", "request.method"]),
        ([{**ADMINS, "when": "request.path"}], "/rules/0/when", ["rule admins", "true or false"]),
        ([{**ADMINS, "when": "response.status == 200"}], "/rules/0/when", ["not known when the request"]),
        ([{**ADMINS, "when": '"a" in'}], "/rules/0/when", ["line 1, column 7"]),
        ([{**ADMINS, "when": " "}], "/rules/0/when", ["empty"]),
        ([ADMINS, READERS, {**READERS, "name": "admins"}], "/rules/2/name", ["another rule admins"]),
    ],
)
def test_wrong_rules_are_refused_by_name_and_pointer(rules: list[dict[str, Any]], path: str, said: list[str]) -> None:
    with pytest.raises(ParameterError) as caught:
        policy(*rules)
    assert caught.value.path == path
    assert all(one in caught.value.message for one in said)


@pytest.mark.parametrize(
    "parameters",
    [
        {"rules": []},
        {"rules": [{"name": "a b", "action": "allow"}]},
        {"rules": [{"name": "a", "action": "permit"}]},
        {"rules": [{"name": "a"}]},
        {"rules": [{"action": "allow"}]},
        {"rules": [ADMINS], "default": "log"},
        {"rules": [ADMINS], "status": 200},
    ],
)
def test_parameters_that_the_schema_rules_out(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="/"):
        load_policy(__file__, parameters)
