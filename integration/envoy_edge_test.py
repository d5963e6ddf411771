"""What stands at the edge, run: Envoy's own answers, one spelling of hosts and headers, names that stay names."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.harness import client
from integration.harness.client_h2 import send_h2
from integration.harness.envoy import validates
from integration.runtime_stack import Runtime, connection_manager, eventually, generated, scripted
from policy_engine.cli import main

SETS = scripted(request_headers={"set": {"x-user": "alice"}}, response_headers={"set": {"x-policy": "1"}})
CHAINS = {
    "headers": [SETS],
    "n": [SETS],
    "Yes": [SETS],
    "1e3": [SETS],
}


def _hosts(config: Any) -> None:
    """As an operator would: one host of its own, whose route has the policies; all others have none."""
    manager = connection_manager(config)
    (everywhere,) = manager["route_config"]["virtual_hosts"]
    (headers,) = [route for route in everywhere["routes"] if route.get("name") == "headers"]
    api = {"name": "api", "domains": ["api.example.com"], "routes": [{**headers, "match": {"prefix": "/"}}]}
    manager["route_config"]["virtual_hosts"] = [everywhere, api]


@pytest.fixture(scope="module")
def runtime(transport: str) -> Iterator[Runtime]:
    with generated(CHAINS, transport=transport, change=_hosts) as runtime:
        eventually(lambda: runtime.send("/headers").status == 200, "serving")
        yield runtime


def _raw(runtime: Runtime, request: bytes) -> bytes:
    """The first bytes that come back; the client's side stays open, or Envoy would not answer."""
    with socket.create_connection(("127.0.0.1", runtime.envoy.port), 10) as sock:
        sock.sendall(request)
        return sock.recv(65536)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /headers HTTP/1.1\r\n\r\n", 400),
        (b"GET /headers HTTP/1.1\r\nhost: a\r\nx y: 1\r\n\r\n", 400),
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET /headers HTTP/1.0\r\n\r\n", 426),
        (b"GET /headers HTTP/1.1\r\nhost: a\r\nx-long: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /nowhere HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", 404),
        (b"GET /headers/a%2Fb HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", 400),
        (b"GET /headers HTTP/1.1\r\nhost: a\r\nx_user: admin\r\nconnection: close\r\n\r\n", 400),
    ],
)
def test_what_envoy_answers_by_itself_reaches_the_client(runtime: Runtime, request_bytes: bytes, status: int) -> None:
    unmapped = runtime.value("policy_engine_unmapped_requests_total")
    answer = _raw(runtime, request_bytes)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
    assert runtime.value("policy_engine_unmapped_requests_total") == unmapped


@pytest.mark.parametrize(
    "host",
    ["api.example.com", "API.example.com", "api.example.com.", "api.example.com:8443", "Api.Example.com.:80"],
)
def test_spellings_of_a_host_are_one_host(runtime: Runtime, host: str) -> None:
    reply = runtime.send("/anything", headers=[("host", host)])
    assert (reply.status, reply.header("x-policy")) == (200, "1")
    assert ["x-user", "alice"] in json.loads(reply.body)["headers"]


def test_a_header_with_an_underscore_is_refused_over_http2_too(runtime: Runtime) -> None:
    received = len(runtime.upstream.received)
    with pytest.raises(client.ClientError):
        send_h2(runtime.envoy.port, "GET", "/headers", headers=[("x_user", "admin")])
    assert len(runtime.upstream.received) == received


@pytest.mark.parametrize("name", ["n", "Yes", "1e3"])
def test_a_route_key_that_looks_like_something_else_is_a_route(runtime: Runtime, name: str) -> None:
    assert runtime.send(f"/{name}").header("x-policy") == "1"


ODD = ("n", "y", "N", "No", "YES", "on", "~", "null", "1e3", "0x1F", ".5", "1_000", "0x1p3", "-1", "2026-11-24", "1:30")


def test_envoy_takes_whatever_route_keys_there_are(tmp_path: Path) -> None:
    chains = tmp_path / "chains.yaml"
    chains.write_text(json.dumps({"version": "v1", "routes": [{"route_key": key, "policies": []} for key in ODD]}))
    for flags in (("--bootstrap",), ("--bootstrap", "--metadata-namespace", "y")):
        written = tmp_path / "envoy.yaml"
        assert main(["envoy-config", *flags, "--chains", str(chains), "--output", str(written)]) == 0
        accepted, said = validates(written, tmp_path)
        assert accepted, said


def test_a_request_for_no_route_is_404_without_the_generated_last_route(transport: str) -> None:
    def without_last(config: Any) -> None:
        del connection_manager(config)["route_config"]["virtual_hosts"][0]["routes"][-1]

    with generated({"headers": [SETS]}, transport=transport, change=without_last) as runtime:
        reply = runtime.send("/nowhere")
        assert reply.status == 404
        assert "ERROR" not in runtime.engine.log().upper().replace('"LEVEL": "INFO"', "")
