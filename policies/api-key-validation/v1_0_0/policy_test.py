"""api-key-validation through the test kit: who gets in, what the upstream sees, what the others are told."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError, Policy
from policy_engine.sdk.testing import Outcome, load_policy, request, run

KEYS = [
    {"client": "mobile", "sha256": hashlib.sha256(b"mobile-key").hexdigest()},
    {"client": "mobile", "sha256": hashlib.sha256(b"mobile-key-2").hexdigest().upper()},
    {"client": "partner", "salt": "s1", "sha256": hashlib.sha256(b"s1partner-key").hexdigest()},
]


def policy(**parameters: Any) -> Policy:
    return load_policy(__file__, {"keys": KEYS, **parameters})


def with_key(subject: Policy, value: str | bytes | list[str]) -> Outcome:
    return run(subject, request("GET", "/a?b=1", headers={"x-api-key": value, "x-client": "forged"}))


@pytest.mark.parametrize(
    ("key", "client"), [("mobile-key", "mobile"), ("mobile-key-2", "mobile"), ("partner-key", "partner")]
)
def test_a_known_key_gets_in_and_does_not_go_upstream(key: str, client: str) -> None:
    outcome = with_key(policy(client_header="X-Client"), key)
    assert outcome.reached_upstream
    assert outcome.metadata["api_key"] == {"client": client}
    assert outcome.request.headers.get_all("x-client") == (client,)
    assert "x-api-key" not in outcome.request.headers


def test_the_action_of_a_client_is_built_once() -> None:
    subject = policy(client_header="x-client")
    assert with_key(subject, "mobile-key").steps[0].action is with_key(subject, "mobile-key-2").steps[0].action


def test_the_key_can_be_left_in() -> None:
    outcome = with_key(policy(forward_key=True), "mobile-key")
    assert outcome.request.headers["x-api-key"] == "mobile-key"
    assert outcome.steps[0].action is None


@pytest.mark.parametrize("headers", [{}, {"x-api-key": ""}])
def test_no_key_is_401_with_a_challenge(headers: dict[str, str]) -> None:
    outcome = run(policy(realm="shop"), request(headers=headers))
    assert outcome.status == 401
    assert outcome.response.headers["www-authenticate"] == 'ApiKey realm="shop"'
    assert not outcome.reached_upstream
    assert "api_key" not in outcome.metadata


@pytest.mark.parametrize("key", ["wrong", "s1partner-key", "mobile-key ", "x" * 5000, b"\xff\xfe", KEYS[0]["sha256"]])
def test_a_wrong_key_is_403(key: str | bytes) -> None:
    outcome = with_key(policy(), key)
    assert (outcome.status, outcome.reached_upstream) == (403, False)
    assert "www-authenticate" not in outcome.response.headers


def test_a_wrong_key_can_be_401() -> None:
    outcome = with_key(policy(wrong_key_status=401), "wrong")
    assert outcome.status == 401
    assert "www-authenticate" in outcome.response.headers


@pytest.mark.parametrize("lines", [["mobile-key", "partner-key"], ["mobile-key"] * 2, "mobile-key,partner-key"])
def test_two_keys_are_refused_even_if_one_is_right(lines: list[str] | str) -> None:
    outcome = with_key(policy(), lines)
    assert (outcome.status, outcome.reached_upstream) == (400, False)


def test_two_keys_in_the_query_are_refused() -> None:
    in_query = policy(**{"in": "query", "name": "k"})
    assert run(in_query, request("GET", "/?k=mobile-key&k=partner-key")).status == 400


@pytest.mark.parametrize(
    "value",
    [
        "ApiKey mobile-key,ApiKey mobile-key",
        "ApiKey wrong,ApiKey mobile-key",
        "Bearer x,apikey mobile-key",
        "ApiKey mobile-key,",
    ],
)
def test_several_authorization_lines_that_envoy_joined_are_refused(value: str) -> None:
    outcome = run(policy(name="Authorization", prefix="ApiKey "), request(headers={"authorization": value}))
    assert (outcome.status, outcome.reached_upstream) == (400, False)


def test_a_key_may_hold_a_comma() -> None:
    subject = policy(keys=[{"client": "c", "sha256": hashlib.sha256(b"a,b").hexdigest()}])
    assert with_key(subject, "a,b").reached_upstream
    assert with_key(subject, "a,c").status == 400


def test_prefix_in_any_case_and_only_with_it() -> None:
    subject = policy(name="Authorization", prefix="ApiKey ")
    assert run(subject, request(headers={"authorization": "apikey mobile-key"})).reached_upstream
    assert run(subject, request(headers={"authorization": "mobile-key"})).status == 401
    assert run(subject, request(headers={"authorization": "Bearer mobile-key"})).status == 401


@pytest.mark.parametrize(
    ("target", "upstream"),
    [
        ("/a?api_key=mobile-key", "/a"),
        ("/a?x=%20+&api_key=mobile-key&y", "/a?x=%20+&y"),
        ("/a?api%5Fkey=mobile%2Dkey&x=1", "/a?x=1"),
        ("/a?x=1&api_key=&api_key=mobile-key", "/a?x=1"),
    ],
)
def test_key_in_the_query_is_cut_out_and_the_rest_stays(target: str, upstream: str) -> None:
    outcome = run(policy(**{"in": "query", "name": "api_key"}), request("GET", target))
    assert outcome.request.target == upstream
    assert outcome.metadata["api_key"] == {"client": "mobile"}


def test_query_key_can_be_left_in_and_header_key_does_not_count_there() -> None:
    subject = policy(**{"in": "query", "name": "x-api-key", "forward_key": True})
    assert run(subject, request("GET", "/a?x-api-key=mobile-key")).request.target == "/a?x-api-key=mobile-key"
    assert with_key(subject, "mobile-key").status == 401


@given(st.text(max_size=40), st.text(alphabet="abk=&%+?/5F_", max_size=30))
def test_no_input_but_a_key_gets_in_and_none_makes_it_fail(value: str, query: str) -> None:
    header = policy()
    by_query = policy(**{"in": "query", "name": "k"})
    assert run(header, request(headers={"x-api-key": value.encode("utf-8", "replace")})).status in {400, 401, 403}
    assert run(by_query, request("GET", f"/?{query}")).status in {400, 401, 403}


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"name": "not a header"}, "/name"),
        ({"in": "query", "prefix": "x "}, "/prefix"),
        ({"client_header": ":path"}, "/client_header"),
        ({"client_header": "X-Api-Key"}, "/client_header"),
        ({"keys": [KEYS[0], KEYS[0]]}, "/keys/1/sha256"),
        ({"keys": [{**KEYS[0], "client": "a\nb"}]}, "/keys/0/client"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        policy(**parameters)
    assert caught.value.path == path
