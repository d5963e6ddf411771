"""What `policy-engine diff` does: recorded requests through two chain files, and the decisions that differ."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from policy_engine.documents.redaction import REDACTED
from policy_engine.explain.http_text import HttpRequest, HttpResponse, from_flags
from policy_engine.explain.offline import load, of_routes, quiet, serving
from policy_engine.explain.playing import answering, play
from policy_engine.explain.record import ExchangeRecord
from policy_engine.settings.model import Settings
from policy_engine.worker.policies.registry import Registry

MOST_LINE = 8 << 20


class BadRecording(ValueError):
    """A line of the recording cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recorded exchange, to be played again: the request and what its upstream answered."""

    request: HttpRequest
    response: HttpResponse
    masked: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """One request whose decision differs."""

    request: HttpRequest
    old: ExchangeRecord
    new: ExchangeRecord

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            "request": f"{self.request.method} {self.request.target.partition('?')[0]}",
            "route": self.request.route,
            "old": decision(self.old),
            "new": decision(self.new),
        }


def diff(settings: Settings, registry: Registry, options: argparse.Namespace) -> int:
    """Print what differs; returns 1 when anything does. Raises ValueError for files that cannot be used."""
    recorded = [_with_flags(one, options) for one in read_recording(options.requests)]
    keys = sorted({one.request.route for one in recorded})
    old, new = (of_routes(load(settings, registry, path), keys) for path in (options.old, options.new))

    async def compare() -> list[Difference]:
        found = []
        async with AsyncExitStack() as stack:
            kernels = [await stack.enter_async_context(serving(settings, registry, one)) for one in (old, new)]
            for one in recorded:
                upstream = answering(one.response)
                before, after = [await play(kernel, one.request, upstream) for kernel in kernels]
                if _essence(before, options) != _essence(after, options):
                    found.append(Difference(one.request, before, after))
        return found

    with quiet():
        differences = asyncio.run(compare())
    if options.json:
        print(json.dumps([one.as_document() for one in differences], indent=2))
    else:
        _print(differences, len(recorded), options)
    masked = sum(one.masked for one in recorded)
    if masked:
        text = f"{masked} of {len(recorded)} requests came with credentials masked; give real ones with -H to test them"
        print(f"policy-engine: {text}", file=sys.stderr)
    return int(bool(differences))


def read_recording(path: Path) -> Iterator[Recorded]:
    """Yield what `policy-engine trace --record` wrote; raises BadRecording."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    yield _recorded(json.loads(line))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    reason = f"is no record of `policy-engine trace --record` ({type(error).__name__}: {error})"
                    raise BadRecording(f"{path}:{number}: {reason}") from None
    except OSError as error:
        raise BadRecording(f"{path}: cannot be read: {error.strerror or error}") from None


def decision(record: ExchangeRecord) -> dict[str, Any]:
    """Return what of a record is its decision."""
    return {
        "verdict": record.verdict.value,
        "status": record.status,
        "policy": f"{record.policy} {record.version}".strip(),
        "reason": record.reason,
    }


def _recorded(document: dict[str, Any]) -> Recorded:
    came = document["request"]
    headers = [(str(name), str(value)) for name, value in came["headers"]]
    pseudo = dict(headers)
    request = HttpRequest(
        method=pseudo[":method"],
        target=pseudo[":path"],
        authority=pseudo.get(":authority", ""),
        scheme=pseudo.get(":scheme", "https"),
        headers=tuple(pair for pair in headers if not pair[0].startswith(":") and pair[0] != "content-length"),
        body=_body(came),
        client_address=document.get("client_address") or "192.0.2.1",
        route=document["route"],
        attributes=dict(document.get("attributes") or {}),
        envoy_metadata=dict(document.get("envoy_metadata") or {}),
    )
    facts = json.dumps([request.attributes, request.envoy_metadata])
    masked = REDACTED in facts or any(REDACTED in value for _, value in headers)
    return Recorded(request, _response(document.get("response")), masked)


def _response(came: dict[str, Any] | None) -> HttpResponse:
    if came is None:
        return HttpResponse()
    headers = [(str(name), str(value)) for name, value in came["headers"]]
    kept = tuple(pair for pair in headers if not pair[0].startswith(":") and pair[0] != "content-length")
    return HttpResponse(int(dict(headers).get(":status", "200")), kept, _body(came))


def _body(message: dict[str, Any]) -> bytes | None:
    body = message.get("body")
    return None if body is None else str(body).encode()


def _with_flags(one: Recorded, options: argparse.Namespace) -> Recorded:
    if not options.header:
        return one
    request = from_flags(one.request, None, None, options.header, (), None)
    masked = any(REDACTED in value for _, value in request.headers) or REDACTED in request.target
    return replace(one, request=request, masked=masked)


def _essence(record: ExchangeRecord, options: argparse.Namespace) -> Any:
    found: list[Any] = [decision(record)]
    if options.messages:
        found += [
            None if one is None else (one.headers, one.body, one.body_bytes) for one in (record.sent, record.answer)
        ]
    return found


def _print(differences: Sequence[Difference], count: int, options: argparse.Namespace) -> None:
    for one in differences:
        document = one.as_document()
        print(f"{document['request']}  route {document['route']}")
        for sign, side in (("-", "old"), ("+", "new")):
            print(f"  {sign} {_in_words(document[side])}")
        if options.messages:
            for line in _message_lines(one):
                print(f"    {line}")
    print(f"{len(differences)} of {count} requests are decided otherwise")


def _in_words(found: dict[str, Any]) -> str:
    status = "" if found["status"] is None else f" {found['status']}"
    by = f" by {found['policy']}" if found["policy"] else ""
    reason = f" ({found['reason']})" if found["reason"] else ""
    return f"{found['verdict']}{status}{by}{reason}"


def _message_lines(one: Difference) -> Iterator[str]:
    for what in ("sent", "answer"):
        before, after = getattr(one.old, what), getattr(one.new, what)
        old = set() if before is None else set(before.headers)
        new = set() if after is None else set(after.headers)
        name = "to the upstream" if what == "sent" else "to the client"
        yield from (f"- {name}: {key}: {value}" for key, value in sorted(old - new))
        yield from (f"+ {name}: {key}: {value}" for key, value in sorted(new - old))
        if before is not None and after is not None and before.body != after.body:
            yield f"~ {name}: body, {before.body_bytes or 0} → {after.body_bytes or 0} bytes"
