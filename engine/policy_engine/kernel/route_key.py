"""Finds the route key in what Envoy sends with the first message (R-07), and the client's address beside it.

Envoy evaluates `request_attributes` of the filter and sends the results in one Struct under the filter's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ATTRIBUTES = "envoy.filters.http.ext_proc"
"""Key under which Envoy 1.36 sends attributes in `ProcessingRequest.attributes`."""

ROUTE_NAME = "xds.route_name"
SOURCE_ADDRESS = "source.address"


@dataclass(frozen=True, slots=True)
class RouteKeySource:
    """Where the route key comes from: an attribute, or `key` of the filter metadata in `namespace`."""

    attribute: str = ROUTE_NAME
    metadata_namespace: str = ""
    metadata_key: str = ""

    def key_of(self, message: Any) -> str:
        """Return the route key of a `ProcessingRequest`, or an empty string when Envoy sent none."""
        if self.metadata_namespace:
            metadata = message.metadata_context.filter_metadata
            if self.metadata_namespace not in metadata:
                return ""
            return _text(metadata[self.metadata_namespace].fields, self.metadata_key)
        return attribute(message, self.attribute)

    def __str__(self) -> str:
        if self.metadata_namespace:
            return f"filter metadata {self.metadata_namespace}:{self.metadata_key}"
        return f"attribute {self.attribute}"


def attribute(message: Any, name: str) -> str:
    """Return the attribute `name` of a `ProcessingRequest`, or an empty string when it was not sent."""
    attributes = message.attributes
    if ATTRIBUTES not in attributes:
        return ""
    return _text(attributes[ATTRIBUTES].fields, name)


def _text(fields: Any, name: str) -> str:
    # A protobuf map inserts on a plain look-up of an absent message value; ask first.
    return str(fields[name].string_value) if name in fields else ""
