"""What `policy-engine envoy-config` writes, run: Envoy takes it, and each chain gets what it needs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.harness import client
from integration.harness.chain_file import ChainFile, chain, chains, policy
from integration.harness.engine import EngineProcess
from integration.harness.envoy import ARGUMENTS, Envoy, admin_port_from, is_ready
from integration.harness.envoy_binary import envoy_binary
from integration.harness.exchange import Answer
from integration.harness.processes import Process
from integration.harness.upstream import Upstream
from integration.runtime_stack import TEST_POLICIES, Runtime, eventually, scripted
from policy_engine.cli import main

CHAINS = chains(
    chain("empty"),
    chain("headers", scripted(request_headers={"set": {"x-a": "1"}})),
    chain("whole", scripted(request_body={"upper": True})),
    chain("stream", policy("streaming", "v1.0.0", {"side": "response"})),
)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    # Not pytest's directory: the path of a Unix socket must be short (108 bytes, unix(7)).
    with tempfile.TemporaryDirectory(prefix="ec-", dir="/tmp") as name, Upstream() as upstream:
        directory = Path(name)
        file = ChainFile(directory / "chains.yaml")
        file.write(CHAINS)
        with EngineProcess(directory, chains=file.path, policies=TEST_POLICIES) as engine:
            engine.ready()
            config = directory / "envoy.yaml"
            written_for = ("--chains", str(file.path), "--policies-directory", str(TEST_POLICIES))
            where = ("--engine", f"unix:{engine.address}", "--upstream", f"127.0.0.1:{upstream.port}")
            free = ("--ingress", "127.0.0.1:0", "--envoy-admin", "127.0.0.1:0", "--output", str(config))
            assert main(["envoy-config", "--bootstrap", *where, *free, *written_for]) == 0
            assert main(["envoy-config", "--lint", str(config), *written_for]) == 0
            admin = directory / "admin"
            argv: list[str | Path] = [envoy_binary(), *ARGUMENTS, "-c", config, "--admin-address-path", admin]
            env = {"PATH": os.environ.get("PATH", os.defpath)}
            with Process("envoy", argv, log_path=directory / "envoy.log", env=env) as proxy:
                proxy.wait_until(lambda: is_ready(admin_port_from(admin)), what="ready")
                port = admin_port_from(admin)
                assert port is not None
                yield Runtime(
                    envoy=Envoy(port),
                    proxy=proxy,  # type: ignore[arg-type] # nothing here uses what EnvoyProcess adds
                    engine=engine,
                    upstream=upstream,
                    chains=file,
                    access_log=directory / "access.log",
                )


def exchange(runtime: Runtime, name: str) -> tuple[client.Reply, dict[str, int]]:
    runtime.upstream.answer_with(Answer(headers=[("x-up", "1")], chunks=[b"answer", b" body"]))
    replies = []
    phases = runtime.phases_of(
        lambda: replies.append(runtime.send(f"/{name}/", method="POST", body=iter([b"request", b" body"])))
    )
    return replies[0], phases


def test_a_chain_gets_the_phases_it_needs(runtime: Runtime) -> None:
    eventually(lambda: runtime.send("/headers/").status == 200, "serving")
    assert exchange(runtime, "headers")[1] == {"request_headers": 1}
    reply, phases = exchange(runtime, "whole")
    assert (reply.status, bytes(runtime.upstream.last().body)) == (200, b"REQUEST BODY")
    assert phases == {"request_headers": 1, "request_body": 1}


def test_a_route_with_an_empty_chain_costs_no_message(runtime: Runtime) -> None:
    reply, phases = exchange(runtime, "empty")
    assert (reply.status, phases) == (200, {})


def test_a_chain_that_can_stream_is_streamed(runtime: Runtime) -> None:
    reply, phases = exchange(runtime, "stream")
    assert (reply.status, reply.body) == (200, b"ANSWER BODY")
    assert phases["response_body"] > 1
    assert "request_body" not in phases
