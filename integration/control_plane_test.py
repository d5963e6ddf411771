"""Control plane, real Envoy and real engines: one directory of YAML configures them all (R-21, R-22)."""

from __future__ import annotations

import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from integration.harness import client
from integration.harness.certificates import CertificateAuthority
from integration.harness.control_plane import (
    ConfigurationDirectory,
    ControlPlane,
    DiscoveringEngine,
    DiscoveringEnvoy,
    Identity,
    lasting_port,
)
from integration.harness.envoy_binary import envoy_version
from integration.harness.processes import free_port
from integration.harness.upstream import Upstream

POLICIES = Path(__file__).parent.parent / "policies"


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not pytest's directory: the path of a Unix socket must be short (108 bytes, unix(7)).
    with tempfile.TemporaryDirectory(prefix="cp-", dir="/tmp") as name:
        yield Path(name)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def set_header(value: str, side: str = "response") -> dict[str, Any]:
    return {"name": "set-header", "version": "v1.0.0", "parameters": {side: {"set": {"x-version": value}}}}


def document(port: int, upstream: int, routes: list[dict[str, Any]], engine: Path | None = None) -> dict[str, Any]:
    return {
        "version": "v1",
        "listeners": [{"name": "http", "address": "127.0.0.1", "port": port}],
        "clusters": [{"name": "app", "endpoints": [f"127.0.0.1:{upstream}"]}],
        **({"engine": {"endpoints": [f"unix:{engine}"]}} if engine else {}),
        "routes": routes,
    }


def in_use(status: dict[str, Any]) -> bool:
    rollout = status["rollout"]
    return bool(rollout["stage"] == "in use" and rollout["version"] == status["configuration"]["version"])


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])
def test_envoy_gets_everything_from_the_control_plane_alone(directory: Path, delta: bool) -> None:
    configuration, port = ConfigurationDirectory(directory / "conf"), free_port()
    with Upstream() as upstream, Upstream() as other, ExitStack() as stack:
        routes = [{"name": "app", "match": {"prefix": "/"}, "cluster": "app"}]
        configuration.write(document(port, upstream.port, routes))
        plane = stack.enter_context(ControlPlane(directory, configuration.path))
        plane.ready()
        envoy = stack.enter_context(DiscoveringEnvoy(directory, control_plane_port=plane.port, delta=delta))
        envoy.ready()
        assert client.send(port, "GET", "/a").status == 200
        assert upstream.last().target == "/a"
        # A route to a new cluster, and the old cluster gone, in one edit.
        changed = document(port, other.port, [{**routes[0], "cluster": "app2"}])
        changed["clusters"][0]["name"] = "app2"
        before = plane.status()["configuration"]["version"]
        configuration.write(changed)
        status = plane.wait_for(lambda s: in_use(s) and s["configuration"]["version"] != before, "in use")
        (edge,) = status["clients"]
        assert edge["node"] == "edge-1"
        assert edge["user_agent"] == f"envoy {envoy_version()}"
        assert {name: state["state"] for name, state in edge["types"].items()} == dict.fromkeys(
            ("clusters", "endpoints", "listeners", "routes"), "current"
        )
        assert client.send(port, "GET", "/b").status == 200
        assert other.last().target == "/b"


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])
def test_one_edit_changes_envoy_and_engine(directory: Path, delta: bool) -> None:
    configuration, port = ConfigurationDirectory(directory / "conf"), free_port()
    with Upstream() as upstream, ExitStack() as stack:
        plane_port = lasting_port()
        engine = stack.enter_context(
            DiscoveringEngine(directory, "engine-1", control_plane_port=plane_port, policies=POLICIES, delta=delta)
        )

        def write(*routes: dict[str, Any]) -> None:
            configuration.write(document(port, upstream.port, list(routes), engine.address))

        plain = {"name": "plain", "match": {"prefix": "/plain"}, "cluster": "app"}
        marked = {"name": "marked", "match": {"prefix": "/marked"}, "cluster": "app", "chain": [set_header("1")]}
        write(plain, marked)
        plane = stack.enter_context(
            ControlPlane(directory, configuration.path, "--policies", POLICIES, port=plane_port)
        )
        plane.ready()
        engine.ready()
        envoy = stack.enter_context(DiscoveringEnvoy(directory, control_plane_port=plane.port, delta=delta))
        envoy.ready()
        assert client.send(port, "GET", "/marked").header("x-version") == "1"
        assert engine.admin.document("/management-server")["connected"]
        assert sum(engine.admin.samples("policy_engine_xds_connected").values()) == 1
        streams = _streams(engine)
        assert client.send(port, "GET", "/plain").status == 200
        assert _streams(engine) == streams, "a route without a chain must not reach the engine"
        # A new route with a chain, a changed chain, and a chain for a route that had none.
        before = plane.status()["configuration"]["version"]
        new = {"name": "new", "match": {"prefix": "/new"}, "cluster": "app", "chain": [set_header("3")]}
        write({**plain, "chain": [set_header("0")]}, {**marked, "chain": [set_header("2")]}, new)
        plane.wait_for(lambda s: in_use(s) and s["configuration"]["version"] != before, "in use")
        found = [client.send(port, "GET", f"/{name}").header("x-version") for name in ("plain", "marked", "new")]
        assert found == ["0", "2", "3"]
        # Removed again: Envoy first, then the engine.
        before = plane.status()["configuration"]["version"]
        write(marked)
        plane.wait_for(lambda s: in_use(s) and s["configuration"]["version"] != before, "in use")
        assert client.send(port, "GET", "/new").status == 404
        eventually(lambda: [one["route_key"] for one in engine.admin.document("/chains")["routes"]] == ["marked"])


