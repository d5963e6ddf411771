"""Checks what Envoy is configured with for what would break a promise of the engine (R-08, R-09, R-14).

A separate module as the walk through it: which listeners have the filter, and what belongs to each. The checks
themselves are `filters`, `manager`, `routes`, `route_modes`, `clusters` and `scalars`; `resources` reads the forms of a
configuration of Envoy, `kubernetes` those that control planes make one of.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from policy_engine.documents.diagnostics import Diagnostic, Rule, ordered
from policy_engine.documents.yaml_document import Document
from policy_engine.envoy.demands import Demands
from policy_engine.envoy.lint.clusters import lint_engine_cluster, lint_upstream_cluster
from policy_engine.envoy.lint.files import read_documents
from policy_engine.envoy.lint.filters import lint_buffers, lint_filter, lint_order, lint_response_headers
from policy_engine.envoy.lint.kubernetes import kubernetes_resources, lint_resources
from policy_engine.envoy.lint.manager import lint_manager
from policy_engine.envoy.lint.proto_json import Node
from policy_engine.envoy.lint.resources import Resources, resources_of
from policy_engine.envoy.lint.routes import FilterUse, RouteLint
from policy_engine.envoy.lint.scalars import lint_scalars
from policy_engine.envoy.lint.silencing import not_silenced
from policy_engine.kernel.route_key import ROUTE_METADATA, ROUTE_NAME


def lint_file(path: Path, demands: Demands, ignored: Collection[str] = ()) -> tuple[Diagnostic, ...]:
    """Return everything in the file that would break a promise; errors when it cannot be read.

    `ignored` are rules whose warnings are left out, as are those that a comment in the file silences.
    """
    documents, found = read_documents(path)
    if not documents:
        return tuple(found)
    text = path.read_text("utf-8-sig", "replace")
    for document in documents:
        found += lint_scalars(document, text)
    found += lint_documents(documents, demands)
    return ordered(not_silenced(found, text, ignored))


def lint_documents(documents: Sequence[Document], demands: Demands) -> list[Diagnostic]:
    """Return everything in the file that would break a promise: of each Envoy, or of manifests of Kubernetes."""
    manifests = kubernetes_resources(documents)
    if manifests:
        return lint_resources(manifests, demands)
    envoys = [one for document in documents for one in resources_of(document)]
    found = [one for envoy in envoys for one in _lint_envoy(envoy, demands)]
    # What several listeners share is looked at for each of them, and named once.
    return list(dict.fromkeys(found))


def _lint_envoy(resources: Resources, demands: Demands) -> Iterator[Diagnostic]:
    uses = list(_filters(resources, demands))
    if not uses:
        yield _no_filter(resources)
        return
    routes = RouteLint(demands, resources.routes)
    for _, group in groupby(uses, key=lambda use: use.manager.path):
        together = list(group)
        yield from routes.lint(together[0].manager, together)
        yield from lint_manager(together[0].manager, demands)
    for use in uses:
        served = _served(use, demands)
        yield from lint_filter(use.http_filter, served)
        yield from lint_response_headers(use.http_filter)
        yield from lint_order(use.manager, use.http_filter, served)
        yield from lint_buffers(use.listener, use.manager, served)
    yield from routes.lint_chains_without_route()
    yield from routes.lint_shared_keys()
    yield from _clusters(resources, uses, routes, demands)


def _served(use: FilterUse, demands: Demands) -> Demands:
    """Return the demands of the chains that a filter serves; all of them where that cannot be seen."""
    if not use.all_seen:
        return demands
    return replace(demands, chains={key: chain for key, chain in demands.chains.items() if key in use.serves})


def _clusters(
    resources: Resources, uses: Sequence[FilterUse], routes: RouteLint, demands: Demands
) -> Iterator[Diagnostic]:
    engines = {_engine(use).text(): _engine(use) for use in reversed(uses) if _engine(use).text()}
    clusters = resources.clusters
    for name, reference in engines.items():
        if name in clusters:
            yield from lint_engine_cluster(clusters[name], demands)
        elif "clusters" in resources.discovered:
            reason = "the engine's cluster is discovered over CDS, so that it cannot be checked here"
            yield reference.warning(Rule.ENVOY_CLUSTER, reason)
        else:
            yield reference.error(Rule.ENVOY_CLUSTER, "no such cluster", allowed=", ".join(sorted(clusters)))
    for name in sorted(routes.clusters.keys() & clusters.keys() - engines.keys()):
        yield from lint_upstream_cluster(clusters[name])


def _filters(resources: Resources, demands: Demands) -> Iterator[FilterUse]:
    """Yield each filter that asks the engine.

    Others may ask other processors: those that do not send the route key, to a cluster that none that does sends to.
    """
    found = [
        FilterUse(listener, manager, http_filter) for listener, manager, http_filter in resources.managers_with_filter()
    ]
    wanted = {*demands.route_key.attributes}
    wanted |= {ROUTE_METADATA} if wanted != {ROUTE_NAME} else set()
    sending = [use for use in found if wanted & set(use.http_filter.get("typed_config", "request_attributes").texts())]
    ours = {_endpoints(resources, _engine(use).text()) for use in sending}
    yield from (use for use in found if not sending or _endpoints(resources, _engine(use).text()) in ours)


def _engine(use: FilterUse) -> Node:
    return use.http_filter.get("typed_config", "grpc_service", "envoy_grpc", "cluster_name")


def _endpoints(resources: Resources, cluster: str) -> str:
    """Return where a cluster leads, as text to compare: its endpoints, or its name where they are discovered."""
    endpoints = (
        resources.clusters[cluster].get("load_assignment", "endpoints") if cluster in resources.clusters else None
    )
    places = [
        json.dumps(one.get("endpoint", "address").value, sort_keys=True)
        for locality in (endpoints.items() if endpoints is not None else ())
        for one in locality.get("lb_endpoints").items()
    ]
    return "\n".join(sorted(places)) or cluster


def _no_filter(resources: Resources) -> Diagnostic:
    reason = "no listener has the ext_proc filter in its http_filters: no request would reach the engine"
    node = resources.root.get("static_resources", "listeners")
    if "listeners" in resources.discovered:
        reason = "listeners are discovered over LDS, and no listener of this file has the ext_proc filter"
        return node.warning(Rule.ENVOY_FILTER, reason)
    return node.error(Rule.ENVOY_FILTER, reason, allowed="what `policy-engine envoy-config` writes")
