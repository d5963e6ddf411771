"""What a route says about a filter: whether it is on, and which of its settings are others there.

A separate module because filters that are off except on some routes, and routes that switch off what is on, are judged
by the same rule. The most specific level decides: a part of a route, the route, its virtual host, the configuration.
"""

from __future__ import annotations

from policy_engine.envoy.lint.proto_json import Node


class PerRoute:
    """What a route, its virtual host and its route configuration say about one filter, most specific first."""

    def __init__(self, http_filter: Node, levels: tuple[Node, ...]) -> None:
        name = http_filter.get("name").text()
        written = [level.get("typed_per_filter_config").at(name) for level in levels]
        self._filter = http_filter.get("typed_config")
        self._configs = [one.get("config") if one.is_a("FilterConfig") else one for one in written if one.exists]
        self.off = _switched_off(http_filter, [one for one in written if one.exists])

    def setting(self, name: str) -> Node:
        """Return the override `name` of the most specific level that has it; a node that is not there else."""
        settings = [one.get("overrides", name) for one in self._configs]
        return next((one for one in settings if one.exists), Node(self._filter.document))

    @property
    def may_override(self) -> bool:
        """Whether the filter takes the modes that the engine asks for."""
        return self._filter.get("allow_mode_override").is_true()

    def modes(self) -> tuple[Node, Node]:
        """Return the override of processing modes and the filter's own."""
        return self.setting("processing_mode"), self._filter.get("processing_mode")


def per_route(http_filter: Node, route: Node, host: Node, configuration: Node) -> PerRoute:
    """Return what holds for a route, or for the first of its parts on which the filter is off."""
    levels = (route, host, configuration)
    parts = route.get("route", "weighted_clusters", "clusters").items()
    switches = (PerRoute(http_filter, (part, *levels)) for part in parts)
    return next((one for one in switches if one.off is not None), PerRoute(http_filter, levels))


def _switched_off(http_filter: Node, written: list[Node]) -> Node | None:
    """Return what switches the filter off on a route, None when it is on; the most specific level decides."""
    for one in written:
        config = one.get("config") if one.is_a("FilterConfig") else one
        for node in (one.get("disabled"), config.get("disabled")):
            if node.is_true():
                return node
        if config.exists:
            return None
    disabled = http_filter.get("disabled")
    return disabled if disabled.is_true() else None
