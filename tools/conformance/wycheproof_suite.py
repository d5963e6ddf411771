"""Wycheproof's vectors for signed tokens (JWS) and their keys (JWK) against jwt-validation, as it decides on a request.

Each vector is a key and a token in an `Authorization` header; the policy has the key as its `jwk_set`, and every
algorithm it knows is allowed, so that only the key can forbid one. The payloads of the vectors are no claims: once the
policy has decoded one, good claims stand in for it, and nothing else is changed. Encrypted tokens (JWE) are left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import policy_jwt.verifier
from policy_engine.sdk import ParameterError
from policy_engine.sdk.testing import load_policy, request
from policy_engine.sdk.testing import run as run_policy
from policy_jwt.compact import decode
from policy_jwt.keys import ASYMMETRIC, SYMMETRIC
from tools.conformance.downloads import GoModule, go_module
from tools.conformance.suite import Case

_MODULE = GoModule(
    "github.com/c2sp/wycheproof",
    "v0.0.0-20260902155932-3fa63dd0344a",
    "h1:pNbL2nztRsWfW/ispAwsvcDFxs9Id38uIsR2/Up5G2c=",
)
VERSION = _MODULE.version
EXPECTED = "wycheproof.toml"

FILES = ("json_web_signature", "json_web_key", "json_web_crypto")
_POLICIES = Path(__file__).parents[2] / "policies" / "jwt-validation"
_ISSUER = "https://issuer.example.test"
_PRIVATE = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth"))


def run() -> Iterator[Case]:
    """Fetch the vectors and yield each, for each version of the policy: `VERSION/FILE/NUMBER`."""
    vectors = go_module(_MODULE) / "testvectors_v1"
    for version in sorted(path.name for path in _POLICIES.glob("v*_*_*")):
        for file in FILES:
            document = json.loads((vectors / f"{file}_test.json").read_text("utf-8"))
            yield from cases(f"{version.replace('_', '.')}/{file}", document["testGroups"], _POLICIES / version)


def cases(section: str, groups: Iterable[Mapping[str, Any]], policy: Path) -> Iterator[Case]:
    """Yield the cases of a file, named by their `tcId`; one passes when the token gets in and is valid, or neither."""
    for group in groups:
        for vector in group["tests"]:
            if "jws" not in vector:
                continue
            token = vector["jws"] if isinstance(vector["jws"], str) else json.dumps(vector["jws"])
            reason = refusal(policy, keys_of(group), token)
            passed = (reason is None) == (vector["result"] == "valid")
            detail = f"{group['comment']}, {vector['comment']}: {vector['result']}, and {reason or 'let in'}"
            yield Case(f"{section}/{vector['tcId']}", passed, "" if passed else detail)


def keys_of(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the JWKs of a group that a verifier would have: of pairs the public part, and secrets."""
    given = group.get("public") or group["private"]
    keys = given.get("keys", [given])
    return [
        {name: part for name, part in key.items() if key.get("kty") == "oct" or name not in _PRIVATE} for key in keys
    ]


def refusal(policy: Path, keys: list[dict[str, Any]], token: str) -> str | None:
    """Return why the policy does not let a request with the token in, None when it does."""
    parameters = {
        "issuer": _ISSUER,
        "audiences": [],
        "algorithms": [*ASYMMETRIC, *SYMMETRIC],
        "jwk_set": {"keys": keys},
        "max_token_bytes": 65_536,
    }
    with mock.patch.object(policy_jwt.verifier, "parse_object", _good_claims):
        try:
            loaded = load_policy(policy, parameters)
        except ParameterError as error:
            return f"the key is refused at load: {error.message}"
        answer = run_policy(loaded, request(headers={"authorization": f"Bearer {token}"})).immediate
    return None if answer is None else answer.details


def _good_claims(segment: str) -> Mapping[str, Any]:
    decode(segment)
    return {"iss": _ISSUER, "exp": time.time() + 300}
