"""What one engine says of itself as a process: a clean start, addresses in use, links of Kubernetes, code that changed."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.harness.chain_file import ChainFile, chain, chains, policy
from integration.harness.client import send
from integration.harness.engine import EngineProcess
from integration.harness.processes import ProcessError
from integration.runtime_stack import TEST_POLICIES


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not pytest's directory: the path of a Unix socket must be short (108 bytes, unix(7)).
    with tempfile.TemporaryDirectory(prefix="ep-", dir="/tmp") as name:
        ChainFile(Path(name) / "chains.yaml").write(chains(chain("r", policy("holding", "v1"))))
        yield Path(name)


@pytest.fixture(params=["native", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def engine_in(directory: Path, policies: Path = TEST_POLICIES, *, tcp: bool = False, **env: Any) -> EngineProcess:
    variables = {f"POLICY_ENGINE_{name}": value for name, value in env.items()}
    return EngineProcess(directory, chains=directory / "chains.yaml", policies=policies, env=variables, tcp=tcp)


def lines(engine: EngineProcess) -> list[dict[str, Any]]:
    """Return the log; every line of it is JSON."""
    return [json.loads(line) for line in engine.log().splitlines()]


def until(holds: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + 30.0
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def test_a_start_says_what_is_so_and_nothing_else(directory: Path, transport: str) -> None:
    with engine_in(directory, tcp=True, TRANSPORT=transport, WORKERS="2") as engine:
        engine.ready()
        assert engine.stop() == 0
        told = lines(engine)
    assert {one["level"] for one in told} == {"info"}, told
    readiness = [one["message"] for one in told if one.get("event") == "readiness"]
    assert [one for one in readiness if "no valid configuration" not in one] == ["ready", "not ready: draining"]
    assert sum(one["message"] == "ready" for one in told) == 1


def test_an_engine_without_a_configuration_says_so(directory: Path) -> None:
    (directory / "chains.yaml").unlink()
    with engine_in(directory) as engine:
        until(lambda: "not ready: no valid configuration yet" in engine.log(), engine.log)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_ext_proc_address_in_use_is_waited_for(directory: Path, workers: str) -> None:
    with engine_in(directory, tcp=True, WORKERS=workers) as engine:
        pass
    with socket.create_server(("127.0.0.1", int(str(engine.address)))):
        env: dict[str, Any] = {"WORKERS": workers, "LISTEN": f"127.0.0.1:{engine.address}"}
        with engine_in(directory, **env) as second:
            until(lambda: "trying again" in second.log(), second.log)
            until(lambda: "cannot listen" in send(second.admin.port, target="/readyz").body.decode(), second.log)
            assert send(second.admin.port, target="/readyz").status == 503
            assert send(second.admin.port, target="/livez").status == 200
    with engine_in(directory, **env) as third:
        third.ready()
        assert third.admin.history()["rejected"] == 0


def test_an_engine_begins_to_serve_when_its_address_is_free(directory: Path, transport: str) -> None:
    blocking = socket.create_server(("127.0.0.1", 0))
    env: dict[str, Any] = {"LISTEN": f"127.0.0.1:{blocking.getsockname()[1]}", "TRANSPORT": transport}
    with engine_in(directory, **env) as engine:
        until(lambda: "trying again" in engine.log(), engine.log)
        blocking.close()
        engine.ready()
        assert engine.admin.history()["rejected"] == 0
        assert "refused" not in engine.log()


@pytest.mark.parametrize("setting", ["admin.listen", "health.listen"])
def test_a_page_address_in_use_ends_the_engine_with_the_reason(directory: Path, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        env: dict[str, Any] = {setting.replace(".", "_").upper(): address}
        with engine_in(directory, **env) as engine:
            assert engine.wait(20) == 1
            assert f"policy-engine: {setting}: cannot listen on {address}" in engine.log()


def test_a_certificate_that_is_not_there_ends_the_engine_and_is_not_blamed_on_the_chains(directory: Path) -> None:
    with engine_in(directory, TLS_CERT="/nowhere/cert.pem", TLS_KEY="/nowhere/key.pem") as engine:
        assert engine.wait(20) == 1
        assert "/nowhere/cert.pem" in engine.log()
        assert "chains.yaml" not in engine.log()


def test_links_of_kubernetes_are_ignored_and_a_typo_is_not(directory: Path) -> None:
    links: dict[str, Any] = {"METRICS_SERVICE_HOST": "10.0.0.7", "METRICS_PORT": "tcp://10.0.0.7:9001"}
    with engine_in(directory, LOG_LEVEL="debug", **links) as engine:
        engine.ready()
        ignored = [one for one in lines(engine) if "Kubernetes" in one["message"]]
        assert [one["level"] for one in ignored] == ["debug"] * 2
    with engine_in(directory, METRICS_SERVICE_HOTS="10.0.0.7") as engine, pytest.raises(ProcessError):
        engine.ready()


def test_metrics_tell_of_every_process(directory: Path) -> None:
    with engine_in(directory, WORKERS="2") as engine:
        engine.ready()
        page = engine.admin.metrics()
        assert engine.admin.samples("policy_engine_workers_wanted", page) == {(): 2}
        assert set(engine.admin.samples("policy_engine_process_open_fds", page)) == {
            (("process", name),) for name in ("supervisor", "fork-server", "worker-0", "worker-1")
        }
        assert len(engine.admin.samples("policy_engine_build_info", page)) == 1


def test_sighup_names_policies_whose_code_is_not_what_runs(directory: Path) -> None:
    policies = directory / "policies"
    shutil.copytree(TEST_POLICIES, policies)
    with engine_in(directory, policies) as engine:
        engine.ready()
        engine_log = engine.log
        os.kill(engine.pid, signal.SIGHUP)
        until(lambda: engine_log().count("is active in") == 2, engine_log)
        assert "policies on disk" not in engine_log()
        changed = policies / "holding" / "v1_0_0" / "policy.py"
        changed.write_text(changed.read_text() + "\n")
        new = policies / "holding" / "v1_1_0"
        shutil.copytree(changed.parent, new)
        shutil.rmtree(policies / "hanging")
        os.kill(engine.pid, signal.SIGHUP)
        until(lambda: "policies on disk" in engine_log(), engine_log)
        (line,) = [one for one in lines(engine) if one.get("event") == "policies_changed"]
        expected = ["hanging/v1_0_0 (removed)", "holding/v1_0_0 (changed)", "holding/v1_1_0 (new)"]
        assert (line["level"], line["problems"]) == ("warning", expected)


def test_without_file_descriptors_the_log_stays_short(directory: Path, transport: str) -> None:
    with engine_in(directory, tcp=True, TRANSPORT=transport) as engine:
        engine.ready()
        (worker,) = [one["pid"] for one in engine.admin.document("/workers")["processes"]]
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (64, 64))
        before = len(lines(engine))
        with contextlib.ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(socket.create_connection(("127.0.0.1", int(str(engine.address)))))
            time.sleep(3)
            told = lines(engine)[before:]
            assert len(told) <= 2, told[:5]
        engine.ready()
