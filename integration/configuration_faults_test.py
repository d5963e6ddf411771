"""Engine and control plane as processes, and what goes wrong around their configuration (R-20 to R-22, R-50, R-54)."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from integration.harness import client
from integration.harness.chain_file import ChainFile, chain, chains, policy
from integration.harness.control_plane import (
    ConfigurationDirectory,
    ControlPlane,
    DiscoveringEngine,
    Document,
    lasting_port,
)
from integration.harness.engine import EngineProcess
from integration.harness.processes import free_port, python_program
from testsupport.envoy_messages import parse, request_headers, response_headers

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
POLICIES = Path(__file__).parent.parent / "policies"

MANIFEST = """\
name: waiting
version: v1.0.0
description: Its constructor waits for something that never comes, when it is told to.
entrypoint: policy:Waiting
phases: [request_headers]
parameters: {type: object, properties: {wait: {type: boolean, default: false}}}
"""
CODE = """\
import socket

from policy_engine.sdk import Policy


class Waiting(Policy):
    def __init__(self, parameters):
        if parameters["wait"]:
            mine, self.theirs = socket.socketpair()
            mine.recv(1)

    def on_request_headers(self, request):
        return None
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not pytest's directory: the path of a Unix socket must be short (108 bytes, unix(7)).
    with tempfile.TemporaryDirectory(prefix="cf-", dir="/tmp") as name:
        yield Path(name)


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30.0
    while not holds():
        assert time.monotonic() < deadline, f"not {what}"
        time.sleep(0.02)


def active(engine: EngineProcess | DiscoveringEngine) -> list[str]:
    """Return the route keys of the configuration in use."""
    return [one["route_key"] for one in engine.admin.document("/chains")["routes"]]


def test_a_constructor_that_never_returns_holds_up_neither_validation_nor_engine(directory: Path) -> None:
    own = directory / "policies" / "waiting" / "v1_0_0"
    own.mkdir(parents=True)
    (own / "policy.yaml").write_text(MANIFEST)
    (own / "policy.py").write_text(CODE)
    file = ChainFile(directory / "chains.yaml")
    file.write(chains(chain("a", policy("waiting", "v1"))))
    env = {"POLICY_ENGINE_CONSTRUCTION_TIMEOUT": "1s"}
    with EngineProcess(directory, chains=file.path, policies=own.parent.parent, env=env) as engine:
        engine.ready()
        file.write(chains(chain("b", policy("waiting", "v1", {"wait": True}))))
        reason = "waiting v1.0.0: its constructor did not return within 1 s; it is at"
        engine.wait_until(lambda: reason in engine.log(), what="refusing")
        assert (active(engine), engine.admin.is_ready()) == (["a"], True)
        command, base = python_program("policy_engine", "validate", file.path)
        policies = {"POLICY_ENGINE_POLICIES_DIRECTORY": str(own.parent.parent)}
        found = subprocess.run(
            command, env={**base, **env, **policies}, capture_output=True, text=True, timeout=30, check=False
        )
        assert found.returncode == 1
        assert reason in found.stdout
        file.write(chains(chain("c", policy("waiting", "v1"))))
        until(lambda: active(engine) == ["c"], "mended")
        assert engine.stop() == 0


def test_the_engine_ends_in_time_while_a_constructor_hangs(directory: Path) -> None:
    own = directory / "policies" / "waiting" / "v1_0_0"
    own.mkdir(parents=True)
    (own / "policy.yaml").write_text(MANIFEST)
    (own / "policy.py").write_text(CODE)
    file = ChainFile(directory / "chains.yaml")
    file.write(chains(chain("b", policy("waiting", "v1", {"wait": True}))))
    env = {"POLICY_ENGINE_CONSTRUCTION_TIMEOUT": "300s"}
    with EngineProcess(directory, chains=file.path, policies=own.parent.parent, env=env) as engine:
        engine.wait_until(lambda: "not ready" not in engine.log() and _serves(engine), what="up")
        time.sleep(1.0)
        assert not engine.admin.is_ready()
        began = time.monotonic()
        assert engine.stop(timeout_s=30.0) == 0, engine.log()
        assert time.monotonic() - began < 20.0


def _serves(engine: EngineProcess) -> bool:
    return bool(engine.admin.document("/workers"))


