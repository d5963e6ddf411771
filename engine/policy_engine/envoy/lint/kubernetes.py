"""Checks manifests of which control planes make Envoy's configuration: those of Istio and of Envoy Gateway.

Apart from `lint`, which walks through what Envoy itself reads. An EnvoyFilter holds parts of Envoy's configuration as
they are; an EnvoyExtensionPolicy is first written as the filter that Envoy Gateway makes of it, with its own places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import replace

from policy_engine.documents.diagnostics import Diagnostic, Rule, Severity
from policy_engine.documents.yaml_document import Document
from policy_engine.envoy.demands import Demands
from policy_engine.envoy.lint.clusters import lint_engine_cluster
from policy_engine.envoy.lint.envoy_gateway import CONNECTION_BUFFER, WINDOW, ExtensionPolicy, settable
from policy_engine.envoy.lint.filters import lint_buffers, lint_filter
from policy_engine.envoy.lint.per_route import PerRoute
from policy_engine.envoy.lint.proto_json import Node
from policy_engine.envoy.lint.route_modes import idle_timeout, lint_modes

_KINDS = ("EnvoyFilter", "EnvoyExtensionPolicy")


def kubernetes_resources(documents: Iterable[Document]) -> list[Node]:
    """Return the manifests in these documents, those of a list one by one; none when there is none to check."""
    found = []
    for document in documents:
        root = Node(document, (), document.value)
        listed = root.get("kind").text() == "List"
        found += [one for one in (root.get("items").items() if listed else (root,)) if one.get("kind").text()]
    return found if any(one.get("kind").text() in _KINDS for one in found) else []


def lint_resources(resources: Sequence[Node], demands: Demands) -> list[Diagnostic]:
    """Return everything in the manifests that would break a promise."""
    patches = [
        patch
        for one in resources
        if one.get("kind").text() == "EnvoyFilter"
        for patch in one.at("spec").at("configPatches").items()
    ]
    found = list(_lint_patches(patches, demands)) if patches else []
    policies = [
        ExtensionPolicy(one, resources) for one in resources if one.get("kind").text() == "EnvoyExtensionPolicy"
    ]
    served: dict[int, set[str]] = {}
    for key in demands.chains if policies else ():
        closest = max(one.closeness(key) for one in policies)
        for number, one in enumerate(policies):
            if closest and one.closeness(key) == closest:
                served.setdefault(number, set()).add(key)
    for number, policy in enumerate(policies):
        found += _lint_extension_policy(policy, served.get(number, set()), demands)
    return list(dict.fromkeys(found))


def _lint_patches(patches: Sequence[Node], demands: Demands) -> Iterator[Diagnostic]:
    values: dict[str, list[Node]] = {}
    for patch in patches:
        values.setdefault(patch.at("applyTo").text(), []).append(patch.at("patch").at("value"))
    filters = [one for one in values.get("HTTP_FILTER", ()) if one.get("typed_config").is_a("ExternalProcessor")]
    if not filters:
        reason = "no patch inserts the ext_proc filter: no request would reach the engine"
        yield patches[0].error(
            Rule.ENVOY_FILTER, reason, allowed="what `policy-engine envoy-config --target istio` writes"
        )
        return
    nothing = Node(patches[0].document, patches[0].path)
    listener = next(iter(values.get("LISTENER", ())), nothing)
    managers = (one.get("typed_config") for one in values.get("NETWORK_FILTER", ()))
    manager = next((one for one in managers if one.is_a("HttpConnectionManager")), nothing)
    for http_filter in filters:
        yield from lint_filter(http_filter, demands)
        yield from lint_buffers(listener, manager, demands)
        name = http_filter.get("typed_config", "grpc_service", "envoy_grpc", "cluster_name").text()
        for cluster in values.get("CLUSTER", ()):
            if cluster.get("name").text() == name:
                yield from lint_engine_cluster(cluster, demands)
        yield from _lint_route_patches(patches, http_filter, manager, demands)


def _lint_route_patches(
    patches: Sequence[Node], http_filter: Node, manager: Node, demands: Demands
) -> Iterator[Diagnostic]:
    by_name = {}
    for patch in patches:
        if patch.at("applyTo").text() == "HTTP_ROUTE":
            vhost = patch.at("match").at("routeConfiguration").at("vhost")
            by_name[vhost.at("route").at("name").text()] = patch.at("patch").at("value")
    named_last = demands.route_key.parts[-1] == "route_name"
    for chain in demands.chains.values():
        name = (
            chain.route_key.rpartition("/")[2] if named_last and len(demands.route_key.parts) > 1 else chain.route_key
        )
        route = by_name.get(name, by_name.get(""))
        on_route = PerRoute(http_filter, (route,) if route is not None else ())
        if on_route.off is not None:
            if chain.runs:
                reason = f"the filter is off on a route whose chain {chain.route_key!r} has policies: none of them runs"
                yield on_route.off.error(Rule.ENVOY_ROUTE, reason)
        elif chain.runs:
            place = route if route is not None else http_filter
            yield from lint_modes(place, on_route, chain, demands, idle_timeout(manager, place))


def _lint_extension_policy(policy: ExtensionPolicy, keys: Set[str], demands: Demands) -> Iterator[Diagnostic]:
    """Yield what is wrong with each processor of a policy; what Envoy Gateway has no setting for is a warning."""
    served = replace(demands, chains={key: one for key, one in demands.chains.items() if key in keys})
    for http_filter, cluster in policy.processors():
        found = [
            *lint_filter(http_filter, served),
            *lint_engine_cluster(cluster, served),
            *lint_buffers(policy.listener, policy.manager, served, buffer=CONNECTION_BUFFER, window=WINDOW),
        ]
        for chain in served.chains.values():
            if chain.runs:
                mode = http_filter.get("typed_config", "processing_mode")
                found += lint_modes(mode, PerRoute(http_filter, ()), chain, served, 0.0)
        for one in found:
            hint = settable(one)
            if hint is None:
                continue
            severity = one.severity if hint else Severity.WARNING
            yield replace(one, severity=severity, allowed=hint or f"{one.allowed}; Envoy Gateway has no setting for it")
