"""Where in Envoy's route the route key stands, from the settings (R-07).

A separate module because the workers that look there and the Envoy configuration that sends it must mean the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from policy_engine.kernel.route_key import ROUTE_NAME, metadata_attribute
from policy_engine.settings.model import RouteKeySettings, RouteKeySource


@dataclass(frozen=True, slots=True)
class RouteKeyPlace:
    """The route's name, or filter metadata `namespace`, `key`; `attribute` is what Envoy has to send."""

    attribute: str
    namespace: str = ""
    key: str = ""


def route_key_place(settings: RouteKeySettings) -> RouteKeyPlace:
    """Return the place that `settings` name; raises ValueError when its names cannot stand in an attribute."""
    if settings.source is RouteKeySource.ROUTE_NAME:
        return RouteKeyPlace(ROUTE_NAME)
    namespace, key = settings.namespace or "", settings.key or ""
    return RouteKeyPlace(metadata_attribute(namespace, key), namespace, key)
