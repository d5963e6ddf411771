"""The compact serialisation of a token (RFC 7515, 7.1), read strictly; apart because all of it is hostile input."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

from policy_jwt.errors import InvalidToken

_LONGEST_KID = 512
_MOST_LEVELS = 64


@dataclass(frozen=True, slots=True)
class Header:
    """The header fields that count; what a token says of where to find its key (jku, jwk, x5u, x5c) never does."""

    algorithm: str
    kid: str | None
    type: str


@lru_cache(maxsize=256)
def parse_header(segment: str) -> Header:
    """Return the header of a token; raises InvalidToken. Kept, as all tokens of one issuer share their few headers."""
    header = parse_object(segment)
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "")
    if not isinstance(algorithm, str):
        raise InvalidToken("jwt_header_without_alg")
    if not (kid is None or (isinstance(kid, str) and len(kid) <= _LONGEST_KID)) or not isinstance(kind, str):
        raise InvalidToken("jwt_header_malformed")
    if "crit" in header or header.get("b64", True) is not True:
        raise InvalidToken("jwt_header_critical_extension")  # RFC 7515, 4.1.11: none is understood here
    return Header(algorithm, kid, kind.lower().removeprefix("application/"))


def parse_object(segment: str) -> Mapping[str, Any]:
    """Return the JSON object in a segment.

    Raises InvalidToken also for names that occur twice, NaN and Infinity, and more than 64 levels: whoever writes or
    compares claims later would fail at that, and a failure is not a refusal.
    """
    try:
        raw = decode(segment)
        found = _DECODER.decode(raw.decode(json.detect_encoding(raw), "surrogatepass"))
    except (ValueError, RecursionError):
        raise InvalidToken("jwt_malformed") from None
    if not isinstance(found, dict) or _is_deep(found):
        raise InvalidToken("jwt_malformed")
    return found


def decode(segment: str) -> bytes:
    """Return the bytes of a base64url segment; raises InvalidToken unless it is the one canonical spelling of them."""
    try:
        raw = urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        raise InvalidToken("jwt_malformed") from None
    if urlsafe_b64encode(raw).rstrip(b"=").decode() != segment:
        raise InvalidToken("jwt_malformed")
    return raw


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MOST_LEVELS):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for many in inner for one in many if isinstance(one, dict | list)]
        if not level:
            return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _no_constant(_: str) -> NoReturn:
    raise ValueError("not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
"""What `json.loads` makes anew for each text: 2 µs of a token's 50."""
