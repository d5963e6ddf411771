"""Reads a route's metadata out of the attribute `xds.route_metadata`, and the resource that Envoy Gateway notes in it.

A message is no value of CEL's basic kinds, so Envoy sends it as protobuf's text format in a string. Apart from
`route_key`, which is asked for each request: this is done once for each route.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from envoy.config.core.v3 import base_pb2
from google.protobuf import json_format, text_format

from policy_engine.sdk.repeated_lines import RepeatedLines

repeated = RepeatedLines(logging.getLogger("policy_engine.kernel"))

_GATEWAY = "envoy-gateway"
_ANNOTATION_PREFIX = "gateway.envoyproxy.io/"
_DEBUG_MARKS = ("goo.gle/debugstr", "goo.gle/debugonly", "goo.gle/debugproto")
"""What newer versions of protobuf put in front of text that is meant for people (its documentation, "Debug String")."""


@dataclass(frozen=True, slots=True)
class Resource:
    """The Gateway API resource that a route was made of; names are empty when the metadata has none."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    rule: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Kind in lower case, namespace, name and rule; all empty where one of the first three is."""
        if not (self.kind and self.namespace and self.name):
            return "", "", "", ""
        return self.kind.lower(), self.namespace, self.name, self.rule

    def annotation(self, name: str) -> str:
        """Return an annotation; the prefix that Envoy Gateway takes away may be in the name or not."""
        return self.annotations.get(name.removeprefix(_ANNOTATION_PREFIX), "")


def read_metadata(text: str) -> Mapping[str, Any]:
    """Return the filter metadata by namespace; empty when there is none, or when it cannot be read, which is logged."""
    if not text:
        return {}
    for mark in _DEBUG_MARKS:
        text = text.replace(mark, " ")
    message = base_pb2.Metadata()
    try:
        text_format.Parse(text, message, allow_unknown_extension=True, allow_unknown_field=True)
    except text_format.ParseError as error:
        repeated.log(
            logging.ERROR,
            None,
            "xds.route_metadata cannot be read (%s): routes have no key of it",
            error,
            extra={"event": "route_metadata_unreadable"},
        )
        return {}
    return {namespace: json_format.MessageToDict(values) for namespace, values in message.filter_metadata.items()}


def resource_of(metadata: Mapping[str, Any]) -> Resource:
    """Return the resource that Envoy Gateway made the route of, one without names when it made none."""
    resources = metadata.get(_GATEWAY, {}).get("resources")
    first = resources[0] if isinstance(resources, list) and resources else None
    if not isinstance(first, dict):
        return Resource()
    named = {name: str(first.get(name) or "") for name in ("kind", "namespace", "name", "sectionName")}
    annotations = first.get("annotations")
    texts = annotations if isinstance(annotations, dict) else {}
    return Resource(
        named["kind"],
        named["namespace"],
        named["name"],
        named["sectionName"],
        {name: str(value) for name, value in texts.items()},
    )
