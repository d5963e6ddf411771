"""Which header names and values a policy may send; a separate module because most policies never need it."""

from __future__ import annotations

import re
from typing import TypeVar

from policy_engine.sdk.headers import HeaderValue, encode_value

_Value = TypeVar("_Value", bound=HeaderValue)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""What no header value may hold (RFC 9110, 5.5); Envoy fails the whole request for it."""
_FRAMING = frozenset(
    ("host", "content-length", "connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade")
)


def header_name(name: str) -> str:
    """Return `name` in lower case when a policy may set it; raises ValueError that says why it may not.

    The name must be a token (RFC 9110, 5.1). Pseudo-headers and `host` are changed by the mutation's own fields, and
    what frames the message (RFC 9110, 7.6.1; RFC 9113, 8.2.2) is kept right by Envoy and the engine.
    """
    lower = name.lower()
    if lower.startswith(":"):
        raise ValueError(f"{name!r} is a pseudo-header; use the method, path, authority or status of the mutation")
    if _TOKEN.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not a header name (RFC 9110, 5.1: letters, digits and !#$%&'*+-.^_`|~)")
    if lower in _FRAMING:
        raise ValueError(f"{name!r} frames the message and may not be changed by a policy")
    return lower


def header_value(value: _Value) -> _Value:
    """Return `value` when it may be sent (RFC 9110, 5.5); raises ValueError for control characters and outer spaces.

    The text of the error does not hold the value, which may be a secret.
    """
    raw = encode_value(value)
    if CONTROL.search(raw):
        raise ValueError("a header value must not hold control characters such as CR, LF or NUL (RFC 9110, 5.5)")
    if raw != raw.strip(b" \t"):
        raise ValueError("a header value must not begin or end with a space or tab (RFC 9110, 5.5)")
    return value
