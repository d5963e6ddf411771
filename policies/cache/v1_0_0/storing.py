"""Which responses a shared cache may store, and what of them (RFC 9111, 3); in doubt a response is not stored."""

from __future__ import annotations

import re

from policy_engine.sdk import Headers, Parameters, Response, header_name, header_value, list_members

from .asking import header_names
from .directives import Directives, parse
from .entries import Entry
from .freshness import initial_age, lifetime
from .stores import Vary

_MOST_NAMES = 16
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_STATUSES = (200, 203, 300, 301, 308, 404, 410)
# Of one connection (RFC 9110, 7.6.1; RFC 9111, 3.1), said anew with each hit, or untrue of the body without its coding.
_NOT_STORED = frozenset(
    (
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "host"),
        *("proxy-authenticate", "proxy-authentication-info", "proxy-authorization"),
        *("age", "content-length", "set-cookie"),
    )
)
_OF_THE_CODED_BODY = frozenset(
    ("content-encoding", "accept-ranges", "content-digest", "content-md5", "digest", "repr-digest")
)


class Responses:
    """The rules for responses, from the parameters; raises ParameterError."""

    def __init__(self, parameters: Parameters, *, default_ttl: float, max_ttl: float, dropped: tuple[str, ...]) -> None:
        self._statuses = frozenset(parameters.get("statuses", list(_STATUSES)))
        self._max_body = parameters.get("max_body_bytes", 1_048_576)
        self._default_ttl = default_ttl
        self._max_ttl = max_ttl
        named = header_names(parameters.get("drop_headers", ["x-request-id"]), "/drop_headers")
        self._dropped = _NOT_STORED.union(named, dropped)

    def entry(
        self, response: Response, *, authenticated: bool, requested: float, received: float
    ) -> tuple[Vary, Entry] | None:
        """Return what is to be stored, with the names of Vary; None when it may not be."""
        headers, body = response.headers, response.body or b""
        directives = parse(headers.get_all("cache-control"))
        vary = varies_by(headers)
        if directives is None or vary is None or not self._may_store(response, directives, authenticated=authenticated):
            return None
        pairs = self._pairs(headers)
        if pairs is None or (body and all(name != "content-type" for name, _ in pairs)):
            return None  # Envoy would call the body text/plain
        fresh = min(
            lifetime(response.status, headers, directives, received=received, default=self._default_ttl), self._max_ttl
        )
        age = initial_age(headers, requested=requested, received=received)
        if age >= fresh:
            return None
        return vary, Entry(response.status, pairs, body, received, age, fresh)

    def _may_store(self, response: Response, directives: Directives, *, authenticated: bool) -> bool:
        headers = response.headers
        if response.status not in self._statuses or len(response.body or b"") > self._max_body:
            return False
        if "set-cookie" in headers or "content-range" in headers:
            return False
        # `private` and `no-cache` with field names forbid less; here they forbid all.
        if any(name in directives for name in ("no-store", "private", "no-cache")):
            return False
        if "content-encoding" in headers and "no-transform" in directives:
            return False  # the engine takes the coding away
        # RFC 9111, 3.5
        return not authenticated or any(name in directives for name in ("public", "s-maxage", "must-revalidate"))

    def _pairs(self, headers: Headers) -> tuple[tuple[str, str], ...] | None:
        """Return the headers to be stored; None when one of them could not be sent again."""
        decoded = "content-encoding" in headers
        # Envoy takes Connection away, and not the headers of one connection that it lists (RFC 9110, 7.6.1).
        listed = (name.lower() for name in list_members(headers.get_all("connection")))
        dropped = self._dropped.union(listed, _OF_THE_CODED_BODY if decoded else ())
        pairs = []
        for name, value in headers.items():
            if name in dropped or name.startswith("x-envoy-"):
                continue
            try:
                header_name(name)
                header_value(value)
            except ValueError:
                return None
            weaker = decoded and name == "etag" and not value.startswith("W/")
            pairs.append((name, f"W/{value}" if weaker else value))
        return tuple(pairs)


def varies_by(headers: Headers) -> Vary | None:
    """Return the names in Vary, sorted; None when no request would match again, or only those of one person."""
    names = {name.strip().lower() for name in ",".join(headers.get_all("vary")).split(",")} - {""}
    if len(names) > _MOST_NAMES or names & {"*", "authorization", "cookie"}:
        return None
    return tuple(sorted(names)) if all(map(_NAME.fullmatch, names)) else None
