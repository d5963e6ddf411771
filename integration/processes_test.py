"""The end-to-end cases with Envoy and the engine as processes, joined by a Unix socket."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.end_to_end import ROUTES, EndToEnd, document, jwt_parameters
from integration.harness.certificates import CertificateAuthority
from integration.harness.chain_file import ChainFile
from integration.harness.engine import EngineProcess
from integration.harness.envoy import EnvoyProcess
from integration.harness.envoy_config import Bootstrap
from integration.harness.jwks import JwksServer
from integration.harness.stack import Stack
from integration.harness.tokens import Issuer
from integration.harness.upstream import Upstream

POLICIES = Path(__file__).parent.parent / "policies"


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    issuer, authority = Issuer(), CertificateAuthority.create()
    # Not pytest's directory: the path of a Unix socket must be short (108 bytes, unix(7)).
    with tempfile.TemporaryDirectory(prefix="it-", dir="/tmp") as name:
        directory = Path(name)
        (directory / "ca.pem").write_bytes(authority.certificate_pem)
        with JwksServer(issuer, authority, directory) as jwks, Upstream() as upstream:
            chains = ChainFile(directory / "chains.yaml")
            chains.write(document(jwt_parameters(jwks.url, str(directory / "ca.pem"))))
            with EngineProcess(directory, chains=chains.path, policies=POLICIES) as engine:
                engine.ready()
                bootstrap = Bootstrap(routes=ROUTES, engine=engine.address, upstream_port=upstream.port)
                with EnvoyProcess(bootstrap, directory) as proxy:
                    yield Stack(
                        envoy=proxy.ready(),
                        proxy=proxy,
                        engine=engine,
                        admin=engine.admin,
                        upstream=upstream,
                        issuer=issuer,
                        jwks=jwks,
                        chains=chains,
                    )


class TestProcesses(EndToEnd):
    """All cases."""
