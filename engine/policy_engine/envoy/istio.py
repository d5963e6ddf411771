"""Writes an EnvoyFilter for Istio: all that Envoy is told in a bootstrap of our own can be said there.

A separate module because it is a way of writing: what is needed comes from `filter_config`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from policy_engine.envoy.demands import Demands
from policy_engine.envoy.edge import SPELLINGS, http2_limits
from policy_engine.envoy.filter_config import (
    FILTER,
    TYPE,
    Config,
    EngineTls,
    engine_cluster,
    ext_proc_filter,
    route_parts,
)
from policy_engine.envoy.manifests import Gateway, document, metadata

_MANAGER = "envoy.filters.network.http_connection_manager"
_COMMENTS = {
    "workloadSelector": ("The pods of the gateway. Without it, every proxy of the namespace gets the filter.",),
    "applyTo": ("The engine; a cluster of its own, so that Istio's metadata exchange and mTLS are not in the way.",),
}


def istio(demands: Demands, gateway: Gateway, tls: EngineTls | None, namespaces: Sequence[str]) -> str:
    """Return the manifests; `namespaces` are those of dynamic metadata that policies may write."""
    patches = [
        _patch("CLUSTER", "ADD", engine_cluster(demands.addresses, tls)),
        _patch("LISTENER", "MERGE", {"per_connection_buffer_limit_bytes": demands.buffer_limit}),
        _patch("NETWORK_FILTER", "MERGE", _manager(demands), listener=_filter_chain()),
        _patch(
            "HTTP_FILTER",
            "INSERT_BEFORE",
            ext_proc_filter(demands, namespaces),
            listener=_filter_chain({"name": "envoy.filters.http.router"}),
        ),
        *_routes(demands),
    ]
    spec = {"workloadSelector": {"labels": {"istio": gateway.name}}, "configPatches": patches}
    manifest = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": metadata(gateway.namespace),
        "spec": spec,
    }
    return document(manifest, _COMMENTS, _header(demands))


def _header(demands: Demands) -> list[str]:
    lines = [
        "The policy engine in front of an Istio gateway. Made by: policy-engine envoy-config --target istio",
        "Apply it again when a change of the chains alters which bodies are read or how long policies may take.",
    ]
    if demands.route_key.parts == ("route_name",):
        lines += [
            "Route keys are names of routes. Istio names a route as the VirtualService does (http[].name), so that two",
            "tenants may give one name and would share a chain: set route_key.source: istio, whose keys are",
            "virtual-service/NAMESPACE/NAME/ROUTE. A route without a name has no key and is denied.",
        ]
    shared = _shared(demands)
    if shared:
        lines.append(f"Modes are set by the route's name alone, which several keys have: {', '.join(shared)}. They get")
        lines.append("what any of them needs; chains are still told apart by the whole key.")
    return lines


def _patch(to: str, operation: str, value: Config, **match: Config) -> Config:
    return {
        "applyTo": to,
        "match": {"context": "GATEWAY", **match},
        "patch": {"operation": operation, "value": value},
    }


def _filter_chain(sub_filter: Config | None = None) -> Config:
    named: Config = {"name": _MANAGER}
    return {"filterChain": {"filter": named if sub_filter is None else named | {"subFilter": sub_filter}}}


def _manager(demands: Demands) -> Config:
    config = {
        "@type": f"{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        **deepcopy(SPELLINGS),
        "http2_protocol_options": http2_limits(demands.buffer_limit),
    }
    return {"name": _MANAGER, "typed_config": config}


def _routes(demands: Demands) -> list[Config]:
    """Return a patch for each name of a route, with the modes that its chains need.

    The filter is never off: the name may be that of another tenant's route as well.
    """
    found: dict[str, Config] = {}
    for key, chain in demands.chains.items():
        name = route_name(key, demands)
        if not chain.runs or not name or "*" in name:
            continue
        parts = route_parts(chain, demands)["typed_per_filter_config"]
        found[name] = _united(found[name], parts) if name in found else parts
    return [
        _patch(
            "HTTP_ROUTE",
            "MERGE",
            {"typed_per_filter_config": parts},
            routeConfiguration={"vhost": {"route": {"name": name}}},
        )
        for name, parts in found.items()
    ]


def route_name(key: str, demands: Demands) -> str:
    """Return the name of the route in a chain's key, empty when the key has none."""
    parts = demands.route_key.parts
    if parts[-1] != "route_name":
        return ""
    return key if len(parts) == 1 else key.rpartition("/")[2]


def _shared(demands: Demands) -> list[str]:
    names = [route_name(key, demands) for key in demands.chains]
    return sorted({name for name in names if name and names.count(name) > 1})


def _united(one: Config, other: Config) -> Config:
    """Return the modes of both: what either reads is sent, whole where one needs it whole."""
    mine = deepcopy(one[FILTER])
    modes, others = mine["overrides"]["processing_mode"], other[FILTER]["overrides"]["processing_mode"]
    for field, value in others.items():
        if "_body_" in field and modes[field] != value:
            modes[field] = "BUFFERED"
        elif value == "SEND":
            modes[field] = value
    return {FILTER: mine}
