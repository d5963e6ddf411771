"""What policies and conditions know beside the request itself: Envoy's attributes, mTLS identity among them, and the
dynamic metadata of filters before the engine, through the configuration that `envoy-config` writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from integration.client_certificates import Clients, downstream_tls
from integration.harness.chain_file import Document, policy
from integration.harness.tokens import Issuer
from integration.runtime_stack import Runtime, connection_manager, generated

WORKLOAD = "spiffe://example.test/shop"
JWT_AUTHN = "envoy.filters.http.jwt_authn"
IS_WORKLOAD = f'request.attributes["connection.uri_san_peer_certificate"] == "{WORKLOAD}"'
IS_ADMIN = f'request.envoy_metadata["{JWT_AUTHN}"].claims.roles.exists(role, role == "admin")'


def sets(value: str, condition: str) -> Document:
    """Return a chain entry that tells the upstream that its condition was true."""
    parameters = {"request_headers": {"set": {"x-told": value}}}
    return {**policy("scripted", "v1.0.0", parameters), "condition": condition}


CHAINS: dict[str, list[Document]] = {
    "knows": [policy("knows", "v1.0.0")],
    "workload": [sets("workload", IS_WORKLOAD)],
    "guarded": [sets("workload", f'"connection.uri_san_peer_certificate" in request.attributes && {IS_WORKLOAD}')],
    "mtls": [sets("mtls", 'request.attributes["connection.mtls"] && request.attributes["source.port"] > 0')],
    "admin": [sets("admin", IS_ADMIN)],
}


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Clients:
    return Clients(tmp_path_factory.mktemp("clients"), WORKLOAD)


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def runtime(clients: Clients, issuer: Issuer) -> Iterator[Runtime]:
    def change(config: Any) -> None:
        (chain,) = config["static_resources"]["listeners"][0]["filter_chains"]
        chain["transport_socket"] = downstream_tls(clients)
        connection_manager(config)["http_filters"].insert(0, _jwt_authn(issuer))

    with generated(CHAINS, change=change) as started:
        yield started


def test_the_generated_filter_asks_for_what_policies_and_conditions_name(tmp_path: Path) -> None:
    with generated(CHAINS) as runtime:
        filters = connection_manager(json.loads((runtime.access_log.parent / "envoy.yaml").read_text()))["http_filters"]
    config = filters[0]["typed_config"]
    assert config["request_attributes"][:2] == ["xds.route_name", "source.address"]
    assert {"connection.mtls", "connection.uri_san_peer_certificate", "source.port"} <= {*config["request_attributes"]}
    assert config["metadata_options"]["forwarding_namespaces"] == {"untyped": [JWT_AUTHN]}


def test_a_policy_knows_the_identity_of_a_workload(runtime: Runtime, clients: Clients) -> None:
    assert clients.send(runtime, "/knows/").status == 200
    known = json.loads(runtime.upstream.last().header("x-attributes") or "")
    certificate = x509.load_pem_x509_certificate(clients.certificate)
    assert known["connection.uri_san_peer_certificate"] == WORKLOAD
    assert known["connection.dns_san_peer_certificate"] == "shop.test"
    digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
    assert known["connection.sha256_peer_certificate_digest"] == digest
    assert known["connection.mtls"] is True
    assert known["connection.tls_version"] == "TLSv1.3"
    assert known["request.protocol"] == "HTTP/1.1"
    assert known["xds.virtual_host_name"] == "all"
    assert isinstance(known["source.port"], int)
    assert isinstance(known["connection.id"], int)
    assert isinstance(known["xds.listener_direction"], int)


def test_what_envoy_does_not_know_is_absent(runtime: Runtime, clients: Clients) -> None:
    assert clients.send(runtime, "/knows/", shows=False).status == 200
    known = json.loads(runtime.upstream.last().header("x-attributes") or "")
    assert known["connection.mtls"] is False
    assert not any("peer_certificate" in name for name in known)
    assert runtime.upstream.last().header("x-metadata") == "{}"


def test_conditions_decide_by_the_identity_and_fail_closed_without_one(runtime: Runtime, clients: Clients) -> None:
    for route, told in (("workload", "workload"), ("guarded", "workload"), ("mtls", "mtls")):
        assert clients.send(runtime, f"/{route}/").status == 200
        assert runtime.upstream.last().header("x-told") == told
    assert clients.send(runtime, "/workload/", shows=False).status == 500
    assert clients.send(runtime, "/guarded/", shows=False).status == 200
    assert runtime.upstream.last().header("x-told") is None
    assert clients.send(runtime, "/mtls/", shows=False).status == 200
    assert runtime.upstream.last().header("x-told") is None


def test_a_policy_knows_the_claims_of_a_token_that_jwt_authn_verified(
    runtime: Runtime, clients: Clients, issuer: Issuer
) -> None:
    token = issuer.token(roles=["admin"], level=3, ratio=0.5, since=None)
    assert clients.send(runtime, "/knows/", token).status == 200
    claims = json.loads(runtime.upstream.last().header("x-metadata") or "")[JWT_AUTHN]["claims"]
    assert (claims["sub"], claims["roles"], claims["level"], claims["ratio"]) == ("alice", ["admin"], 3, 0.5)


def test_conditions_decide_by_the_claims_and_fail_closed_without_them(
    runtime: Runtime, clients: Clients, issuer: Issuer
) -> None:
    assert clients.send(runtime, "/admin/", issuer.token(roles=["dev", "admin"])).status == 200
    assert runtime.upstream.last().header("x-told") == "admin"
    assert clients.send(runtime, "/admin/", issuer.token(roles=["dev"])).status == 200
    assert runtime.upstream.last().header("x-told") is None
    assert clients.send(runtime, "/admin/", issuer.token()).status == 500
    assert clients.send(runtime, "/admin/").status == 500


def _jwt_authn(issuer: Issuer) -> Any:
    provider = {
        "issuer": issuer.issuer,
        "audiences": [issuer.audience],
        "local_jwks": {"inline_string": json.dumps(issuer.jwks())},
        "payload_in_metadata": "claims",
    }
    requires = {"requires_any": {"requirements": [{"provider_name": "test"}, {"allow_missing": {}}]}}
    return {
        "name": JWT_AUTHN,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"test": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": requires}],
        },
    }
