"""Finds the route key in what Envoy sends with the first message (R-07), and the client's address beside it.

Envoy evaluates `request_attributes` of the filter and sends the results in one Struct under the filter's name. A name
there may be any attribute expression, so a key in the route's filter metadata is one more attribute. Control planes
that allow no such expression send all of the metadata at once, which `route_metadata` reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policy_engine.kernel.route_metadata import Resource, read_metadata, resource_of

ATTRIBUTES = "envoy.filters.http.ext_proc"
"""Key under which Envoy 1.36 sends attributes in `ProcessingRequest.attributes`."""

ROUTE_NAME = "xds.route_name"
ROUTE_METADATA = "xds.route_metadata"
SOURCE_ADDRESS = "source.address"

BY_NAME = ("route_name",)
"""The route key that is the route's name."""

_ISTIO = ("istio", "config")
_ISTIO_CONFIG = re.compile(r"/apis/[^/]+/[^/]+/namespaces/([^/]+)/([^/]+)/([^/]+)")
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Sent:
    """What is known of a route: texts of attributes by name, and what gives its filter metadata by namespace."""

    texts: Mapping[str, str]
    metadata: Callable[[], Mapping[str, Any]]


_Found = str | tuple[str, ...]
"""A part of a key, or several that belong together."""


def metadata_attribute(namespace: str, key: str) -> str:
    """Return the attribute expression for `key` in the route's filter metadata of `namespace`.

    Raises ValueError for a quote or backslash, which could not be written into the expression safely.
    """
    for text in (namespace, key):
        if not text or any(character in text for character in "'\\\n"):
            raise ValueError(f"{text!r} cannot name filter metadata: it must be non-empty, without quote or backslash")
    return f"{ROUTE_METADATA}.filter_metadata['{namespace}']['{key}']"


class RouteKey:
    """How the key of a request's chain is made of what Envoy sends. `parts` are joined by `/`, each one of:

    - `route_name`: the route's name.
    - `metadata:NAMESPACE:KEY`: a text in the route's filter metadata.
    - `httproute`: the Gateway API resource that Envoy Gateway made the route of: `httproute/NAMESPACE/NAME/RULE`,
      without the last for a rule that has no name; `httproute.kind`, `.namespace`, `.name`, `.rule` are these alone.
    - `annotation:NAME`: an annotation `gateway.envoyproxy.io/NAME` of that resource.
    - `istio`: the resource that Istio made the route of: `virtual-service/NAMESPACE/NAME`.
    - `attribute:EXPRESSION`: any other attribute of Envoy.

    In all parts but the last, `/` and `%` are written `%2F` and `%25`: two different routes have no key in common
    because of where a name ends. The key is empty when no part was sent. Raises ValueError for what is no part.
    """

    __slots__ = ("_finders", "_known", "attributes", "find", "parts")

    def __init__(self, parts: Sequence[str] = BY_NAME) -> None:
        self.parts = tuple(parts)
        if not self.parts:
            raise ValueError("a route key has at least one part")
        made = [_part(one) for one in self.parts]
        self._finders = tuple(find for _, find in made)
        self.attributes = tuple(dict.fromkeys(attribute for attribute, _ in made))
        """What has to be in the filter's `request_attributes`."""
        self._known: dict[tuple[str, ...], str] = {}
        self.find: Callable[[Any], str] = self._by_name if self.parts == BY_NAME else self._of_parts
        """Returns the key for a `ProcessingRequest`, empty when nothing of it was sent."""

    def __str__(self) -> str:
        """Return what has to be sent, for messages to people."""
        return ", ".join(self.attributes)

    @staticmethod
    def _by_name(message: Any) -> str:
        # Looking up an absent entry puts an empty one into the map: into a message that nobody else reads.
        return str(message.attributes[ATTRIBUTES].fields[ROUTE_NAME].string_value)

    def _of_parts(self, message: Any) -> str:
        fields = message.attributes[ATTRIBUTES].fields
        sent = tuple([_text(fields[one]) if one in fields else "" for one in (*self.attributes, ROUTE_METADATA)])
        key = self._known.get(sent)
        if key is None:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            texts = dict(zip((*self.attributes, ROUTE_METADATA), sent, strict=True))
            key = self._known[sent] = self._joined(_Sent(texts, lambda: read_metadata(texts[ROUTE_METADATA])))
        return key

    def of_route(self, name: str, metadata: Mapping[str, Any]) -> str | None:
        """Return the key of a route of Envoy's configuration with this filter metadata; None where it cannot tell."""
        if any(one.startswith("attribute:") for one in self.parts):
            return None
        return self._joined(_Sent({ROUTE_NAME: name}, lambda: metadata))

    @property
    def metadata(self) -> tuple[str, str] | None:
        """Namespace and key of the filter metadata that the whole key stands in; None for a key of another kind."""
        kind, _, rest = self.parts[0].partition(":")
        if len(self.parts) > 1 or kind != "metadata":
            return None
        namespace, _, key = rest.partition(":")
        return namespace, key

    def _joined(self, sent: _Sent) -> str:
        *before, last = [find(sent) for find in self._finders]
        texts = [*map(_before_others, before), _as_last(last)]
        return "/".join(texts) if any(texts) else ""


