"""The end-to-end cases with Envoy and the engine as processes, joined by a Unix socket."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.end_to_end import ROUTES, EndToEnd, document, jwt_parameters
from integration.harness.certificates import CertificateAuthority
from integration.harness.chain_file import ChainFile, chain
from integration.harness.chain_file import chains as chains_of
from integration.harness.client import send
from integration.harness.engine import EngineProcess
from integration.harness.envoy import EnvoyProcess
from integration.harness.envoy_config import Bootstrap
from integration.harness.jwks import JwksServer
from integration.harness.stack import TAKES_EFFECT_S, Stack
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


def test_no_request_passes_before_there_is_a_good_chain_file(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="it-", dir="/tmp") as name, Upstream() as upstream:
        chains = ChainFile(Path(name) / "chains.yaml")
        chains.write_text("version: v1\nroutes: [{route_key: open, policys: []}]\n")
        with EngineProcess(Path(name), chains=chains.path, policies=POLICIES) as engine:
            engine.wait_until(lambda: "policys" in engine.log(), what="reporting its chain file")
            bootstrap = Bootstrap(routes=ROUTES, engine=engine.address, upstream_port=upstream.port)
            with EnvoyProcess(bootstrap, tmp_path) as proxy:
                envoy = proxy.ready()
                denied = send(envoy.port, "GET", "/open")
                assert (engine.admin.is_ready(), upstream.received) == (False, [])
                chains.write(chains_of(chain("open")))
                engine.ready()
                allowed = send(envoy.port, "GET", "/open")
    assert (denied.status in {500, 503}, allowed.status) == (True, 200)


def test_no_request_passes_without_an_engine_and_all_do_once_it_is_back(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="it-", dir="/tmp") as name, Upstream() as upstream:
        chains = ChainFile(Path(name) / "chains.yaml")
        chains.write(chains_of(chain("open")))
        first = EngineProcess(Path(name), chains=chains.path, policies=POLICIES)
        with first:
            first.ready()
            bootstrap = Bootstrap(routes=ROUTES, engine=first.address, upstream_port=upstream.port)
            with EnvoyProcess(bootstrap, tmp_path) as proxy:
                envoy = proxy.ready()
                assert send(envoy.port, "GET", "/open").status == 200
                first.stop(sign=signal.SIGKILL)
                reached = len(upstream.received)
                assert send(envoy.port, "GET", "/open").status in {500, 503}
                assert len(upstream.received) == reached
                with EngineProcess(Path(name), chains=chains.path, policies=POLICIES) as second:
                    second.ready()
                    deadline = time.monotonic() + TAKES_EFFECT_S
                    while send(envoy.port, "GET", "/open").status != 200:
                        assert time.monotonic() < deadline, proxy.log()


def test_engine_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="it-", dir="/tmp") as name:
        chains = ChainFile(Path(name) / "chains.yaml")
        chains.write(chains_of(chain("open")))
        engine = EngineProcess(Path(name), chains=chains.path, policies=POLICIES)
        with engine:
            engine.ready()
            assert engine.stop() == 0, engine.log()


class TestProcesses(EndToEnd):
    """All cases."""
