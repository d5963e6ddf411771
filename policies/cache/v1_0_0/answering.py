"""From a stored response to the answer: whole, or 304 for a client that has it (RFC 9110, 13)."""

from __future__ import annotations

import re

from policy_engine.sdk import ImmediateResponse, Request

from .entries import Entry, grouped
from .freshness import date_of, http_date

_TAG = re.compile(r'[ \t,]*(?:W/)?("[\x21\x23-\x7e\x80-\U0010ffff]*")[ \t]*(?:,|$)')
_LONGEST = 8192
_WITH_304 = frozenset(("cache-control", "content-location", "date", "etag", "expires", "last-modified", "vary"))


def answer(request: Request, entry: Entry, now: float, status_header: str | None) -> ImmediateResponse:
    """Return the answer. For HEAD it has the body too: Envoy takes the length from it and sends only the headers."""
    own = {"age": str(int(entry.age_at(now)))}
    if status_header is not None:
        own[status_header] = "hit"
    first, more = grouped(entry)
    if entry.status == 200 and client_has(request, entry):
        kept = {name: value for name, value in first.items() if name in _WITH_304}
        further = [(name, value) for name, value in more if name in _WITH_304]
        return ImmediateResponse(304, b"", {**kept, **own}, further, details="cache_hit_not_modified")
    return ImmediateResponse(entry.status, entry.body, {**first, **own}, more, details="cache_hit")


def client_has(request: Request, entry: Entry) -> bool:
    """Return whether the conditions of the request say that the client's copy is as good."""
    wanted = request.headers.get_all("if-none-match")
    if wanted:
        return matches(",".join(wanted), entry.header("etag"))
    since, changed = date_of(request.headers, "if-modified-since"), http_date(entry.header("last-modified"))
    return since is not None and changed is not None and changed <= since


def matches(condition: str, etag: str | None) -> bool:
    """Compare If-None-Match with an entity tag, weakly (RFC 9110, 13.1.2)."""
    if condition.strip(" \t") == "*":
        return True
    if etag is None or len(condition) > _LONGEST:
        return False
    plain, position = etag.removeprefix("W/"), 0
    while (one := _TAG.match(condition, position)) is not None and position < len(condition):
        if one[1] == plain:
            return True
        position = one.end()
    return False
