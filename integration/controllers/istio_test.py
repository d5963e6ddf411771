"""The chains behind Istio itself: istiod, the EnvoyFilter that the engine writes, and Envoy as istiod configures it.

Runs on demand: istiod, kube-apiserver, etcd and kubectl are built from the Go module proxy, once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from integration.controllers.attached import HERE, HOST, JSON, Attached, Manifest, announced, attached, eventually, sent
from integration.controllers.istio import GatewayProxy, Istiod, istiod
from integration.controllers.kubernetes import Kubernetes, kubernetes
from integration.controllers.routes import rule
from integration.harness.client import Reply
from integration.harness.exchange import Answer
from integration.harness.processes import free_port
from tools.on_demand.envoy_wheels import NEWEST, envoy
from tools.on_demand.kubernetes_files import gateway_api_crds, istio_crds

NAMESPACES = ("istio-system", "bank", "llm", "shop")
LABELS = {"istio": "ingressgateway"}
UPSTREAM = "upstream.example.test"
_NETWORKING = "networking.istio.io/v1"


@dataclass(frozen=True, slots=True)
class Running:
    """Istiod with the Gateway, VirtualServices and the EnvoyFilter in place."""

    api: Kubernetes
    control: Istiod
    proxy: GatewayProxy
    with_engine: Attached
    port: int

    def send(self, method: str, target: str, **more: Any) -> Reply:
        return sent(self.port, method, target, **more)

    def log(self) -> str:
        return self.control.process.log()[-2000:] + self.proxy.log()[-2000:]


def gateway(port: int) -> Manifest:
    server = {"port": {"number": port, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
    return {
        "apiVersion": _NETWORKING,
        "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "istio-system"},
        "spec": {"selector": LABELS, "servers": [server]},
    }


def service_entry(port: int) -> Manifest:
    """Return the upstream as Istio knows it."""
    return {
        "apiVersion": _NETWORKING,
        "kind": "ServiceEntry",
        "metadata": {"name": "upstream", "namespace": "istio-system"},
        "spec": {
            "hosts": [UPSTREAM],
            "location": "MESH_EXTERNAL",
            "resolution": "STATIC",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
            "endpoints": [{"address": "127.0.0.1", "ports": {"http": port}}],
        },
    }


def route(prefix: str, name: str | None, method: str | None = None) -> Manifest:
    match: dict[str, Any] = {"uri": {"prefix": prefix}}
    if method is not None:
        match["method"] = {"exact": method}
    destination = {"destination": {"host": UPSTREAM, "port": {"number": 80}}}
    found: dict[str, Any] = {"match": [match], "route": [destination]}
    return found if name is None else {"name": name, **found}


def virtual_service(namespace: str, name: str, *routes: Manifest) -> Manifest:
    return {
        "apiVersion": _NETWORKING,
        "kind": "VirtualService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"hosts": [HOST], "gateways": ["istio-system/edge"], "http": list(routes)},
    }


def orders(*in_front: Manifest) -> Manifest:
    return virtual_service("shop", "orders", *in_front, route("/orders", "create", "POST"), route("/orders", "list"))


def others() -> list[Manifest]:
    """Return the VirtualServices beside it; `shop/forgotten` has no chain."""
    return [
        virtual_service("bank", "orders", route("/bank", "create")),
        virtual_service("llm", "chat", route("/chat", "complete")),
        virtual_service("shop", "health", route("/health", "health")),
        virtual_service("shop", "forgotten", route("/forgotten", "list")),
    ]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with attached(HERE / "chains_istio.yaml", "istio") as with_engine:
        directory, port = with_engine.directory, free_port()
        with kubernetes(directory) as api:
            api.install([istio_crds(), *gateway_api_crds()])
            for name in NAMESPACES:
                api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            api.apply(*with_engine.written("istio"), gateway(port), service_entry(with_engine.upstream.port))
            api.apply(orders(), *others())
            with (
                istiod(directory, api) as control,
                GatewayProxy(directory, "edge", envoy(NEWEST), control, "istio-system", LABELS) as proxy,
            ):
                proxy.ready()
                found = Running(api, control, proxy, with_engine, port)
                eventually(lambda: found.send("GET", "/health").status == 200, "served", found.log)
                yield found


@pytest.fixture(autouse=True)
def _afresh(running: Running) -> None:
    running.with_engine.upstream.reset()


def test_the_lint_reads_what_envoy_was_told(running: Running) -> None:
    """All it has against it is the route that has no chain."""
    found = running.with_engine.linted(running.proxy.config_dump())
    assert [one["rule"] for one in found if one["severity"] == "error"] == ["envoy-route"], found


def chains_are_those_of_their_routes(running: Running) -> None:
    """Hold every chain to what it does, on the routes that it belongs to."""
    upstream = running.with_engine.upstream
    upstream.reset()

    listed = running.send("GET", "/orders")
    assert (listed.status, listed.header("x-chain")) == (200, "orders")
    assert upstream.last().header("x-chain") == "orders"

    reached = len(upstream.received)
    assert running.send("POST", "/orders", headers=JSON, body=b'{"item": 1}').status == 200
    assert running.send("POST", "/orders", headers=JSON, body=b"{}").status == 422
    # Another tenant's route of the same name has another chain.
    denied = running.send("POST", "/bank", headers=JSON, body=b'{"item": 1}')
    assert (denied.status, denied.told) == (403, b"closed")
    # A route whose name another VirtualService has a chain for, and this one has none.
    assert running.send("GET", "/forgotten").status == 500
    assert len(upstream.received) == reached + 1

    health = running.send("GET", "/health")
    assert (health.status, health.header("x-chain")) == (200, None)


def test_chains_are_those_of_their_routes(running: Running) -> None:
    chains_are_those_of_their_routes(running)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_buffer_of_istio_is_read_whole(running: Running, chunked: bool) -> None:
    body = json.dumps({"item": "x" * (2 << 20)}).encode()
    reply = running.send("POST", "/orders", headers=JSON, body=[body[:9], body[9:]] if chunked else body)
    assert reply.status == 200
    assert bytes(running.with_engine.upstream.last().body) == body


def test_a_body_above_the_limit_of_the_engine_gets_413(running: Running) -> None:
    assert announced(running.port, "/orders", 11 << 20) == 413
    assert running.with_engine.upstream.received == []


def test_a_streamed_response_is_masked(running: Running) -> None:
    pieces = [b"write to anna@exam", b"ple.test today", b", or not"]
    answer = Answer(headers=[("content-type", "text/plain")], chunks=pieces, chunk_delay_s=0.05)
    running.with_engine.upstream.answer_with(answer)
    reply = running.send("GET", "/chat")
    assert reply.status == 200
    assert reply.body.startswith(b"write to ")
    assert reply.body.endswith(b" today, or not")
    assert b"anna" not in reply.body


def test_a_route_put_in_front_opens_nothing_and_shifts_no_chain(running: Running) -> None:
    named, unnamed = route("/orders/added", "added"), route("/plain", None)
    running.api.apply(orders(named, unnamed))
    try:
        eventually(lambda: running.send("GET", "/plain").status != 404, "changed", running.log)
        running.with_engine.upstream.reset()
        assert running.send("GET", "/orders/added").status == 500
        assert running.send("GET", "/plain").status == 500
        assert running.with_engine.upstream.received == []
        chains_are_those_of_their_routes(running)
    finally:
        running.api.apply(orders())
        eventually(lambda: running.send("GET", "/plain").status == 404, "changed back", running.log)


def test_httproutes_are_closed_as_long_as_no_chain_is_for_them(running: Running) -> None:
    """Istio makes one VirtualService of all HTTPRoutes of a host, whose rules keep their own names or get positions."""
    port = free_port()
    running.api.apply(*gateway_api(port))
    running.api.apply(http_orders("shop", "/orders"), http_orders("bank", "/bank"))
    with GatewayProxy(
        running.with_engine.directory, "web", envoy(NEWEST), running.control, "istio-system", LABELS | WEB
    ) as proxy:
        proxy.ready()

        def send(method: str, target: str) -> int:
            return sent(port, method, target).status

        eventually(lambda: send("GET", "/bank") == 500, "served", lambda: running.log() + proxy.log())
        print(json.dumps(list(_routes(proxy.config_dump())), indent=1))
        assert running.with_engine.upstream.received == []


WEB = {"gateway.networking.k8s.io/gateway-name": "web"}


def _routes(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        if "match" in node and "route" in node:
            yield {key: node.get(key) for key in ("name", "match", "metadata")}
        for value in node.values():
            yield from _routes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _routes(value)


def gateway_api(port: int) -> list[Manifest]:
    listener = {"name": "http", "protocol": "HTTP", "port": port, "allowedRoutes": {"namespaces": {"from": "All"}}}
    return [
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "web", "namespace": "istio-system"},
            "spec": {
                "gatewayClassName": "istio",
                "infrastructure": {"labels": LABELS},
                "listeners": [listener],
            },
        }
    ]


def http_orders(namespace: str, path: str) -> Manifest:
    ref = {"group": "networking.istio.io", "kind": "Hostname", "name": UPSTREAM, "port": 80}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "orders", "namespace": namespace},
        "spec": {
            "parentRefs": [{"name": "web", "namespace": "istio-system"}],
            "hostnames": [HOST],
            "rules": [rule(path, "POST", "create", ref), rule(path, backend=ref)],
        },
    }
