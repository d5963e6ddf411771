"""What a request asks of a cache: whether it may be looked up or stored, under which key, and how fresh (RFC 9111)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from policy_engine.sdk import (
    Headers,
    ParameterError,
    Parameters,
    Request,
    authority_of,
    digest_key,
    header_name,
    list_members,
)

from .directives import Directives, parse
from .entries import Entry
from .stores import Vary

_BYPASS = (
    "forwarded",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-url",
    "x-rewrite-url",
)
# A part of a response (RFC 9110, 14), a precondition that only the origin can decide (13.1.1, 13.1.4), another
# protocol (7.8), and a GET whose body the upstream may use although no key has it.
_NEVER = ("range", "if-range", "if-match", "if-unmodified-since", "upgrade", "transfer-encoding")
_AUTHENTICATED_BY = ("api_key", "basic_auth", "ext_auth", "introspection", "jwt", "mtls")
_NOTHING = Directives({})
_NO_CACHE = Directives({"no-cache": [None]})


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that may be looked up: its key, what it says about freshness, whether somebody is known.

    The response to one that spells its host with a final dot or a port of its own may tell so, and is not `storable`:
    those who spell it otherwise would get links to it.
    """

    key: str
    directives: Directives
    authenticated: bool
    storable: bool


class Requests:
    """The rules for requests, from the parameters; raises ParameterError."""

    def __init__(self, parameters: Parameters) -> None:
        self._key_headers = header_names(parameters.get("key_headers", []), "/key_headers")
        bypass = header_names(parameters.get("bypass_headers", list(_BYPASS)), "/bypass_headers")
        cookies = () if parameters.get("requests_with_cookies", "bypass") == "ignore" else ("cookie",)
        self._bypass = tuple(name for name in (*bypass, *_NEVER, *cookies) if name not in self._key_headers)
        self._zone = parameters.get("zone")
        self._authenticated_by = tuple(parameters.get("authenticated_by", list(_AUTHENTICATED_BY)))
        self._honor = parameters.get("request_directives", "honor") == "honor"

    def key(self, request: Request) -> str:
        """Return the key of scheme, authority and target, which is the same for all methods."""
        zone = request.route if self._zone is None else self._zone
        scheme = request.scheme.lower()
        return digest_key(zone, scheme, authority_of(request.authority, scheme), request.target)

    def asked(self, request: Request) -> Asked | None:
        """Return what a GET or HEAD asks for; None when the cache has to leave it alone."""
        headers = request.headers
        if not request.authority or any(name in headers for name in self._bypass):
            return None
        if any(one != "0" for one in list_members(headers.get_all("content-length"))):
            return None
        directives = self._directives(headers)
        if directives is None or "no-store" in directives:
            return None
        plain = request.authority.lower() == authority_of(request.authority, request.scheme)
        return Asked(self.key(request), directives, "authorization" in headers or self.known(request), plain)

    def known(self, request: Request) -> bool:
        """Return whether a policy has authenticated somebody, perhaps by a header that it then took away."""
        return any(name in request.metadata for name in self._authenticated_by)

    def variant(self, request: Request, vary: Vary) -> str:
        """Return the id of the variant for this request."""
        names = self._varying(vary)
        return _variant({name: header_digest(request.headers, name) for name in names}, names)

    def variant_of(self, seen: Mapping[str, str], vary: Vary) -> str:
        """Return the id of the variant for a request whose headers had these digests."""
        return _variant(seen, self._varying(vary))

    def _varying(self, vary: Vary) -> tuple[str, ...]:
        return tuple(sorted({*vary, *self._key_headers}))

    def _directives(self, headers: Headers) -> Directives | None:
        if not self._honor:
            return _NOTHING
        values = headers.get_all("cache-control")
        if values:
            return parse(values)
        pragma = (member.lower() for member in list_members(headers.get_all("pragma")))
        return _NO_CACHE if "no-cache" in pragma else _NOTHING


def usable(entry: Entry, directives: Directives, now: float) -> bool:
    """Return whether a stored response is fresh, and fresh enough for the request (RFC 9111, 4.2 and 5.2.1)."""
    age = entry.age_at(now)
    if age >= entry.lifetime or "no-cache" in directives:
        return False
    oldest, fresh = directives.seconds("max-age"), directives.seconds("min-fresh") or 0
    return (oldest is None or age <= oldest) and entry.lifetime - age >= fresh


def digests(headers: Headers) -> dict[str, str]:
    """Return the digests of all headers: which of them a response varies by is known later, and values are secrets."""
    return {name: header_digest(headers, name) for name in headers}


def header_digest(headers: Headers, name: str) -> str:
    """Return a digest of all values of a header; empty without one."""
    values = headers.get_all(name)
    return digest_key(*values) if values else ""


def header_names(names: Iterable[str], path: str) -> tuple[str, ...]:
    """Return the names in lower case; raises ParameterError."""
    checked = []
    for index, name in enumerate(names):
        try:
            checked.append(header_name(name))
        except ValueError as error:
            raise ParameterError(str(error), f"{path}/{index}") from None
    return tuple(checked)


def _variant(seen: Mapping[str, str], names: tuple[str, ...]) -> str:
    return digest_key(*(part for name in names for part in (name, seen.get(name, ""))))
