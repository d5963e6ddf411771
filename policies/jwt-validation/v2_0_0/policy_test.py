"""jwt-validation v2: what it adds to v1, and that it keeps what v1 promises."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError, Policy
from policy_engine.sdk.testing import Outcome, load_policy, request, run
from policy_engine.worker.policies.json_data import MAX_INTEGER
from policy_jwt.testing import AUDIENCE, ISSUER, jwk, segment, token

NAMESPACED = "https://example.com/tenant"


def policy(**parameters: Any) -> Policy:
    basic = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwk_set": {"keys": [jwk("one")]}}
    return load_policy(__file__, {**basic, **parameters})


def send(subject: Policy, text: str, **headers: str) -> Outcome:
    return run(subject, request(headers={"authorization": f"Bearer {text}", **headers}))


def rule(operator: str, wanted: Any, claim: str = "c") -> dict[str, Any]:
    return {"claim_rules": [{"claim": claim, operator: wanted}]}


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"scope": "orders:read orders:write other"}, 200),
        ({"scope": ["orders:write", "orders:read"]}, 200),
        ({"scope": "orders:read"}, 403),
        ({"scope": "orders:read orders:writer"}, 403),
        ({"scope": "orders:readorders:write"}, 403),
        ({"scope": {"orders:read": 1, "orders:write": 1}}, 403),
        ({"scope": [["orders:read", "orders:write"]]}, 403),
        ({"scope": None}, 403),
    ],
)
def test_required_scopes(claims: dict[str, Any], status: int) -> None:
    outcome = send(policy(required_scopes=["orders:read", "orders:write"]), token(**claims))
    assert outcome.status == status
    if status == 403:
        assert outcome.response.headers["www-authenticate"] == (
            'Bearer realm="api", error="insufficient_scope", scope="orders:read orders:write"'
        )
        assert not outcome.reached_upstream
        assert "jwt" not in outcome.metadata


def test_scope_claim_elsewhere() -> None:
    assert send(policy(required_scopes=["a"], scope_claim="scp"), token(scp=["a"])).status == 200
    assert send(policy(required_scopes=["a"], scope_claim="scp"), token(scope="a")).status == 403


@pytest.mark.parametrize(
    ("operator", "wanted", "good", "bad"),
    [
        ("equals", "x", ["x"], ["X", "xx", ["x"], 1, None]),
        ("equals", 1, [1, 1.0], [True, "1", 2]),
        ("equals", True, [True], [1, "true", False]),
        ("equals", None, [None], [0, "", False]),
        ("equals", {"a": [1, True]}, [{"a": [1, True]}], [{"a": [1, 1]}, {"a": [1]}, {"a": [1, True], "b": 1}]),
        ("one_of", ["a", 2], ["a", 2], ["b", True, ["a"], "a 2"]),
        ("contains", "admin", [["x", "admin"], "x admin", "admin"], ["admins", ["admins"], [["admin"]], {"admin": 1}]),
        ("contains", 1, [[1]], [[True], "1", ["1"], 1]),
        ("matches", "[a-z]{2}-[0-9]+", ["de-1"], ["de-1x", "xde-1", "de-1\n", ["de-1"], 5, "\ud800"]),
        ("matches", "a|b", ["a", "b"], ["ab", "ax"]),
        ("present", True, ["", None, 0], []),
        ("present", False, [], ["", None, 0]),
    ],
)
def test_claim_rules(operator: str, wanted: Any, good: list[Any], bad: list[Any]) -> None:
    subject = policy(**rule(operator, wanted, "/o/c"))
    for value in good:
        assert send(subject, token(o={"c": value})).status == 200, value
    for value in bad:
        outcome = send(subject, token(o={"c": value}))
        assert outcome.status == 403, value
        assert 'error="insufficient_scope"' in outcome.response.headers["www-authenticate"]


@pytest.mark.parametrize("operator", ["equals", "one_of", "contains", "matches"])
@pytest.mark.parametrize("claims", [{}, {"o": None}, {"o": []}, {"o": {"d": 1}}, {"o": "c"}])
def test_a_missing_claim_meets_no_rule_but_its_absence(operator: str, claims: dict[str, Any]) -> None:
    wanted: Any = ["c", None] if operator == "one_of" else ".*" if operator == "matches" else "c"
    assert send(policy(**rule(operator, wanted, "o.c")), token(**claims)).status == 403
    assert send(policy(**rule("present", False, "o.c")), token(**claims)).status == 200


def test_all_rules_must_be_met() -> None:
    subject = policy(claim_rules=[{"claim": "a", "equals": 1}, {"claim": "b", "equals": 2}])
    assert send(subject, token(a=1, b=2)).status == 200
    assert send(subject, token(a=1, b=1)).status == 403
    assert send(subject, token(a=2, b=2)).status == 403


def test_names_with_dots_and_slashes_by_json_pointer() -> None:
    claims: dict[str, Any] = {NAMESPACED: "t1", "a.b": {"c~d": "t2"}, "roles": ["r0", "r1"]}
    assert send(policy(**rule("equals", "t1", "/https:~1~1example.com~1tenant")), token(**claims)).status == 200
    assert send(policy(**rule("equals", "t2", "/a.b/c~0d")), token(**claims)).status == 200
    assert send(policy(**rule("equals", "t2", "a.b")), token(**claims)).status == 403
    for claim, role in (("/roles/1", "r1"), ("roles.0", "r0")):
        assert send(policy(**rule("equals", role, claim)), token(**claims)).status == 200
    for claim in ("/roles/2", "/roles/01", "/roles/-"):
        assert send(policy(**rule("equals", "r1", claim)), token(**claims)).status == 403


def test_a_pointer_with_a_wrong_escape_is_refused_when_the_chain_is_loaded() -> None:
    with pytest.raises(ParameterError, match="RFC 6901"):
        policy(**rule("equals", "t2", "/a.b/c~d"))


HEADERS = {
    "claims_to_headers": [
        {"claim": "sub", "header": "X-User"},
        {"claim": "realm.roles", "header": "x-roles"},
        {"claim": "c", "header": "x-c"},
    ]
}


@pytest.mark.parametrize(
    ("value", "header"),
    [
        ("text", "text"),
        ("grüß", "grüß"),
        (7, "7"),
        (1.5, "1.5"),
        (True, "true"),
        (["a", "b"], "a,b"),
        ([], ""),
        ([1, "a"], '[1,"a"]'),
        ({"a": "ü"}, '{"a":"\\u00fc"}'),
        (None, None),
    ],
)
def test_claims_go_upstream(value: Any, header: str | None) -> None:
    outcome = send(policy(**HEADERS), token(c=value, realm={"roles": ["r1", "r2"]}), **{"x-c": "forged"})
    assert outcome.request.headers.get("x-user") == "alice"
    assert outcome.request.headers.get("x-roles") == "r1,r2"
    assert outcome.request.headers.get_all("x-c") == (() if header is None else (header,))


def test_forged_headers_never_go_upstream_with_or_without_the_claim() -> None:
    forged = {"x-user": "root", "x-roles": "admin", "x-c": "forged", "x-claims": "e30"}
    outcome = send(policy(**HEADERS, payload_header="x-claims"), token(sub=None), **forged)
    assert outcome.reached_upstream
    assert not {"x-user", "x-roles", "x-c"} & set(outcome.request.headers)
    assert outcome.request.headers["x-claims"] != "e30"


@pytest.mark.parametrize("value", ["a\r\nx-role: admin", "a\0", " a", ["a,b"], ["a", "b\n"], "\ud800"])
def test_a_claim_that_is_no_header_value_is_refused(value: Any) -> None:
    outcome = send(policy(**HEADERS), token(c=value))
    assert (outcome.status, outcome.reached_upstream) == (401, False)


def json_data(integers: st.SearchStrategy[int]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    )


@settings(deadline=None)
# A claim may be any number; what the operator wants is held to the bounds of parameters.
@given(json_data(st.integers()), json_data(st.integers(-MAX_INTEGER, MAX_INTEGER)))
def test_no_claim_makes_it_fail(value: Any, wanted: Any) -> None:
    subject = policy(**HEADERS, claim_rules=[{"claim": "o.c", "equals": wanted}, {"claim": "c", "matches": ".*"}])
    assert send(subject, token(c=value, o={"c": wanted})).status in {200, 401, 403}


def test_token_types() -> None:
    subject = policy(token_types=["at+jwt"])
    assert send(subject, token(headers={"typ": "at+jwt"})).status == 200
    assert send(subject, token()).status == 401


def test_what_v1_promises_holds_too() -> None:
    outcome = send(policy(forward_token=False), token())
    assert outcome.metadata["jwt"]["sub"] == "alice"
    assert "authorization" not in outcome.request.headers
    unsigned = f"{segment({'alg': 'none'})}.{segment({'iss': ISSUER, 'aud': AUDIENCE, 'exp': 1 << 33})}."
    for bad in (unsigned, token(exp=1), token("two")):
        assert send(policy(), bad).status == 401
    assert run(policy(), request()).status == 401


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        (rule("matches", "("), "/claim_rules/0/matches"),
        (rule("matches", "(?=a)"), "/claim_rules/0/matches"),
        (rule("equals", 1, "a..b"), "/claim_rules/0/claim"),
        ({"claim_rules": [{"claim": "a"}]}, "/claim_rules/0"),
        ({"claim_rules": [{"claim": "a", "equals": 1, "present": True}]}, "/claim_rules/0"),
        ({"required_scopes": ["a"], "scope_claim": "."}, "/scope_claim"),
        ({"claims_to_headers": [{"claim": "a", "header": "host"}]}, "/claims_to_headers/0/header"),
        ({"claims_to_headers": [{"claim": "a", "header": "authorization"}]}, ""),
        ({"claims_to_headers": [{"claim": "a", "header": "x"}, {"claim": "b", "header": "X"}]}, ""),
        ({"claims_to_headers": [{"claim": "a", "header": "x"}], "payload_header": "x"}, ""),
        ({"payload_header": ":path"}, "/payload_header"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        policy(**parameters)
    assert caught.value.path == path
