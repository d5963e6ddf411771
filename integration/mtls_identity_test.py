"""mtls-identity behind an Envoy that ends TLS itself, configured by `policy-engine envoy-config`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.client_certificates import Clients, downstream_tls
from integration.harness.chain_file import Document, policy
from integration.runtime_stack import Runtime, generated

POLICIES = Path(__file__).parent.parent / "policies"
WORKLOAD = "spiffe://example.test/ns/shop/sa/orders"
RULE = {
    "name": "shop",
    "action": "allow",
    "when": f'request.attributes["connection.uri_san_peer_certificate"] == "{WORKLOAD}"',
}


def identity(**parameters: Any) -> list[Document]:
    """Return a chain that tells the upstream who it is."""
    told = {"request": {"set": {"x-peer": {"cel": "metadata.mtls.uris[0]"}}}}
    return [policy("mtls-identity", "v1.0.0", parameters), policy("set-header", "v1.1.0", told)]


CHAINS: dict[str, list[Document]] = {
    "anyone": identity(),
    "shop": identity(allow={"uris": ["spiffe://example.test/ns/shop/*"]}),
    "other": identity(allow={"uris": ["spiffe://example.test/ns/other/*"], "dns_names": ["test"]}),
    "named": identity(allow={"dns_names": ["shop.test"]}),
    "forwarded": identity(source="xfcc"),
    "ruled": [policy("authorize", "v1.0.0", {"rules": [RULE]})],
}


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Clients:
    return Clients(tmp_path_factory.mktemp("clients"), WORKLOAD)


@pytest.fixture(scope="module")
def runtime(clients: Clients) -> Iterator[Runtime]:
    def change(config: Any) -> None:
        (chain,) = config["static_resources"]["listeners"][0]["filter_chains"]
        chain["transport_socket"] = downstream_tls(clients)

    with generated(CHAINS, change=change, policies=POLICIES) as started:
        yield started


@pytest.mark.parametrize(
    ("route", "status"), [("anyone", 200), ("shop", 200), ("other", 403), ("named", 200), ("forwarded", 403)]
)
def test_a_client_is_who_its_certificate_says(runtime: Runtime, clients: Clients, route: str, status: int) -> None:
    runtime.upstream.reset()
    assert clients.send(runtime, f"/{route}/").status == status
    assert [one.header("x-peer") for one in runtime.upstream.received] == [WORKLOAD] * (status == 200)


@pytest.mark.parametrize("route", CHAINS)
def test_without_a_certificate_nobody_gets_in(runtime: Runtime, clients: Clients, route: str) -> None:
    runtime.upstream.reset()
    assert clients.send(runtime, f"/{route}/", shows=False).status == 403
    assert runtime.upstream.received == []


def test_a_rule_asks_envoy_for_the_attribute_that_it_looks_up(runtime: Runtime, clients: Clients) -> None:
    assert clients.send(runtime, "/ruled/").status == 200
