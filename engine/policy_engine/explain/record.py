"""The record of what happened to one request: plain data that becomes one JSON object.

A separate module because it is the one thing that `explain`, the live trace, the decision log and `diff` share.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

Document = dict[str, Any]


class Verdict(StrEnum):
    """How an exchange ended for the policies.

    `answered`: a policy answered in place of the upstream, with a status below 400.
    """

    PASSED = "passed"
    ANSWERED = "answered"
    DENIED = "denied"
    FAILED = "failed"


class Decision(StrEnum):
    """What one policy did in one hook. `failed` ended the request, `failed_open` did not.

    `refused`: one of several alternatives did not let the request in, or failed, so that the next was asked.
    """

    PASSED = "passed"
    CHANGED = "changed"
    SKIPPED = "skipped"
    ANSWERED = "answered"
    DENIED = "denied"
    REFUSED = "refused"
    FAILED = "failed"
    FAILED_OPEN = "failed_open"
    UNFINISHED = "unfinished"


@dataclass(slots=True)
class ConditionPart:
    """A part of a condition and what it gave; `depth` is how deep it stands in the whole."""

    text: str
    depth: int
    value: Any = None
    error: str = ""


@dataclass(slots=True)
class ConditionRecord:
    """A condition, its result (None when it failed, for the reason `error`), and its parts."""

    text: str
    result: bool | None = None
    error: str = ""
    parts: list[ConditionPart] = field(default_factory=list)


@dataclass(slots=True)
class Change:
    """One difference that a policy made: `what` names it (`header x-user`, `path`, `body`); None is "not there"."""

    what: str
    before: str | None
    after: str | None


@dataclass(slots=True)
class HookRecord:
    """One hook of one policy. `entry` is its place in the chain, from 0; `milliseconds` are wall time.

    `mode` is `shadow` for an entry whose wishes are counted but not applied. `status` and `reason` are of an answer,
    `failure` and `error` of a failure; of a skipped hook, `reason` is what beside its condition kept it from running.
    `version` is empty for the verdict of a group.
    """

    policy: str
    version: str
    entry: int
    hook: str
    decision: Decision = Decision.UNFINISHED
    mode: str = "enforce"
    milliseconds: float | None = None
    condition: ConditionRecord | None = None
    changes: list[Change] = field(default_factory=list)
    status: int | None = None
    reason: str = ""
    failure: str = ""
    error: str = ""


@dataclass(slots=True)
class MessageRecord:
    """A message: headers line by line, pseudo-headers among them; `body` is what is shown of `body_bytes`."""

    headers: list[tuple[str, str]]
    body: str | None = None
    body_bytes: int | None = None
    trailers: list[tuple[str, str]] | None = None


@dataclass(slots=True)
class ExchangeRecord:
    """All of one request.

    - `modes`: what Envoy was asked for, by the fields of `ProcessingMode`.
    - `request`, `response`: as they came from the client and the upstream; `sent`: the request as it goes upstream;
      `answer`: what the client gets, as far as the engine saw it.
    - `policy`, `version`, `hook`, `reason`, `status`: of what ended the request, when something did; `policy` is empty
      for the engine itself.
    - `metadata`: dynamic metadata given to Envoy, by namespace.
    - `attributes`, `envoy_metadata`: what Envoy sent beside the request, all of it, asked for by the chain or not.
    """

    time: str
    route: str
    request_id: str = ""
    trace_id: str | None = None
    worker: int | None = None
    chain: str = ""
    client_address: str = ""
    verdict: Verdict = Verdict.PASSED
    policy: str = ""
    version: str = ""
    hook: str = ""
    reason: str = ""
    status: int | None = None
    milliseconds: float | None = None
    modes: dict[str, str] = field(default_factory=dict)
    hooks: list[HookRecord] = field(default_factory=list)
    request: MessageRecord | None = None
    sent: MessageRecord | None = None
    response: MessageRecord | None = None
    answer: MessageRecord | None = None
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    envoy_metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_document(self) -> Document:
        """Return the record as JSON data; what says nothing is left out."""
        document: Document = _plain(self)
        return document


_ALWAYS = frozenset({"before", "after", "value", "result", "depth", "entry"})
"""Fields that are shown whatever they hold."""

_NOTHING: tuple[Any, ...] = (None, "", [], {})
_SCALARS = frozenset({str, int, float, bool, type(None)})
_FIELDS: dict[type, tuple[str, ...]] = {}


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is list or kind is tuple:
        return [_plain(one) for one in value]
    if kind is dict:
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, StrEnum):
        return value.value
    names = _FIELDS.get(kind)
    if names is None:
        names = _FIELDS[kind] = tuple(one.name for one in fields(value))
    found = {}
    for name in names:
        one = getattr(value, name)
        if name in _ALWAYS or one not in _NOTHING:
            found[name] = _plain(one)
    return found
