"""The route key from the route's filter metadata, as Envoy sends it (R-07)."""

from __future__ import annotations

from pathlib import Path

from integration.harness.client import send
from integration.harness.envoy import EnvoyProcess
from integration.harness.envoy_config import Bootstrap, Route
from integration.runtime_stack import eventually, generated, scripted, started

CHAINS = {
    "one": [scripted(request_headers={"set": {"x-chain": "one"}})],
    "two": [scripted(request_headers={"set": {"x-chain": "two"}})],
}
SETTINGS = {
    "ROUTE_KEY_SOURCE": "metadata",
    "ROUTE_KEY_NAMESPACE": "policy.engine",
    "ROUTE_KEY_KEY": "the chain",
}
ATTRIBUTE = "xds.route_metadata.filter_metadata['policy.engine']['the chain']"


def test_the_key_may_be_in_the_filter_metadata_of_a_route(transport: str) -> None:
    attributes = [ATTRIBUTE, "source.address"]
    place = ("policy.engine", "the chain")
    with started(
        CHAINS, transport=transport, settings=SETTINGS, metadata_key=place, request_attributes=attributes
    ) as runtime:
        for name in CHAINS:
            assert runtime.send(f"/{name}/").status == 200
            assert runtime.upstream.last().header("x-chain") == name
        assert runtime.value("policy_engine_requests_total", route="one") == 1


def test_the_generated_configuration_puts_it_there() -> None:
    with generated(CHAINS, settings=SETTINGS) as runtime:
        eventually(lambda: runtime.send("/one/").status == 200, "serving")
        for name in CHAINS:
            runtime.send(f"/{name}/")
            assert runtime.upstream.last().header("x-chain") == name


def test_the_key_may_be_the_resource_that_a_route_was_made_of(transport: str, tmp_path: Path) -> None:
    """Names count positions, as Envoy Gateway makes them; a rule inserted in front moves no chain."""
    chains = {
        f"httproute/shop/orders/{rule}": [scripted(request_headers={"set": {"x-chain": rule}})]
        for rule in ("one", "two")
    }
    attributes = ["xds.route_metadata", "xds.route_name", "source.address"]
    settings = {"ROUTE_KEY_SOURCE": "httproute"}
    with started(chains, transport=transport, settings=settings, request_attributes=attributes) as runtime:
        for rules in (("one", "two"), ("new", "one", "two")):
            routes = [
                Route(
                    prefix=f"/{rule}",
                    name=f"httproute/shop/orders/rule/{number}/match/0",
                    metadata={
                        "envoy-gateway": {
                            "resources": [
                                {"kind": "HTTPRoute", "namespace": "shop", "name": "orders", "sectionName": rule}
                            ]
                        }
                    },
                )
                for number, rule in enumerate(rules)
            ]
            bootstrap = Bootstrap(
                routes=routes,
                engine=runtime.engine.address,
                upstream_port=runtime.upstream.port,
                upstream_http2=True,
                ext_proc={"request_attributes": attributes},
            )
            with EnvoyProcess(bootstrap, tmp_path) as proxy:
                port = proxy.ready().port
                for rule in ("one", "two"):
                    assert send(port, "GET", f"/{rule}").status == 200
                    assert runtime.upstream.last().header("x-chain") == rule
                assert send(port, "GET", "/new").status == (500 if "new" in rules else 404)
