"""What the claims must say beyond being genuine; apart from the policy as it knows neither tokens nor requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import re2

from policy_engine.sdk import MISSING, ParameterError, Parameters, find
from policy_tokens.paths import claim_path

_Test = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """One rule; a claim that is missing meets none but `present: false`."""

    path: tuple[str, ...]
    test: _Test

    def met_by(self, claims: Mapping[str, Any]) -> bool:
        """Return whether the claims meet the rule."""
        return self.test(find(claims, self.path))


@dataclass(frozen=True, slots=True)
class Scopes:
    """The scopes that a token must have; `text` lists them as RFC 6750 does."""

    path: tuple[str, ...]
    wanted: frozenset[str]
    text: str

    def met_by(self, claims: Mapping[str, Any]) -> bool:
        """Return whether the token has all of them."""
        found = find(claims, self.path)
        if isinstance(found, str):
            return self.wanted.issubset(found.split(" "))
        if isinstance(found, list):
            return self.wanted.issubset(one for one in found if isinstance(one, str))
        return False


def audiences_of(value: object) -> list[str]:
    """Return the audiences that an `aud` claim names: text, or a list (RFC 7519, 4.1.3)."""
    if isinstance(value, str):
        return [value]
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def required_scopes(parameters: Parameters) -> Scopes | None:
    """Return the scopes asked for, None when none are; raises ParameterError."""
    wanted = parameters.get("required_scopes")
    if not wanted:
        return None
    path = claim_path(parameters.get("scope_claim", "scope"), "/scope_claim")
    return Scopes(path, frozenset(wanted), " ".join(wanted))


def claim_rules(parameters: Parameters) -> tuple[ClaimRule, ...]:
    """Return the rules; raises ParameterError."""
    return tuple(_rule(entry, f"/claim_rules/{index}") for index, entry in enumerate(parameters.get("claim_rules", ())))


def _rule(entry: Mapping[str, Any], where: str) -> ClaimRule:
    operators = [name for name in entry if name != "claim"]
    if len(operators) != 1 or operators[0] not in _TESTS:
        raise ParameterError(f"exactly one of {', '.join(_TESTS)} is expected beside claim", where)
    test = _TESTS[operators[0]](entry[operators[0]], f"{where}/{operators[0]}")
    return ClaimRule(claim_path(entry["claim"], f"{where}/claim"), test)


def _equals(wanted: Any, _: str) -> _Test:
    return lambda found: _same(found, wanted)


def _one_of(wanted: Sequence[Any], _: str) -> _Test:
    return lambda found: any(_same(found, one) for one in wanted)


def _contains(wanted: Any, _: str) -> _Test:
    def test(found: Any) -> bool:
        if isinstance(found, str):
            return isinstance(wanted, str) and wanted in found.split()
        return isinstance(found, list) and any(_same(one, wanted) for one in found)

    return test


def _matches(pattern: str, where: str) -> _Test:
    try:
        compiled = re2.compile(pattern)
    except re2.error as error:
        raise ParameterError(f"not an RE2 expression: {error}", where) from None

    def test(found: Any) -> bool:
        if not isinstance(found, str):
            return False
        try:
            return compiled.fullmatch(found) is not None
        except UnicodeEncodeError:  # half of a surrogate pair: legal in JSON, no text
            return False

    return test


def _present(wanted: bool, _: str) -> _Test:
    return lambda found: (found is not MISSING) is wanted


_TESTS: Mapping[str, Callable[[Any, str], _Test]] = {
    "equals": _equals,
    "one_of": _one_of,
    "contains": _contains,
    "matches": _matches,
    "present": _present,
}


def _same(one: Any, other: Any) -> bool:
    """Compare as JSON does: unlike in Python, true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