def attribute(message: Any, name: str) -> str:
    """Return the attribute `name` of a `ProcessingRequest`, or an empty string when it was not sent."""
    return str(message.attributes[ATTRIBUTES].fields[name].string_value)


def has_no_route(message: Any, key: RouteKey) -> bool:
    """Return whether Envoy says that the request has no route: attributes of it were evaluated, and there were none.

    An unnamed route has an empty name. Where attributes are not asked for at all, nothing is said.
    """
    fields = message.attributes[ATTRIBUTES].fields
    of_route = (*key.attributes, ROUTE_NAME)
    return SOURCE_ADDRESS in fields and all(fields[one].WhichOneof("kind") is None for one in of_route)


def client_address(message: Any) -> str:
    """Return the address of Envoy's downstream peer without the port; empty when `source.address` was not sent."""
    host, _, _ = attribute(message, SOURCE_ADDRESS).rpartition(":")
    return host[1:-1] if host.startswith("[") else host


def _part(text: str) -> tuple[str, Callable[[_Sent], _Found]]:
    """Return the attribute that a part needs, and what finds the part in it."""
    kind, _, rest = text.partition(":")
    if text == "route_name":
        return ROUTE_NAME, lambda sent: sent.texts.get(ROUTE_NAME, "")
    if text in _OF_RESOURCE:
        return ROUTE_METADATA, lambda sent: _OF_RESOURCE[text](_resource(sent))
    if kind == "annotation" and rest:
        return ROUTE_METADATA, lambda sent: _resource(sent).annotation(rest)
    if text == "istio":
        return metadata_attribute(*_ISTIO), lambda sent: _istio(_metadata(sent, *_ISTIO))
    if kind == "metadata":
        namespace, _, key = rest.partition(":")
        return metadata_attribute(namespace, key), lambda sent: _metadata(sent, namespace, key)
    if kind == "attribute" and rest:
        return rest, lambda sent: sent.texts.get(rest, "")
    raise ValueError(
        f"{text!r} is no part of a route key; expected route_name, httproute, httproute.kind, httproute.namespace, "
        "httproute.name, httproute.rule, annotation:NAME, istio, metadata:NAMESPACE:KEY or attribute:EXPRESSION"
    )


_OF_RESOURCE: Mapping[str, Callable[[Resource], _Found]] = {
    "httproute": lambda resource: resource.key,
    "httproute.kind": lambda resource: resource.key[0],
    "httproute.namespace": lambda resource: resource.key[1],
    "httproute.name": lambda resource: resource.key[2],
    "httproute.rule": lambda resource: resource.key[3],
}


def _as_last(found: _Found) -> str:
    """Return a part that nothing follows."""
    if isinstance(found, str):
        return found
    return "/".join(map(_escaped, found)).rstrip("/")


def _before_others(found: _Found) -> str:
    """Return a part that others follow: it has to show where it ends."""
    if isinstance(found, str):
        return _escaped(found)
    return "/".join(map(_escaped, found)) if any(found) else ""


def _metadata(sent: _Sent, namespace: str, key: str) -> str:
    """Return an entry of the route's filter metadata, out of all of it where Envoy could not be asked for it alone."""
    alone = sent.texts.get(metadata_attribute(namespace, key))
    if alone:
        return alone
    found = sent.metadata().get(namespace, {}).get(key)
    return found if isinstance(found, str) else ""


def _resource(sent: _Sent) -> Resource:
    return resource_of(sent.metadata())


def _istio(config: str) -> _Found:
    """Return kind, namespace and name out of the path that Istio writes."""
    match = _ISTIO_CONFIG.fullmatch(config)
    return (match[2], match[1], match[3]) if match else config


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("/", "%2F")


def _text(value: Any) -> str:
    """Return a `Value` of a Struct as text; empty for what is neither text, number nor boolean."""
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return str(value.string_value)
    if kind == "number_value":
        return f"{value.number_value:.15g}"
    return str(value.bool_value).lower() if kind == "bool_value" else ""
