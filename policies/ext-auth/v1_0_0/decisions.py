"""From the server's answer to what becomes of the request; whatever cannot be read decides nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from policy_body import NotJson, parse
from policy_engine.sdk import ImmediateResponse, header_value
from policy_http import Answer, CallFailed

Lines = Sequence[tuple[str, str]]
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


@dataclass(frozen=True, slots=True)
class Allowed:
    """The request goes on: headers for the upstream and for the client, and what later policies may know."""

    upstream: Mapping[str, str]
    client: Lines
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Denied:
    """The request ends here."""

    answer: ImmediateResponse


Decision = Allowed | Denied


def apart(decision: Decision) -> Decision:
    """Return the same for one request of several: what later policies change of it nobody else sees."""
    if isinstance(decision, Denied):
        return decision
    return replace(decision, facts=json.loads(json.dumps(decision.facts)))


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads answers: which headers of them go where, in lower case, and how much of a denial's body the client gets."""

    upstream: frozenset[str] = frozenset()
    client: frozenset[str] = frozenset()
    denial: frozenset[str] = frozenset()
    max_body_bytes: int = 0
    opa: bool = field(default=False)

    def read(self, answer: Answer) -> Decision:
        """Return what the answer decides; raises CallFailed when it decides nothing."""
        return self._opa(answer) if self.opa else self._http(answer)

    def _http(self, answer: Answer) -> Decision:
        status = answer.status
        if 200 <= status < 300:
            return self._allowed(answer.headers, {"status": status})
        if 400 <= status < 500 or status in _REDIRECTS:
            return self._denied(status, answer.headers, answer.body)
        raise CallFailed(f"status {status} decides nothing")

    def _opa(self, answer: Answer) -> Decision:
        if answer.status != 200:
            raise CallFailed(f"status {answer.status} instead of 200")
        try:
            document = parse(answer.body)
        except NotJson as error:
            raise CallFailed(f"the answer is no JSON: {error}") from None
        if not isinstance(document, dict):
            raise CallFailed("the answer is no object")
        if "result" not in document:  # the rule is undefined for this input
            return self._denied(403, (), b"")
        result = document["result"]
        if isinstance(result, bool):
            return self._allowed((), {"result": True}) if result else self._denied(403, (), b"")
        if not isinstance(result, dict) or not isinstance(result.get("allowed"), bool):
            raise CallFailed("the result is neither true or false nor an object with allowed: true or false")
        lines = _lines(result.get("headers", {}))
        if result["allowed"]:
            return self._allowed(lines, {"result": result})
        status, body = result.get("http_status", 403), result.get("body", "")
        if isinstance(status, bool) or status not in {*range(400, 500), *_REDIRECTS} or not isinstance(body, str):
            raise CallFailed("http_status or body of the result are not those of a denial")
        return self._denied(status, lines, body.encode("utf-8", "replace"))

    def _allowed(self, lines: Lines, facts: dict[str, Any]) -> Allowed:
        joined: dict[str, str] = {}
        for name, value in _chosen(lines, self.upstream):
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        return Allowed(joined, _chosen(lines, self.client), facts)

    def _denied(self, status: int, lines: Lines, body: bytes) -> Denied:
        chosen = _chosen(lines, self.denial)
        details = f"ext_auth_denied:{status}"
        if not body or len(body) > self.max_body_bytes:
            return Denied(ImmediateResponse(status, append_headers=chosen, details=details))
        kind = next((value for name, value in lines if name == "content-type"), "text/plain")
        chosen = [(name, value) for name, value in chosen if name != "content-type"]
        headers = {"content-type": _value("content-type", kind)}
        return Denied(ImmediateResponse(status, body, headers, chosen, details=details))


def _chosen(lines: Lines, names: frozenset[str]) -> Lines:
    return tuple((name, _value(name, value)) for name, value in lines if name in names)


def _value(name: str, value: str) -> str:
    try:
        return header_value(value)
    except ValueError:
        raise CallFailed(f"the header {name} of the answer cannot be sent on") from None


def _lines(headers: object) -> Lines:
    if not isinstance(headers, dict):
        raise CallFailed("headers of the result are no object")
    lines: list[tuple[str, str]] = []
    for name, given in headers.items():
        for value in given if isinstance(given, list) else [given]:
            if not isinstance(value, str):
                raise CallFailed("a header of the result is neither text nor a list of texts")
            lines.append((name.lower(), value))
    return lines
