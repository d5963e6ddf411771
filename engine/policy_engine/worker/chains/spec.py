"""What a configuration asks for, as plain data: routes, their policies and how each may fail.

A separate module because the chain file, the xDS client, the compiler and the admin pages all speak it, and none of
them should have to import another.
"""

from __future__ import annotations

import hashlib
import json
import secrets as random_source
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from policy_engine.documents.redaction import REDACTED
from policy_engine.limits import POLICY_TIMEOUT
from policy_engine.sdk.json_pointer import format_pointer
from policy_engine.worker.chains.error_answers import ErrorAnswers

_SECRET_HASH_KEY = random_source.token_bytes(32)


class FailureMode(StrEnum):
    """What happens when a policy fails, times out or its condition cannot be evaluated (R-11)."""

    CLOSED = "closed"
    OPEN = "open"


class Mode(StrEnum):
    """Whether what an entry wants is done, or only counted and logged."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class Unmapped(StrEnum):
    """What becomes of requests whose route key has no chain (R-07)."""

    DENY = "deny"
    PASS = "pass"  # noqa: S105 - a word of the chain file, not a password


WHOLE = 1_000_000
"""All requests, in the unit of shares: millionths, so that `0.0001%` is exact."""


@dataclass(frozen=True, slots=True)
class Share:
    """The requests that an entry runs for: those that fall from `low` up to, not including, `high` (millionths).

    Where a request falls follows from a hash of the value of `by`, a CEL expression; empty for the request's id.
    Versions of one policy that share a route have ranges that touch, so that exactly one of them runs.
    """

    low: int
    high: int
    by: str = ""

    def as_document(self) -> dict[str, Any]:
        """Return the share as plain data, in percent."""
        percent = 100 / WHOLE
        return {"from": self.low * percent, "to": self.high * percent, "by": self.by or "request.id"}


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The group of alternatives that an entry belongs to: the entries of a chain with the same `number`.

    `condition` and `share` are those of the group as a whole.
    """

    number: int
    condition: str | None = None
    share: Share | None = None

    def as_document(self) -> dict[str, Any]:
        """Return the group as plain data."""
        share = self.share.as_document() if self.share is not None else None
        return {"number": self.number, "condition": self.condition, "share": share}


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """One entry of a chain.

    `version` is the exact version that runs (`v1.2.3`), resolved once by whoever read the chain, so that every worker
    process runs the same; `requested_version` is what the operator wrote (`v1` or `v1.2.3`, R-13), empty when nobody
    wrote it. `timeout` is in seconds (R-12).
    `parameters` have their defaults filled in and their secrets resolved; `secrets` holds the JSON Pointers (RFC 6901)
    of the values in it that must never be shown (R-24), which is why `parameters` is not part of the repr.
    """

    name: str
    version: str
    enabled: bool = True
    condition: str | None = None
    failure_mode: FailureMode = FailureMode.CLOSED
    timeout: float = POLICY_TIMEOUT
    parameters: Mapping[str, Any] = field(default_factory=dict, repr=False)
    secrets: frozenset[str] = frozenset()
    requested_version: str = ""
    mode: Mode = Mode.ENFORCE
    share: Share | None = None
    any_of: AnyOf | None = None

    @property
    def written_version(self) -> str:
        """The version as the operator wrote it."""
        return self.requested_version or self.version

    @property
    def expressions(self) -> tuple[str, ...]:
        """Every CEL expression that decides whether the entry runs, those of its group among them."""
        group = self.any_of
        conditions = (self.condition, None if group is None else group.condition)
        shares = (self.share, None if group is None else group.share)
        return tuple(text for text in (*conditions, *(share.by for share in shares if share is not None)) if text)

    def redacted_parameters(self) -> dict[str, Any]:
        """Return a copy of the parameters fit for logs and admin pages: every secret is `***`."""
        return {name: _redact(value, format_pointer((name,)), self.secrets) for name, value in self.parameters.items()}

    def secret_texts(self) -> frozenset[str]:
        """Return the texts in the parameters that must never be shown, to strike them out elsewhere."""
        return frozenset(_secret_texts(self.parameters, "", self.secrets))

    def as_document(self) -> dict[str, Any]:
        """Return the entry as plain JSON-able data without secrets, for admin pages."""
        return {
            "name": self.name,
            "version": self.version,
            "requested_version": self.written_version,
            "enabled": self.enabled,
            "condition": self.condition,
            "failure_mode": self.failure_mode.value,
            "timeout": self.timeout,
            "mode": self.mode.value,
            "share": self.share.as_document() if self.share is not None else None,
            "any_of": self.any_of.as_document() if self.any_of is not None else None,
            "parameters": self.redacted_parameters(),
        }


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """The chain of one route; an empty `policies` passes requests unchanged (R-07).

    `route_key` may hold stars, see `route_patterns`. `errors` is how its denials are written, None where neither the
    route nor its file says (R-19). `body_limit` is in bytes, None for that of the settings. With `unmapped` the keys
    that it stands for have no chain.
    """

    route_key: str
    policies: tuple[PolicySpec, ...] = ()
    errors: ErrorAnswers | None = None
    body_limit: int | None = None
    unmapped: Unmapped | None = None

    def content_hash(self) -> str:
        """Return a hash of the whole content, independent of the order of keys; equal hash means same chain.

        Of a version only the exact one counts: `v1` and the `v1.2.3` it stands for are the same chain.
        A chain without secrets hashes the same everywhere. Secrets enter through a hash keyed with a random value of
        this process and its forks: a changed secret changes the hash, but a hash on an admin page is no oracle for
        guessing a weak secret.
        """
        text = json.dumps(
            [
                self.route_key,
                [_hashable(policy) for policy in self.policies],
                self.body_limit,
                self.unmapped,
                *([] if self.errors is None else [self.errors.as_document()]),
            ],
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=True,
            allow_nan=False,
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def as_document(self) -> dict[str, Any]:
        """Return the route as plain JSON-able data without secrets, for admin pages."""
        document = {
            "route_key": self.route_key,
            "body_limit": self.body_limit,
            "unmapped": self.unmapped.value if self.unmapped is not None else None,
            "policies": [policy.as_document() for policy in self.policies],
        }
        return document if self.errors is None else {**document, "errors": self.errors.as_document()}


@dataclass(frozen=True, slots=True)
class ChainsSpec:
    """A whole configuration; route keys are unique."""

    routes: tuple[RouteSpec, ...] = ()


def _redact(value: Any, pointer: str, secrets: frozenset[str]) -> Any:
    if pointer in secrets:
        return REDACTED
    if isinstance(value, Mapping):
        return {name: _redact(item, pointer + format_pointer((name,)), secrets) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redact(item, f"{pointer}/{index}", secrets) for index, item in enumerate(value)]
    return value


def _secret_texts(value: Any, pointer: str, secrets: frozenset[str]) -> Iterator[str]:
    if pointer in secrets and isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _secret_texts(item, pointer + format_pointer((name,)), secrets)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _secret_texts(item, f"{pointer}/{index}", secrets)


def _hashable(policy: PolicySpec) -> dict[str, Any]:
    document = policy.as_document()
    del document["requested_version"]
    if policy.secrets:
        plain = json.dumps(policy.parameters, sort_keys=True, separators=(",", ":"), allow_nan=False)
        document["secrets"] = hashlib.blake2b(plain.encode(), key=_SECRET_HASH_KEY).hexdigest()
    else:
        document["parameters"] = policy.parameters
    return document
