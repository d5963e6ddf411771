"""The registered claims (RFC 7519, 4.1) checked against what a policy expects; apart as it knows no keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policy_jwt.errors import InvalidToken
from policy_tokens import audiences_of


@dataclass(frozen=True, slots=True)
class Expected:
    """What the claims must say; `audiences` empty means that the audience is not checked, `leeway` is in seconds."""

    issuer: str
    audiences: frozenset[str]
    leeway: float


def check_claims(claims: Mapping[str, Any], expected: Expected, now: float) -> float:
    """Check issuer, audience, expiry, not-before and issued-at; raises InvalidToken.

    Returns when the token ends, leeway included, in seconds since the epoch. `exp` and `iss` must be there.
    """
    if claims.get("iss") != expected.issuer:
        raise InvalidToken("jwt_wrong_issuer")
    if expected.audiences and expected.audiences.isdisjoint(audiences_of(claims.get("aud"))):
        raise InvalidToken("jwt_wrong_audience")
    expires = _moment(claims, "exp")
    if expires is None:
        raise InvalidToken("jwt_without_exp")
    if now >= expires + expected.leeway:
        raise InvalidToken("jwt_expired")
    if (_moment(claims, "nbf") or 0) > now + expected.leeway:
        raise InvalidToken("jwt_not_yet_valid")
    if (_moment(claims, "iat") or 0) > now + expected.leeway:
        raise InvalidToken("jwt_issued_in_the_future")
    if not isinstance(claims.get("sub", ""), str):
        raise InvalidToken("jwt_claim_malformed")
    return expires + expected.leeway


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        raise InvalidToken("jwt_claim_malformed")
    return float(value)
