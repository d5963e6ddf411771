"""What a client's certificate says, as Envoy tells it: by attributes of the connection, or in the header XFCC."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policy_engine.sdk import Request, list_members

_PAIR = re.compile(r'[ \t]*+([A-Za-z]++)=("(?:[^"\\]++|\\.)*+"[ \t]*+|[^;"]*+)(?:;|\Z)', re.DOTALL)
"""Possessive, so that nothing is ever looked at twice: what clients send may stand in it."""
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_MOST_PAIRS = 100


class NoCertificate(Exception):
    """There is no certificate that could be looked at; `reason` says why, without anything of the request."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is known of a certificate; `sha256` in lower-case hexadecimal, texts empty where there is none."""

    subject: str = ""
    sha256: str = ""
    uris: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return it as metadata."""
        return {
            "subject": self.subject,
            "sha256": self.sha256,
            "uris": list(self.uris),
            "dns_names": list(self.dns_names),
        }


def of_connection(request: Request) -> Certificate:
    """Return the certificate that was shown to this Envoy; raises NoCertificate.

    Envoy tells the first URI and the first DNS name of a certificate (Envoy's page "Attributes").
    """
    attributes = request.attributes
    if attributes.get("connection.mtls") is not True:
        raise NoCertificate("mtls_no_certificate")
    return Certificate(
        subject=_attribute(attributes, "connection.subject_peer_certificate"),
        sha256=_attribute(attributes, "connection.sha256_peer_certificate_digest").lower(),
        uris=_present(_attribute(attributes, "connection.uri_san_peer_certificate")),
        dns_names=_present(_attribute(attributes, "connection.dns_san_peer_certificate").lower()),
    )


def of_header(request: Request, hops: int) -> Certificate:
    """Return the certificate that the element of XFCC tells which is `hops`th from the right; raises NoCertificate."""
    elements = list_members(request.headers.get_all("x-forwarded-client-cert"))
    if len(elements) < hops:
        raise NoCertificate("mtls_no_certificate")
    found: dict[str, list[str]] = {}
    element, position, count = elements[-hops], 0, 0
    while position < len(element):
        pair = _PAIR.match(element, position)
        count += 1
        if pair is None or count > _MOST_PAIRS:
            raise NoCertificate("mtls_xfcc_malformed")
        text = pair[2].strip(" \t")
        if text.startswith('"'):
            text = _ESCAPED.sub(r"\1", text[1:-1]).strip(" \t")
        found.setdefault(pair[1].lower(), []).append(text)
        position = pair.end()
    if any(len(found.get(name, ())) > 1 for name in ("hash", "subject")):
        raise NoCertificate("mtls_xfcc_malformed")
    certificate = Certificate(
        subject=found.get("subject", [""])[0],
        sha256=found.get("hash", [""])[0].lower(),
        uris=tuple(one for one in found.get("uri", ()) if one),
        dns_names=tuple(one.lower() for one in found.get("dns", ()) if one),
    )
    if certificate == Certificate():
        raise NoCertificate("mtls_no_certificate")
    return certificate


def _attribute(attributes: Mapping[str, Any], name: str) -> str:
    return str(attributes.get(name, ""))


def _present(text: str) -> tuple[str, ...]:
    return (text,) if text else ()
