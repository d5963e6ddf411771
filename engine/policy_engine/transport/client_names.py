"""Which certificates of the client CA are those of a client: by the names they bear (RFC 5280, 4.2.1.6).

A separate module because both transports ask it. A CA often signs for more than the one client that may ask here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_DNS = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9])?", re.ASCII)
_URI = re.compile(r"[a-z][a-z0-9+.-]*://[^\s*]+(/\*)?", re.ASCII)


class ClientNames:
    """Names of which a certificate has to bear one: DNS names, and URIs such as those of SPIFFE.

    `*.example.com` stands for one label (RFC 6125, 6.4.3), `spiffe://cluster.local/ns/gateways/*` for all below it.
    Raises ValueError for what is neither.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._exact: set[tuple[str, str]] = set()
        self._domains: set[str] = set()
        self._below: list[str] = []
        for name in names:
            if "://" in name:
                if not _URI.fullmatch(name):
                    raise ValueError(f"{name!r} is not a URI such as spiffe://cluster.local/ns/gateways/sa/envoy")
                if name.endswith("/*"):
                    self._below.append(name[:-1])
                else:
                    self._exact.add(("URI", name))
            elif not _DNS.fullmatch(name.lower()):
                raise ValueError(f"{name!r} is neither a DNS name nor a URI")
            elif name.startswith("*."):
                self._domains.add(name[1:].lower())
            else:
                self._exact.add(("DNS", name.lower()))

    def allow(self, certificate: Mapping[str, Any] | None) -> bool:
        """Return whether a certificate, in the form of `ssl.SSLObject.getpeercert`, bears one of the names."""
        named = (certificate or {}).get("subjectAltName", ())
        return any(self._allows(kind, value) for kind, value in named)

    def _allows(self, kind: str, value: str) -> bool:
        if kind == "DNS":
            value = value.lower()
            return ("DNS", value) in self._exact or value[value.find(".") :] in self._domains
        if kind != "URI":
            return False
        return (kind, value) in self._exact or any(value.startswith(one) and value != one for one in self._below)
