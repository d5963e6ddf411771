"""The chains behind Envoy Gateway itself: its controller, its xDS, its Envoy, and the manifests that the engine writes.

Runs on demand: the controller is built from the Go module proxy, once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from integration.controllers.attached import HERE, JSON, Attached, announced, attached, eventually, sent
from integration.controllers.envoy_gateway import CONTROLLER, EnvoyGateway, with_backends_of_their_own
from integration.controllers.routes import NAMESPACES, gateway, http_route, orders, others, rule
from integration.harness.client import Reply
from integration.harness.exchange import Answer
from integration.harness.processes import free_port
from policy_engine.cli import main
from tools.on_demand.envoy_wheels import NEWEST, envoy

LARGE = 70_000
"""Above the 32 KiB that Envoy Gateway's connections hold unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Running:
    """The controller with all routes and policies in place."""

    controller: EnvoyGateway
    with_engine: Attached
    port: int

    def send(self, method: str, target: str, **more: Any) -> Reply:
        return sent(self.port, method, target, **more)

    def filters(self) -> list[str]:
        """Return the names of Envoy's filters that ask the engine."""
        dump = self.controller.config_dump()
        return [one["name"] for one in _each(dump, "disabled") if "ext_proc" in one.get("name", "")]

    def routes(self) -> dict[str, str]:
        """Return the path that each route of Envoy matches, by the route's name."""
        dump = self.controller.config_dump()
        return {route["name"]: json.dumps(route["match"]) for route in _each(dump, "match") if "name" in route}


def _each(node: Any, key: str) -> Iterator[dict[str, Any]]:
    """Yield every object anywhere in `node` that has `key`."""
    if isinstance(node, dict):
        if key in node:
            yield node
        for value in node.values():
            yield from _each(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from _each(value, key)


def _backend(namespace: str, port: int) -> dict[str, Any]:
    return {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "Backend",
        "metadata": {"name": "upstream", "namespace": namespace},
        "spec": {"endpoints": [{"ip": {"address": "127.0.0.1", "port": port}}]},
    }


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with attached(HERE / "chains.yaml", "httproute") as with_engine:
        port = free_port()
        with EnvoyGateway(with_engine.directory, envoy(NEWEST), NEWEST) as controller:
            parameters = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "host"}
            where = gateway("eg", CONTROLLER, port, parameters)
            backends = [_backend(namespace, with_engine.upstream.port) for namespace in NAMESPACES]
            controller.apply("gateway", [controller.proxy(), *where, *backends])
            policies = with_backends_of_their_own(with_engine.written("envoy-gateway"))
            controller.apply("policies", policies)
            controller.apply("routes", [orders(), *others()])
            controller.ready()
            found = Running(controller, with_engine, port)
            # Resources reach the controller one by one, and Envoy is told each state between.
            many = sum(one["kind"] == "EnvoyExtensionPolicy" for one in policies)
            eventually(lambda: len(found.filters()) == many, "told of all policies", controller.log)
            eventually(lambda: found.send("GET", "/health").status == 200, "served", controller.log)
            yield found


@pytest.fixture(autouse=True)
def _afresh(running: Running) -> None:
    running.with_engine.upstream.reset()


def test_the_lint_reads_what_envoy_was_told(running: Running) -> None:
    """What it has against it is what Envoy Gateway has no setting for, and the two routes that have no chain."""
    found = running.with_engine.linted(running.controller.config_dump())
    errors = [one for one in found if one["severity"] == "error"]
    assert {one["rule"] for one in errors} == {"envoy-flood-limit", "envoy-route"}, errors
    closed = [one["reason"] for one in errors if one["rule"] == "envoy-route"]
    assert len(closed) == 2
    assert all("no chain has this route's key" in one for one in closed)
    # The upstream's clusters are not the engine's to set up, and modes can be set for the whole filter only.
    others = {one["rule"] for one in found if one["severity"] != "error"}
    assert others == {"envoy-circuit-breaker", "envoy-local-reply"}, found


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
    assert running.send("GET", "/closed").told == b"closed"
    assert running.send("GET", "/closed").status == 403
    # No chain is for these: another tenant's HTTPRoute of the same name, and one that was forgotten.
    assert running.send("GET", "/bank").status == 500
    assert running.send("GET", "/forgotten").status == 500
    assert len(upstream.received) == reached + 1

    health = running.send("GET", "/health")
    assert (health.status, health.header("x-chain")) == (200, None)


def test_chains_are_those_of_their_routes(running: Running) -> None:
    chains_are_those_of_their_routes(running)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_buffer_of_envoy_gateway_is_read_whole(running: Running, chunked: bool) -> None:
    body = json.dumps({"item": "x" * LARGE}).encode()
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


def test_method_path_and_host_may_be_changed(running: Running) -> None:
    assert running.send("GET", "/old/1").status == 200
    seen = running.with_engine.upstream.last()
    assert (seen.method, seen.target, seen.header("host")) == ("PUT", "/new/1", "new.example.test")


def test_a_rule_put_in_front_opens_nothing_and_shifts_no_chain(running: Running) -> None:
    """Envoy Gateway's names of routes shift, by which keys that count positions would give chains to other routes."""
    before = running.routes()
    named, unnamed = rule("/orders/added", name="added"), rule("/plain")
    running.controller.apply("routes", [orders(named, unnamed), *others()])
    try:
        eventually(lambda: running.send("GET", "/plain").status == 200, "changed", running.controller.log)
        after = running.routes()
        shifted = [name for name in before.keys() & after.keys() if before[name] != after[name]]
        assert any(name.startswith("httproute/shop/orders/rule/0/") for name in shifted), (before, after)

        # A named rule is nobody's before it has a chain; one without a name has the chain of its HTTPRoute.
        running.with_engine.upstream.reset()
        assert running.send("GET", "/orders/added").status == 500
        assert running.with_engine.upstream.received == []
        assert running.send("GET", "/plain").header("x-chain") == "orders"
        chains_are_those_of_their_routes(running)
    finally:
        running.controller.apply("routes", [orders(), *others()])
        eventually(lambda: running.send("GET", "/plain").status == 404, "changed back", running.controller.log)


def test_an_httproute_that_comes_later_is_closed(running: Running) -> None:
    """The policy of the Gateway is on for routes that no chain knows of."""
    running.controller.apply("routes", [orders(), *others(), http_route("shop", "later", rule("/later"))])
    eventually(lambda: running.send("GET", "/later").status != 404, "changed", running.controller.log)
    assert running.send("GET", "/later").status == 500
    assert running.with_engine.upstream.received == []


def test_keys_that_count_positions_are_warned_of_and_refused_when_strict(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """The keys are the names that this controller gave its routes."""
    file = running.with_engine.directory / "positional.yaml"
    names = [name for name in running.routes() if name.startswith("httproute/shop/orders/")]
    assert names
    entry = {"name": "respond", "version": "v1", "parameters": {"status": 403}}
    file.write_text(
        json.dumps({"version": "v1", "routes": [{"route_key": name, "policies": [entry]} for name in names]})
    )
    command = ["validate", str(file), "--policies-directory", str(HERE.parent.parent / "policies")]
    assert main(command) == 0
    assert capsys.readouterr().out.count("counts positions") == len(names)
    assert main([*command, "--route-key-strict", "true"]) != 0
