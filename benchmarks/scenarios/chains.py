"""The chains that are measured, and the parts of Envoy's messages that each of them needs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import Enum
from typing import Any

from benchmarks.run.load import ORDINARY_HEADERS
from integration.harness.chain_file import Document, policy

Chain = Sequence[Document]


class Phases(Enum):
    """What Envoy sends to the server: what the chain needs, as `policy-engine envoy-config` writes it."""

    REQUEST = "request headers"
    BOTH = "request and response headers"
    BODY = "request headers and body"

    def processing_mode(self) -> dict[str, str]:
        """Return the filter's `processing_mode`."""
        return {
            "request_header_mode": "SEND",
            "response_header_mode": "SEND" if self is Phases.BOTH else "SKIP",
            "request_body_mode": "BUFFERED" if self is Phases.BODY else "NONE",
        }


CONDITION = 'request.path.startsWith("/api") && request.method == "GET"'
"""True for the request that is sent."""
NEVER = 'request.path.startsWith("/internal") && request.method == "GET"'


def set_header(name: str = "x-gateway", **keys: Any) -> Document:
    """Return `set-header` on the request: what the peers do."""
    return policy("set-header", "v1.0.0", {"request": {"set": {name: "edge-1"}}}, **keys)


def set_both() -> Document:
    """Return `set-header` on request and response."""
    change = {"set": {"x-gateway": "edge-1"}}
    return policy("set-header", "v1.0.0", {"request": change, "response": change})


def read_body() -> Document:
    """Return the policy that reads the request body."""
    return policy("read-body", "v1.0.0")


def api_key() -> Document:
    """Return `api-key-validation` that knows the key of every request, and two others."""
    known = ORDINARY_HEADERS["x-api-key"]
    keys = [
        {"client": f"client-{number}", "sha256": hashlib.sha256(key.encode()).hexdigest()}
        for number, key in enumerate(("other-key-1", "other-key-2", known))
    ]
    return policy("api-key-validation", "v1.0.0", {"keys": keys, "client_header": "x-client"})


def five() -> Chain:
    """Return the five policies of the figures: header, API key, CEL condition, security headers, request id."""
    return [
        set_header(),
        api_key(),
        set_header("x-tier", condition=CONDITION),
        policy("security-headers", "v1.0.0"),
        policy("request-id", "v1.0.0"),
    ]


def ten() -> Chain:
    """Return ten policies: the five twice, the key left in for the second time."""
    first, second = list(five()), list(five())
    first[1] = {**first[1], "parameters": {**first[1]["parameters"], "forward_key": True}}
    return [*first, *second]


def jwt(key_set: Document, *, cached: int = 0) -> Document:
    """Return `jwt-validation` with keys from the configuration, and room for `cached` verified tokens."""
    parameters = {
        "issuer": "https://issuer.test",
        "audiences": ["orders"],
        "algorithms": ["RS256"],
        "jwk_set": key_set,
        "cache_verified_tokens": cached,
    }
    return policy("jwt-validation", "v2.0.0", parameters)
