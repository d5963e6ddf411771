"""Readers of header fields as Envoy sends them: repeated ones joined by commas, lists, media types, hosts.

One place that policies, conditions and the test kit share, because a safeguard that reads a field in another way than
the upstream does can be walked around: `content-type: text/plain,application/json` is no media type of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from types import MappingProxyType

from policy_engine.sdk.headers import Headers

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 # a grammar rule (RFC 9110, 5.6.2), no secret
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_LIST_MEMBER = re.compile(r'(?:[^",]++|"(?:[^"\\]++|\\.)*+"?+)++', re.DOTALL)
"""What lies between commas outside quoted strings; possessive, so that nothing is ever looked at twice."""
_MEDIA_TYPE = re.compile(rf"({_TOKEN})/({_TOKEN})")
_PARAMETER = re.compile(rf"[ \t]*;[ \t]*(?:({_TOKEN})=({_TOKEN}|{_QUOTED}))?", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_PORT = re.compile(r":[0-9]*\Z")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class UnreadableHeader(ValueError):
    """A header that may have one value has several that differ, or none that its grammar allows.

    `name` is the header's name; the text holds nothing of the values, which the client chose.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the header {name} {reason}")
        self.name = name


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type (RFC 9110, 8.3.1): `essence` is `type/subtype`; it and the names in `parameters` are lower case."""

    essence: str
    # By a factory: Python 3.11 takes no default that cannot be hashed.
    parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def charset(self) -> str:
        """The charset parameter in lower case, empty when there is none."""
        return self.parameters.get("charset", "").lower()


def list_members(values: Iterable[str]) -> list[str]:
    """Return the members of a list-valued header, whichever way its lines are joined (RFC 9110, 5.6.1).

    A comma within a quoted string is part of its member; empty members are dropped.
    """
    members: list[str] = []
    for value in values:
        if '"' not in value:
            members += value.split(",")
            continue
        members += _LIST_MEMBER.findall(value)
    return [text for member in members if (text := member.strip(" \t"))]


def single(headers: Headers, name: str) -> str | None:
    """Return the value of a header whose grammar has no comma outside quoted strings; None when it is absent or empty.

    Equal values count as one, however they are repeated; raises UnreadableHeader when they differ. Headers with dates,
    lists, or credentials are not for this function.
    """
    values = headers.get_all(name)
    if len(values) == 1 and "," not in values[0]:
        return values[0].strip(" \t") or None
    members = dict.fromkeys(list_members(values))
    if len(members) > 1:
        raise UnreadableHeader(name, "has several values that differ")
    return next(iter(members), None)


def media_type(headers: Headers) -> MediaType | None:
    """Return the content type, None when there is none; raises UnreadableHeader.

    Refused: several that differ, what is not a media type, a parameter that is given twice with different values.
    """
    text = single(headers, "content-type")
    if text is None:
        return None
    found = _MEDIA_TYPE.match(text)
    if found is None:
        raise UnreadableHeader("content-type", "is not a media type")
    parameters: dict[str, str] = {}
    position = found.end()
    while position < len(text) and (one := _PARAMETER.match(text, position)) is not None:
        position = one.end()
        if one[1] is None:
            continue
        value = one[2] if one[2][0] != '"' else _ESCAPED.sub(r"\1", one[2][1:-1])
        if parameters.setdefault(one[1].lower(), value) != value:
            raise UnreadableHeader("content-type", "has a parameter twice")
    if text[position:].strip(" \t"):
        raise UnreadableHeader("content-type", "is not a media type")
    return MediaType(found[0].lower(), parameters)


def credentials(headers: Headers, name: str, start: str) -> str | None:
    """Return what follows `start` (any case, such as `Bearer `) in a header of credentials (RFC 9110, 11.4).

    None when the header is absent or begins in another way. Raises UnreadableHeader for more than one, also when Envoy
    has made one line of them, and also when they are equal: two are meant for two readers.
    """
    values = headers.get_all(name)
    if not values:
        return None
    start = start.lower()
    if len(values) > 1 or "," in values[0]:
        # A comma may belong to the credentials of another scheme (Digest); these stand alone.
        if any(f"{member} "[: len(start)].lower() == start for member in list_members(values)):
            raise UnreadableHeader(name, "has more than one value")
        return None
    value = values[0]
    return value[len(start) :].strip(" ") if value[: len(start)].lower() == start else None


def content_codings(headers: Headers) -> list[str]:
    """Return the content codings in lower case, in the order they were applied, without `identity`."""
    members = (member.lower() for member in list_members(headers.get_all("content-encoding")))
    return [member for member in members if member != "identity"]


def host_of(authority: str) -> str:
    """Return the host of an authority, the same for all its spellings.

    Lower case, without port and the trailing dot of a name (RFC 1034, 3.1); an IPv6 address in brackets is written as
    RFC 5952 has it.
    """
    host = authority.lower()
    if host.startswith("["):
        address = host[1:].partition("]")[0]
        try:
            return f"[{IPv6Address(address)}]"
        except ValueError:
            return f"[{address}]"
    return host.partition(":")[0].removesuffix(".")


def authority_of(authority: str, scheme: str) -> str:
    """Return host and port in one spelling: `host_of`, and the port unless it is the scheme's own or empty."""
    port = _PORT.search(authority)
    number = "" if port is None else port[0][1:].lstrip("0")
    host = host_of(authority)
    return host if number in ("", _DEFAULT_PORTS.get(scheme.lower(), "")) else f"{host}:{number}"
