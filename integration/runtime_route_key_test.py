"""The route key from the route's filter metadata, as Envoy sends it (R-07)."""

from __future__ import annotations

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
