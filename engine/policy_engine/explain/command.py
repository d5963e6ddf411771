"""What `policy-engine explain` does with its options: one request through the real chain, shown step by step."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from policy_engine.documents.fields import did_you_mean
from policy_engine.documents.plain_file import read_plain_file
from policy_engine.envoy.lint.route_match import MatchedRoute, NoRoute, find_route
from policy_engine.explain.envoy_facts import read_attributes, read_metadata
from policy_engine.explain.http_text import (
    MOST_BYTES,
    BadText,
    HttpRequest,
    HttpResponse,
    from_flags,
    read_request,
    read_response,
)
from policy_engine.explain.offline import load, of_routes, quiet, serving
from policy_engine.explain.playing import Upstream, UpstreamFailed, answering, asking, play
from policy_engine.explain.record import ExchangeRecord, Verdict
from policy_engine.explain.text import render
from policy_engine.kernel.kernel import Kernel
from policy_engine.kernel.reply import ProcessingMode
from policy_engine.sdk import Headers, Request
from policy_engine.settings.loading import Settings
from policy_engine.settings.route_key import route_key_of
from policy_engine.worker.chains.route_patterns import RoutePatterns, is_pattern
from policy_engine.worker.chains.spec import ChainsSpec
from policy_engine.worker.policies.registry import Registry

USAGE = 64
"""Exit status for options and files that cannot be used (EX_USAGE of sysexits.h)."""

STATUSES = {Verdict.PASSED: 0, Verdict.ANSWERED: 0, Verdict.DENIED: 1, Verdict.FAILED: 2}

_SHOWN_KEYS = 10
_UNMAPPED = "policy_engine:unmapped_route"
_MODE_FIELDS = {one.name: one.enum_type for one in ProcessingMode.DESCRIPTOR.fields}


class Unusable(ValueError):
    """The options cannot be used; the message says which, and what to do."""


@dataclass(frozen=True, slots=True)
class _Place:
    """The route of the request, and what Envoy's own configuration has for it, when that was given."""

    key: str
    mode: Any = None
    overrides: bool = True
    notes: tuple[str, ...] = ()


def explain(settings: Settings, registry: Registry, options: argparse.Namespace) -> int:
    """Print what becomes of the request; returns the exit status. Raises ValueError for options that cannot be used."""
    request = _request(options)
    chains = load(settings, registry)
    place = _place(settings, chains, request, options)
    upstream, assumed = _upstream(options)
    try:
        served = serving(settings, registry, of_routes(chains, (place.key,)))
        with quiet():
            record = asyncio.run(_played(served, replace(request, route=place.key), place, upstream))
    except UpstreamFailed as error:
        raise Unusable(f"the upstream could not be asked: {error}") from None
    if record.reason == _UNMAPPED:
        record.notes.insert(0, _unknown(place.key, [route.route_key for route in chains.routes]))
    record.notes[:0] = [*place.notes, *([assumed] if assumed and record.response is not None else [])]
    document = record.as_document()
    print(json.dumps(document, indent=2) if options.json else render(document), end="\n" if options.json else "")
    return STATUSES[record.verdict]


async def _played(
    serving: AbstractAsyncContextManager[Kernel], request: HttpRequest, place: _Place, upstream: Upstream
) -> ExchangeRecord:
    async with serving as kernel:
        return await play(kernel, request, upstream, mode=place.mode, overrides=place.overrides)


def _request(options: argparse.Namespace) -> HttpRequest:
    where, start, url = options.request, HttpRequest(), None
    if where is None or "://" in where or (where.startswith("/") and not Path(where).is_file()):
        url = where
    elif where == "-":
        start = read_request(sys.stdin.buffer.read(MOST_BYTES), "standard input")
    else:
        start = read_request(_content(Path(where)), where, Path(where).parent)
    request = from_flags(start, url, options.method, options.header, options.data, options.user)
    return replace(
        request,
        client_address=options.client_address,
        attributes=read_attributes(options.attribute),
        envoy_metadata=read_metadata(options.metadata),
    )


def _content(path: Path) -> bytes:
    try:
        return read_plain_file(path, MOST_BYTES)
    except OSError as error:
        raise BadText(f"{path}: cannot be read: {error.strerror or error}") from None


def _upstream(options: argparse.Namespace) -> tuple[Upstream, str]:
    """Return what answers, and what to say when that is an assumption."""
    if options.upstream is not None:
        return asking(options.upstream), ""
    if options.response is not None:
        return answering(read_response(_content(options.response), str(options.response))), ""
    return answering(HttpResponse()), "no response was given: a 200 without a body is assumed"


def _place(settings: Settings, chains: ChainsSpec, request: HttpRequest, options: argparse.Namespace) -> _Place:
    keys = [route.route_key for route in chains.routes]
    if options.envoy is not None:
        found = find_route(options.envoy, _as_seen(request), route_key_of(settings.route_key))
        return _of_envoy(found, options)
    if options.route is not None:
        # A key that no chain has is what the request may be about.
        return _Place(options.route)
    if len(keys) == 1:
        return _Place(keys[0])
    listed = ", ".join(keys[:_SHOWN_KEYS]) + (", …" if len(keys) > _SHOWN_KEYS else "")
    raise Unusable(f"which route? give --route KEY, one of: {listed or '(the chain file has none)'}; or --envoy FILE")


def _unknown(key: str, keys: list[str]) -> str:
    pattern = RoutePatterns(one for one in keys if is_pattern(one)).find(key)
    if key in keys or pattern is not None:
        return f"the route {key if key in keys else pattern!r} is written as unmapped: {key!r} has no chain"
    return f"no chain is written for the route key {key!r}{did_you_mean(key, keys)}"


def _of_envoy(found: MatchedRoute, options: argparse.Namespace) -> _Place:
    if found.off:
        raise Unusable(f"{found.place}: the filter is off on this route: no policy runs, the request passes")
    if options.route is not None and options.route != found.key:
        raise Unusable(
            f"--route {options.route!r}: {found.place} is the route of this request, its key is {found.key!r}"
        )
    mode = ProcessingMode()
    for name, word in found.modes.items():
        kind = _MODE_FIELDS.get(name)
        if kind is not None and word in kind.values_by_name:
            # What is streamed is shown as if in full duplex: one piece for each that came.
            streamed = word == "STREAMED"
            setattr(mode, name, kind.values_by_name["FULL_DUPLEX_STREAMED" if streamed else word].number)
    return _Place(found.key, mode, found.overrides, (f"the route is {found.place}", *found.notes))


def _as_seen(request: HttpRequest) -> Request:
    pseudo = {":method": request.method, ":path": request.target, ":authority": request.authority}
    return Request(Headers.of({**pseudo, ":scheme": request.scheme, **_joined(request.headers)}))


def _joined(headers: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name, []).append(value)
    return found


__all__ = ["STATUSES", "USAGE", "NoRoute", "Unusable", "explain"]
