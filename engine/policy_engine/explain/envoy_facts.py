"""What Envoy would tell of a request, as people write it on the command line: attributes and dynamic metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from policy_engine.documents.fields import did_you_mean
from policy_engine.explain.http_text import BadText
from policy_engine.sdk.attributes import ATTRIBUTES, AttributeKind, AttributeValue, EnvoyMetadata, why_not

_BOOLS = {"true": True, "false": False}
_MOST_DIGITS = 19  # Envoy's integers have 64 bits


def read_attributes(texts: Sequence[str]) -> dict[str, AttributeValue]:
    """Return the attributes in texts `NAME=VALUE`, each with its type. Raises BadText."""
    found: dict[str, AttributeValue] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadText(f"--attribute: {text[:80]!r} is no NAME=VALUE, as in connection.mtls=true")
        if wrong := why_not(name):
            raise BadText(f"--attribute: {name[:80]!r} {wrong}{did_you_mean(name, list(ATTRIBUTES))}")
        found[name] = _typed(name, value)
    return found


def _typed(name: str, value: str) -> AttributeValue:
    match ATTRIBUTES[name]:
        case AttributeKind.STRING:
            return value
        case AttributeKind.BOOL if value in _BOOLS:
            return _BOOLS[value]
        case AttributeKind.INT if value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS:
            return int(value)
        case kind:
            expected = "true or false" if kind is AttributeKind.BOOL else "a whole number"
            raise BadText(f"--attribute: {name} is {value[:80]!r}, expected {expected}")


def read_metadata(texts: Sequence[str]) -> EnvoyMetadata:
    """Return the dynamic metadata in texts `NAMESPACE=JSON`, each an object. Raises BadText."""
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        namespace, equals, value = text.partition("=")
        try:
            document = json.loads(value) if equals and namespace else None
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise BadText(
                f"--metadata: {text[:80]!r} is no NAMESPACE=JSON with an object, "
                """as in 'envoy.filters.http.jwt_authn={"payload": {"sub": "me"}}'"""
            )
        found[namespace] = found.get(namespace, {}) | document
    return found
