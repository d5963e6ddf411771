"""Web origins (RFC 6454) in parameters, as browsers write them: they are compared as text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from policy_engine.sdk import authority_of

LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
"""A label of a name in an origin, as a regular expression."""

_ORIGIN = re.compile(
    rf"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<any>\*\.)?(?P<host>{LABEL}(?:\.{LABEL})*|\[[0-9a-f:.]+\])(?P<port>:[0-9]{{1,5}})?"
)


@dataclass(frozen=True, slots=True)
class Origin:
    """An origin; `authority` has no port that is the scheme's own, because browsers leave it out.

    `subdomains` means any subdomain of the host, not the host itself.
    """

    scheme: str
    authority: str
    subdomains: bool = False

    def __str__(self) -> str:
        return f"{self.scheme}://{'*.' if self.subdomains else ''}{self.authority}"


def parse_origin(text: str) -> Origin:
    """Return the origin of a parameter such as `https://app.example.com` or `https://*.example.com:8443`.

    Raises ValueError, with the form in which it should be written.
    """
    found = _ORIGIN.fullmatch(text)
    if found is None or (found["any"] and found["host"].startswith("[")):
        raise ValueError(
            f"{text!r} is no origin; write it as browsers do: https://app.example.com, lower case, no path"
        )
    authority = authority_of(f"{found['host']}{found['port'] or ''}", found["scheme"])
    return Origin(found["scheme"], authority, subdomains=found["any"] is not None)
