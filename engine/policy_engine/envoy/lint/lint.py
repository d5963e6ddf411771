"""Checks an operator's own Envoy bootstrap for what would break a promise of the engine (R-08, R-09, R-14).

A separate module as the walk through the file: which listeners have the filter, and what belongs to each. The checks
themselves are `filters`, `manager`, `routes`, `clusters` and `scalars`.

What is discovered (RDS, CDS, LDS) cannot be seen here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from policy_engine.documents.diagnostics import Diagnostic, Rule, ordered
from policy_engine.documents.yaml_document import Document, read_document_file
from policy_engine.envoy.demands import Demands
from policy_engine.envoy.lint.clusters import lint_engine_cluster, lint_upstream_cluster
from policy_engine.envoy.lint.filters import lint_buffers, lint_filter, lint_order
from policy_engine.envoy.lint.manager import lint_manager
from policy_engine.envoy.lint.proto_json import Node
from policy_engine.envoy.lint.routes import RouteLint
from policy_engine.envoy.lint.scalars import lint_scalars
from policy_engine.envoy.lint.silencing import not_silenced


def lint_file(path: Path, demands: Demands, ignored: Collection[str] = ()) -> tuple[Diagnostic, ...]:
    """Return everything in the file that would break a promise; errors when it cannot be read.

    `ignored` are rules whose warnings are left out, as are those that a comment in the file silences.
    """
    document, found = read_document_file(path)
    if document is None:
        return tuple(found)
    text = path.read_text("utf-8-sig", "replace")
    found = [*found, *lint_scalars(document, text), *lint_document(document, demands)]
    return ordered(not_silenced(found, text, ignored))


def lint_document(document: Document, demands: Demands) -> list[Diagnostic]:
    """Return everything in the bootstrap that would break a promise."""
    root = Node(document, (), document.value)
    resources = root.get("static_resources")
    found: list[Diagnostic] = []
    engines: dict[str, Node] = {}
    upstreams: dict[str, Node] = {}
    managers = list(managers_with_filter(resources))
    if not managers:
        return [_no_filter(root)]
    routes = RouteLint(demands)
    for listener, manager, http_filter in managers:
        engine = http_filter.get("typed_config", "grpc_service", "envoy_grpc", "cluster_name")
        found += lint_filter(http_filter, demands)
        found += lint_order(manager, http_filter, demands)
        found += lint_buffers(listener, manager, demands)
        found += lint_manager(manager, http_filter, demands)
        found += routes.lint(manager, http_filter)
        if engine.text():
            engines.setdefault(engine.text(), engine)
    found += routes.lint_chains_without_route()
    upstreams |= routes.clusters
    clusters = {one.get("name").text(): one for one in resources.get("clusters").items()}
    discovered = root.get("dynamic_resources", "cds_config").exists
    for name, reference in engines.items():
        if name in clusters:
            found += lint_engine_cluster(clusters[name], demands)
        elif discovered:
            reason = "the engine's cluster is discovered over CDS, so that it cannot be checked here"
            found.append(reference.warning(Rule.ENVOY_CLUSTER, reason))
        else:
            found.append(reference.error(Rule.ENVOY_CLUSTER, "no such cluster", allowed=", ".join(sorted(clusters))))
    for name in sorted(upstreams.keys() & clusters.keys() - engines.keys()):
        found += lint_upstream_cluster(clusters[name])
    return found


def managers_with_filter(resources: Node) -> Iterator[tuple[Node, Node, Node]]:
    """Yield listener, HTTP connection manager and ext_proc filter, for each filter of the file."""
    for listener in resources.get("listeners").items():
        for network_filter in _network_filters(listener):
            manager = network_filter.get("typed_config")
            if not manager.is_a("HttpConnectionManager"):
                continue
            for http_filter in manager.get("http_filters").items():
                if http_filter.get("typed_config").is_a("ExternalProcessor"):
                    yield listener, manager, http_filter


def _network_filters(listener: Node) -> Iterable[Node]:
    for chain in (*listener.get("filter_chains").items(), listener.get("default_filter_chain")):
        yield from chain.get("filters").items()


def _no_filter(root: Node) -> Diagnostic:
    reason = "no listener has the ext_proc filter in its http_filters: no request would reach the engine"
    node = root.get("static_resources", "listeners")
    if root.get("dynamic_resources", "lds_config").exists:
        reason = "listeners are discovered over LDS, and no listener of this file has the ext_proc filter"
        return node.warning(Rule.ENVOY_FILTER, reason)
    return node.error(Rule.ENVOY_FILTER, reason, allowed="what `policy-engine envoy-config` writes")
