"""Resources of Gateway API for tests: one Gateway, and HTTPRoutes of several tenants to one upstream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from integration.controllers.attached import HOST, Manifest

_GATEWAY_API = "gateway.networking.k8s.io/v1"
NAMESPACES = ("bank", "default", "llm", "shop")


def gateway(gateway_class: str, controller: str, port: int, parameters: Manifest | None = None) -> list[Manifest]:
    """Return the namespaces, a GatewayClass and the Gateway `default/eg` with a listener for all namespaces."""
    listener = {"name": "http", "protocol": "HTTP", "port": port, "allowedRoutes": {"namespaces": {"from": "All"}}}
    spec: dict[str, Any] = {"gatewayClassName": gateway_class, "listeners": [listener]}
    if parameters is not None:
        spec["infrastructure"] = {"parametersRef": parameters}
    return [
        *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in NAMESPACES),
        {
            "apiVersion": _GATEWAY_API,
            "kind": "GatewayClass",
            "metadata": {"name": gateway_class},
            "spec": {"controllerName": controller},
        },
        {
            "apiVersion": _GATEWAY_API,
            "kind": "Gateway",
            "metadata": {"name": "eg", "namespace": "default"},
            "spec": spec,
        },
    ]


def rule(path: str, method: str | None = None, name: str | None = None, backend: Manifest | None = None) -> Manifest:
    """Return a rule of an HTTPRoute for a prefix of paths."""
    match: dict[str, Any] = {"path": {"type": "PathPrefix", "value": path}}
    if method is not None:
        match["method"] = method
    ref = backend or {"group": "gateway.envoyproxy.io", "kind": "Backend", "name": "upstream"}
    found: dict[str, Any] = {"matches": [match], "backendRefs": [ref]}
    return found if name is None else {"name": name, **found}


def http_route(namespace: str, name: str, *rules: Manifest) -> Manifest:
    """Return an HTTPRoute for the host of the tests."""
    return {
        "apiVersion": _GATEWAY_API,
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "parentRefs": [{"name": "eg", "namespace": "default"}],
            "hostnames": [HOST],
            "rules": list(rules),
        },
    }


def orders(*in_front: Manifest, backend: Manifest | None = None) -> Manifest:
    """Return the HTTPRoute `shop/orders`, with more rules before its own."""
    own = (rule("/orders", "POST", "create", backend), rule("/orders", backend=backend))
    return http_route("shop", "orders", *in_front, *own)


def others(backend: Manifest | None = None) -> Sequence[Manifest]:
    """Return the HTTPRoutes beside it; `bank/orders` and `shop/forgotten` have no chain."""
    return [
        http_route("bank", "orders", rule("/bank", backend=backend)),
        http_route("llm", "chat", rule("/chat", backend=backend)),
        *(
            http_route("shop", name, rule(f"/{name}", backend=backend))
            for name in ("closed", "forgotten", "health", "old")
        ),
    ]
