"""Vectors of our own of the same make, whose payloads are no claims either, against the versions of the policy."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from policy_jwt import verifier
from policy_jwt.compact import parse_object
from policy_jwt.testing import jwk, segment
from tools.conformance.wycheproof_suite import cases, keys_of, refusal

POLICIES = Path(__file__).parents[2] / "policies" / "jwt-validation"
SECRET = b"0123456789abcdef0123456789abcdef"
KEY = {"kty": "oct", "alg": "HS256", "kid": "one", "k": segment(SECRET)}

each_version = pytest.mark.parametrize("policy", sorted(POLICIES.glob("v*_*_*")), ids=lambda path: path.name)


def signed(payload: str = "foo", header: Mapping[str, Any] | None = None) -> str:
    text = f"{segment(dict(header or {'alg': 'HS256', 'kid': 'one'}))}.{segment(payload.encode())}"
    return f"{text}.{segment(hmac.digest(SECRET, text.encode(), hashlib.sha256))}"


@each_version
@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (signed(), None),
        (signed(""), None),
        (signed(header={"alg": "HS256"}), None),
        (signed(header={"alg": "none", "kid": "one"}), "jwt_algorithm_not_allowed"),
        (signed(header={"alg": "RS256", "kid": "one"}), "jwt_unknown_key"),
        (signed() + "A", "jwt_bad_signature"),
        (signed() + "=", "jwt_malformed"),
        (signed().replace(".", ".A", 1), "jwt_bad_signature"),
        (signed() + ".x", "jwt_malformed"),
        ("", "jwt_missing"),
    ],
)
def test_the_policy_decides_by_the_signature_whatever_the_payload_is(
    policy: Path, token: str, reason: str | None
) -> None:
    assert refusal(policy, [KEY], token) == reason


@each_version
def test_a_payload_that_is_signed_and_badly_encoded_is_refused(policy: Path) -> None:
    text = f"{segment({'alg': 'HS256'})}.AB"  # the bits after the last byte are not zero
    token = f"{text}.{segment(hmac.digest(SECRET, text.encode(), hashlib.sha256))}"
    assert refusal(policy, [KEY], token) == "jwt_malformed"


@each_version
def test_a_key_that_is_refused_at_load_lets_nothing_in(policy: Path) -> None:
    reason = refusal(policy, [{**KEY, "k": segment(b"short")}], signed())
    assert reason is not None
    assert reason.startswith("the key is refused at load")


def test_claims_are_checked_again_afterwards() -> None:
    refusal(POLICIES / "v1_0_0", [KEY], signed())
    assert vars(verifier)["parse_object"] is parse_object


def test_valid_vectors_must_get_in_and_others_must_not() -> None:
    vectors = [(1, signed(), "valid"), (2, signed() + "A", "invalid"), (3, signed(), "invalid"), (4, "x", "valid")]
    tests = [{"tcId": number, "comment": "c", "jws": token, "result": result} for number, token, result in vectors]
    as_json = {"tcId": 5, "comment": "c", "jws": {"payload": "Zm9v", "signatures": []}, "result": "invalid"}
    encrypted = {"tcId": 6, "comment": "c", "jwe": "a.b.c.d.e", "result": "valid"}
    group = {"comment": "g", "private": KEY, "tests": [*tests, as_json, encrypted]}
    found = list(cases("v1.0.0/file", [group], POLICIES / "v1_0_0"))
    assert {one.name: one.passed for one in found} == {
        "v1.0.0/file/1": True,
        "v1.0.0/file/2": True,
        "v1.0.0/file/3": False,
        "v1.0.0/file/4": False,
        "v1.0.0/file/5": True,
    }
    assert found[2].detail == "g, c: invalid, and let in"
    assert found[3].detail == "g, c: valid, and jwt_malformed"


def test_a_verifier_has_public_keys_and_secrets() -> None:
    public = jwk("one", "P-256")
    assert keys_of({"private": {**public, "d": "secret"}, "public": public}) == [public]
    assert keys_of({"private": {"keys": [KEY, {**public, "d": "secret"}]}}) == [KEY, public]
