"""Finds the route key in what Envoy sends with the first message (R-07), and the client's address beside it.

Envoy evaluates `request_attributes` of the filter and sends the results in one Struct under the filter's name. A name
there may be any attribute expression, so a key in the route's filter metadata is one more attribute.
"""

from __future__ import annotations

from typing import Any

ATTRIBUTES = "envoy.filters.http.ext_proc"
"""Key under which Envoy 1.36 sends attributes in `ProcessingRequest.attributes`."""

ROUTE_NAME = "xds.route_name"
SOURCE_ADDRESS = "source.address"


def metadata_attribute(namespace: str, key: str) -> str:
    """Return the attribute expression for `key` in the route's filter metadata of `namespace`.

    Raises ValueError for a quote or backslash, which could not be written into the expression safely.
    """
    for text in (namespace, key):
        if not text or any(character in text for character in "'\\\n"):
            raise ValueError(f"{text!r} cannot name filter metadata: it must be non-empty, without quote or backslash")
    return f"xds.route_metadata.filter_metadata['{namespace}']['{key}']"


def attribute(message: Any, name: str) -> str:
    """Return the attribute `name` of a `ProcessingRequest`, or an empty string when it was not sent."""
    # Looking up an absent entry puts an empty one into the map: into a message that nobody else reads.
    return str(message.attributes[ATTRIBUTES].fields[name].string_value)


def has_no_route(message: Any, name: str) -> bool:
    """Return whether Envoy says that the request has no route: `xds.route_name` was evaluated, and there was none.

    An unnamed route has an empty name. Where attributes are not asked for at all, nothing is said. To be asked after
    `attribute`, which leaves a value of no kind for what was not sent.
    """
    fields = message.attributes[ATTRIBUTES].fields
    return name == ROUTE_NAME and fields[name].WhichOneof("kind") is None and SOURCE_ADDRESS in fields


def client_address(message: Any) -> str:
    """Return the address of Envoy's downstream peer without the port; empty when `source.address` was not sent."""
    host, _, _ = attribute(message, SOURCE_ADDRESS).rpartition(":")
    return host[1:-1] if host.startswith("[") else host
