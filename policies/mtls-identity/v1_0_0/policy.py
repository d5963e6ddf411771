"""Who a client is by its certificate, which Envoy, or a proxy in front of it, has checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from policy_engine.sdk import ImmediateResponse, ParameterError, Parameters, Policy, Request

from .certificates import Certificate, NoCertificate, of_connection, of_header

_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BELOW = "/*"


class MtlsIdentity(Policy):
    """403 without a certificate, or with one of somebody else; else what it says is in `metadata["mtls"]`."""

    def __init__(self, parameters: Parameters) -> None:
        self._in_header = parameters.get("source", "connection") == "xfcc"
        if "trusted_hops" in parameters and parameters["trusted_hops"] != 1 and not self._in_header:
            raise ParameterError("means something only with source: xfcc", "/trusted_hops")
        self._hops = parameters.get("trusted_hops", 1)
        self._allowed = _Allowed(parameters["allow"]) if "allow" in parameters else None
        self._other = ImmediateResponse(403, details="mtls_not_allowed")

    def on_request_headers(self, request: Request) -> ImmediateResponse | None:
        """Look at the certificate."""
        try:
            certificate = of_header(request, self._hops) if self._in_header else of_connection(request)
        except NoCertificate as error:
            return ImmediateResponse(403, details=error.reason)
        if self._allowed is not None and certificate not in self._allowed:
            return self._other
        request.metadata["mtls"] = certificate.facts()
        return None


class _Allowed:
    """The certificates that get in."""

    def __init__(self, allow: Mapping[str, Sequence[str]]) -> None:
        uris = allow.get("uris", ())
        for index, uri in enumerate(uris):
            if "*" in uri.removesuffix(_BELOW) or "//" not in uri.removesuffix(_BELOW):
                reason = f"{uri!r} is no URI; a * may stand at the end alone, after a slash"
                raise ParameterError(reason, f"/allow/uris/{index}")
        self._uris = frozenset(uri for uri in uris if not uri.endswith(_BELOW))
        self._below = tuple(uri.removesuffix("*") for uri in uris if uri.endswith(_BELOW))
        self._dns_names = frozenset(name.lower() for name in allow.get("dns_names", ()))
        self._subjects = frozenset(allow.get("subjects", ()))
        hashes = [text.lower().replace(":", "") for text in allow.get("sha256", ())]
        for index, text in enumerate(hashes):
            if _HASH.fullmatch(text) is None:
                raise ParameterError("is no SHA-256 fingerprint in hexadecimal", f"/allow/sha256/{index}")
        self._hashes = frozenset(hashes)

    def __contains__(self, certificate: Certificate) -> bool:
        return (
            certificate.sha256 in self._hashes
            or certificate.subject in self._subjects
            or not self._dns_names.isdisjoint(certificate.dns_names)
            or any(uri in self._uris or self._is_below(uri) for uri in certificate.uris)
        )

    def _is_below(self, uri: str) -> bool:
        # A path with dots, or encoded, could mean another one to whoever resolves it; no SPIFFE ID has such.
        odd = "%" in uri or "/../" in f"{uri}/" or "/./" in f"{uri}/"
        return uri.startswith(self._below) and not odd