def test_a_directory_that_goes_and_comes_back(directory: Path) -> None:
    folder = directory / "chains"
    folder.mkdir()
    ChainFile(folder / "one.yaml").write(chains(chain("a")))
    ChainFile(folder / "two.yaml").write(chains(chain("b")))
    with EngineProcess(directory, chains=folder, policies=POLICIES) as engine:
        engine.ready()
        assert active(engine) == ["a", "b"]
        (folder / "two.yaml").unlink()
        until(lambda: active(engine) == ["a"], "without the deleted file")
        shutil.rmtree(folder)
        engine.wait_until(lambda: "No such file or directory" in engine.log(), what="missing its directory")
        assert (active(engine), engine.admin.is_ready()) == (["a"], True)
        new = directory / "new"
        new.mkdir()
        ChainFile(new / "three.yaml").write(chains(chain("c")))
        new.rename(folder)
        until(lambda: active(engine) == ["c"], "with the new directory")
        (folder / "three.yaml").unlink()
        engine.wait_until(lambda: "holds no chain file" in engine.log(), what="missing its files")
        assert (active(engine), engine.admin.is_ready()) == (["c"], True)


def test_a_draining_engine_is_alive_and_not_ready(directory: Path) -> None:
    file = ChainFile(directory / "chains.yaml")
    mark: Document = {side: {"set": {"x-mark": "1"}} for side in ("request", "response")}
    file.write(chains(chain("r", policy("set-header", "v1", mark))))
    with EngineProcess(directory, chains=file.path, policies=POLICIES) as engine:
        engine.ready()
        with grpc.insecure_channel(f"unix:{engine.address}") as channel:
            to_send: queue.Queue[bytes | None] = queue.Queue()
            process: Any = channel.stream_stream(PROCESS, None, None)
            replies = process(iter(to_send.get, None), timeout=30)
            to_send.put(request_headers())
            next(replies)
            os.kill(engine.pid, signal.SIGTERM)
            until(lambda: not engine.admin.is_ready(), "not ready")
            assert client.send(engine.admin.port, "GET", "/readyz").body == b"not ready: draining\n"
            assert client.send(engine.admin.port, "GET", "/livez").status == 200
            # The request in flight is finished all the same.
            to_send.put(response_headers())
            assert parse(next(replies)).response_headers.response.header_mutation.set_headers[0].header.key == "x-mark"
            to_send.put(None)
            assert list(replies) == []
        assert engine.wait(20.0) == 0


def routes(*names: str) -> Document:
    header: Document = {"response": {"set": {"x-mark": "1"}}}
    entry = policy("set-header", "v1.0.0", header)
    return {
        "version": "v1",
        "listeners": [{"name": "http", "address": "127.0.0.1", "port": free_port()}],
        "clusters": [{"name": "app", "endpoints": ["127.0.0.1:9"]}],
        "engine": {"endpoints": ["unix:/nowhere"]},
        "routes": [
            {"name": name, "match": {"prefix": f"/{name}/"}, "cluster": "app", "chain": [entry]} for name in names
        ],
    }


def test_replicas_serve_the_same_and_an_engine_goes_from_one_to_the_other(directory: Path) -> None:
    configuration = ConfigurationDirectory(directory / "conf")
    configuration.write(routes("a", "b"))
    with ExitStack() as stack:
        ports = [lasting_port(), lasting_port()]
        planes = []
        for number, port in enumerate(ports):
            (directory / str(number)).mkdir()
            plane = ControlPlane(directory / str(number), configuration.path, "--policies", POLICIES, port=port)
            planes.append(stack.enter_context(plane))
        engines = []
        for number, port in enumerate(ports):
            engine = DiscoveringEngine(directory, f"engine-{number}", control_plane_port=port, policies=POLICIES)
            engines.append(stack.enter_context(engine))
        for plane in planes:
            plane.ready()
        for engine in engines:
            engine.ready()

        def versions() -> set[str]:
            return {str((one.status()["configuration"]["version"], one.status()["resources"])) for one in planes}

        until(lambda: len(versions()) == 1, "the same in both replicas")
        before = versions()
        configuration.write(routes("a", "b", "c"))
        until(lambda: len(versions()) == 1 and versions() != before, "the same in both replicas after a change")
        until(lambda: all(active(engine) == ["a", "b", "c"] for engine in engines), "in both engines")
        # The first replica dies; its engine finds the second at the same address, as behind a load balancer.
        planes[0].stop(sign=signal.SIGKILL)
        responses = engines[0].admin.document("/management-server")["responses"]
        third = ControlPlane(directory / "1", configuration.path, "--policies", POLICIES, port=ports[0])
        stack.enter_context(third)
        third.ready()
        until(lambda: engines[0].admin.document("/management-server")["connected"], "connected again")
        third.wait_for(lambda status: bool(status["clients"]) and _current(status), "the engine is up to date")
        assert active(engines[0]) == ["a", "b", "c"]
        history = engines[0].admin.history()
        assert sum(event["outcome"] == "active" for event in history["events"]) == 2, "nothing was applied again"
        assert engines[0].admin.document("/management-server")["responses"] - responses <= 1


def _current(status: Document) -> bool:
    return all(state["state"] == "current" for one in status["clients"] for state in one["types"].values())