def _streams(engine: DiscoveringEngine) -> float:
    return sum(engine.admin.samples("policy_engine_streams_total").values())


def test_mutual_tls_keeps_strangers_out(directory: Path) -> None:
    authority, configuration, port = (
        CertificateAuthority.create(),
        ConfigurationDirectory(directory / "conf"),
        free_port(),
    )
    (directory / "ca.pem").write_bytes(authority.certificate_pem)
    files = {name: authority.issue(directory, name) for name in ("plane", "edge-1", "engine-1")}
    plane_port = lasting_port()
    with Upstream() as upstream, ExitStack() as stack:
        engine = DiscoveringEngine(
            directory,
            "engine-1",
            control_plane_port=plane_port,
            policies=POLICIES,
            tls=Identity(directory / "ca.pem", *files["engine-1"]),
        )
        stack.enter_context(engine)
        marked = {"name": "marked", "match": {"prefix": "/"}, "cluster": "app", "chain": [set_header("1")]}
        configuration.write(document(port, upstream.port, [marked], engine.address))
        certificate, key = files["plane"]
        tls: list[str | Path] = [
            "--tls-certificate",
            certificate,
            "--tls-key",
            key,
            "--tls-client-ca",
            directory / "ca.pem",
        ]
        plane = stack.enter_context(ControlPlane(directory, configuration.path, *tls, port=plane_port))
        plane.ready()
        engine.ready()
        stack.enter_context(DiscoveringEnvoy(directory, control_plane_port=plane.port, node_id="stranger"))
        identity = Identity(directory / "ca.pem", *files["edge-1"])
        envoy = stack.enter_context(DiscoveringEnvoy(directory, control_plane_port=plane.port, tls=identity))
        envoy.ready()
        assert client.send(port, "GET", "/").header("x-version") == "1"
        assert {one["node"] for one in plane.status()["clients"]} == {"edge-1", "engine-1"}
        before = _certificate_of(plane.port, identity)
        authority.issue(directory, "plane")
        assert _certificate_of(plane.port, identity) != before, "a renewed certificate is used without a restart"


def _certificate_of(port: int, identity: Identity) -> bytes | None:
    context = ssl.create_default_context(cafile=str(identity.authority))
    context.load_cert_chain(identity.certificate, identity.key)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port)) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        return tls.getpeercert(binary_form=True)
