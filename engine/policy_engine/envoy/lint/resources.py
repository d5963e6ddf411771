"""Gathers what an Envoy runs with, wherever it was written down: a bootstrap, a config dump, or what egctl prints.

A separate module because the checks are the same for all of them. A dump (`/config_dump?include_eds`) holds what was
discovered as well; egctl wraps one dump for each Envoy, or for each Gateway that it translated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from policy_engine.documents.yaml_document import Document
from policy_engine.envoy.lint.proto_json import Node

_DEEPEST_DUMP = 6

_LISTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "ListenersConfigDump": {
        "static_listeners": ("listener",),
        "dynamic_listeners": ("active_state", "listener"),
    },
    "ClustersConfigDump": {
        "static_clusters": ("cluster",),
        "dynamic_active_clusters": ("cluster",),
        "dynamic_warming_clusters": ("cluster",),
    },
    "RoutesConfigDump": {
        "static_route_configs": ("route_config",),
        "dynamic_route_configs": ("route_config",),
    },
}
"""Where the resources are in each part of a dump (envoy/admin/v3/config_dump.proto)."""


@dataclass(slots=True)
class Resources:
    """One Envoy's listeners, clusters and route configurations; the last two by name.

    `discovered` names what may be elsewhere as well: `listeners`, `clusters`.
    """

    root: Node
    listeners: list[Node] = field(default_factory=list)
    clusters: dict[str, Node] = field(default_factory=dict)
    routes: dict[str, Node] = field(default_factory=dict)
    discovered: frozenset[str] = frozenset()

    def managers_with_filter(self) -> Iterator[tuple[Node, Node, Node]]:
        """Yield listener, HTTP connection manager and ext_proc filter, for each filter."""
        for listener in self.listeners:
            for manager in _managers(listener):
                for http_filter in manager.get("http_filters").items():
                    if http_filter.get("typed_config").is_a("ExternalProcessor"):
                        yield listener, manager, http_filter


def _managers(listener: Node) -> Iterator[Node]:
    """Yield the HTTP connection managers of a listener."""
    for chain in (*listener.get("filter_chains").items(), listener.get("default_filter_chain")):
        for network_filter in chain.get("filters").items():
            manager = network_filter.get("typed_config")
            if manager.is_a("HttpConnectionManager"):
                yield manager


def resources_of(document: Document) -> list[Resources]:
    """Return the resources of each Envoy that the file is about."""
    root = Node(document, (), document.value)
    dumps = list(_dumps(root, _DEEPEST_DUMP))
    return [_of_dump(one) for one in dumps] if dumps else [_of_bootstrap(root)]


def _of_bootstrap(root: Node) -> Resources:
    static, dynamic = root.get("static_resources"), root.get("dynamic_resources")
    elsewhere = {"listeners": dynamic.get("lds_config"), "clusters": dynamic.get("cds_config")}
    return Resources(
        root,
        list(static.get("listeners").items()),
        {one.get("name").text(): one for one in static.get("clusters").items()},
        discovered=frozenset(name for name, source in elsewhere.items() if source.exists),
    )


def _dumps(node: Node, deepest: int) -> Iterator[Node]:
    parts = list(node.get("configs").items())
    if any(part.at("@type").text().endswith("ConfigDump") for part in parts):
        yield node
    elif isinstance(node.value, dict) and deepest:
        for key in node.value:
            yield from _dumps(node.at(key), deepest - 1)


def _of_dump(dump: Node) -> Resources:
    found = Resources(dump)
    for part in dump.get("configs").items():
        for name, inner in _LISTS.get(part.at("@type").text().rpartition(".")[2], {}).items():
            for one in part.get(name).items():
                resource = one.get(*inner)
                if not resource.exists:
                    continue
                if inner[-1] == "listener":
                    found.listeners.append(resource)
                elif inner[-1] == "cluster":
                    found.clusters[resource.get("name").text()] = resource
                else:
                    found.routes[resource.get("name").text()] = resource
    return found
