"""Cross-site request forgery told by what browsers say of a request themselves; no tokens, no state.

The rules are those of Go's `http.CrossOriginProtection` and of OWASP's "Fetch Metadata" and "Verifying Origin".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from policy_engine.sdk import (
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    UnreadableHeader,
    authority_of,
    single,
)
from policy_origins import parse_origin

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN = frozenset({"same-origin", "none"})  # "none": the user's own doing, such as a bookmark
_ORIGIN = re.compile(r"(https?)://([^/?#@\\\s]+)", re.ASCII)


class Csrf(Policy):
    """Lets through what the user's own pages or no page at all sent, refuses (403) the rest."""

    def __init__(self, parameters: Parameters) -> None:
        self._trusted = _trusted(parameters.get("trusted_origins", []))
        self._refused = ImmediateResponse(403, details="csrf_cross_origin")
        self._unreadable = ImmediateResponse(403, details="csrf_headers_ambiguous")
        missing = ImmediateResponse(403, details="csrf_no_origin")
        self._missing = missing if parameters.get("without_origin", "allow") == "deny" else None

    def on_request_headers(self, request: Request) -> ImmediateResponse | None:
        """Look at who sent it."""
        # A WebSocket begins with a GET, and browsers let pages of any origin open one.
        if request.method in _SAFE and "upgrade" not in request.headers:
            return None
        try:
            site = single(request.headers, "sec-fetch-site")
            origin = single(request.headers, "origin")
        except UnreadableHeader:
            return self._unreadable
        if site in _OWN or origin in self._trusted:
            return None
        if site is None:
            if origin is None:
                return self._missing
            if _is_own(origin, request.authority):
                return None
        return self._refused


def _is_own(origin: str, authority: str) -> bool:
    found = _ORIGIN.fullmatch(origin)
    return found is not None and authority_of(found[2], found[1]) == authority_of(authority, found[1])


def _trusted(origins: Sequence[str]) -> frozenset[str]:
    trusted = set[str]()
    for index, text in enumerate(origins):
        where = f"/trusted_origins/{index}"
        if text == "null":
            reason = "null is the origin of sandboxed frames and files of anybody; it cannot be trusted"
            raise ParameterError(reason, where)
        try:
            origin = parse_origin(text)
        except ValueError as error:
            raise ParameterError(str(error), where) from None
        if origin.subdomains:
            raise ParameterError(f"{text!r} means many origins; name each of them", where)
        trusted.add(str(origin))
    return frozenset(trusted)
