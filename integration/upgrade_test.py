"""`policy-engine upgrade` of the one engine behind a real Envoy, under load: no request is lost, whatever goes wrong.

With 500 requests a second, and longer: `python -m integration.faults --only engine-upgraded` (integration/README.md).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration.harness import client
from integration.harness.chain_file import ChainFile, chain, chains
from integration.harness.engine import EngineProcess
from integration.harness.generated_envoy import envoy_for
from integration.harness.load import Load
from integration.harness.marked import GOOD, MARKING, outcome, until
from integration.harness.processes import free_port
from integration.harness.upstream_process import UpstreamProcess
from integration.runtime_stack import TEST_POLICIES, scripted

LISTEN = {
    "a Unix socket of each worker process": "unix:{0}/w{{worker}}.sock",
    "a TCP port of all": "127.0.0.1:{1}",
}
WORKERS = 2
CONNECTIONS = 8
CHAINS = chains(chain("r", scripted(**MARKING)))


@dataclass(slots=True)
class Site:
    """The engine, and Envoy in front of it at `port`."""

    engine: EngineProcess
    chains: ChainFile
    port: int

    def load(self) -> Load:
        """Return a load of requests with bodies whose chain takes a moment on both sides."""
        return Load(self.port, lambda one: one.send("POST", "/r/x", body=b"text"), outcome, workers=CONNECTIONS)

    def gets_sockets(self, command: subprocess.Popen[str], count: int = 1) -> int:
        """Return the process id of the new engine once it has the sockets."""
        until(lambda: len(self.engine.successors) >= count or command.poll() is not None, "handing over")
        assert command.poll() is None, command.communicate()
        return self.engine.successors[-1]


@contextmanager
def site(listen: str = "a Unix socket of each worker process") -> Iterator[Site]:
    # Not pytest's directory: the path of a Unix socket must be short (108 bytes, unix(7)).
    with tempfile.TemporaryDirectory(prefix="up-", dir="/tmp") as name:
        directory = Path(name)
        file = ChainFile(directory / "chains.yaml")
        file.write(CHAINS)
        port = free_port()
        env = {
            "POLICY_ENGINE_LISTEN": LISTEN[listen].format(directory, port),
            "POLICY_ENGINE_WORKERS": str(WORKERS),
            "POLICY_ENGINE_UPGRADE_SOCKET": f"{directory}/upgrade.sock",
            "POLICY_ENGINE_HEALTH_LISTEN": f"127.0.0.1:{free_port()}",
            "NOTIFY_SOCKET": f"{directory}/notify",
        }
        own = [directory / f"w{number}.sock" for number in range(WORKERS)]
        addresses: Sequence[int | Path] = [port] if "TCP" in listen else own
        engine = EngineProcess(directory, chains=file.path, policies=TEST_POLICIES, env=env)
        try:
            engine.ready()
            with (
                UpstreamProcess(directory) as upstream,
                envoy_for(directory, addresses, upstream.ready(), TEST_POLICIES) as envoy,
            ):
                until(lambda: client.send(envoy.port, target="/r/x").status == 200, "serving")
                yield Site(engine, file, envoy.port)
        finally:
            engine.stop()


@pytest.mark.parametrize("listen", LISTEN)
def test_two_upgrades_lose_no_request(listen: str) -> None:
    with site(listen) as running, running.load() as load:
        engine = running.engine
        load.wait_for(GOOD, 20)
        for _ in range(2):
            before = engine.admin.document("/workers")["processes"]
            status, output = engine.upgrade()
            assert status == 0, output
            assert (
                output
                == f"process {engine.successors[-1]} serves; process {before_of(engine)} finishes what it is working on\n"
            )
            load.wait_for(GOOD, 20)
            assert {one["pid"] for one in before}.isdisjoint(pids(engine))
            assert engine.admin.is_ready()
        assert engine.wait(30.0) == 0
        load.wait_for(GOOD, 20)
    assert set(load.outcomes) == {GOOD}, load.outcomes


def before_of(engine: EngineProcess) -> int:
    return [engine.pid, *engine.successors][-2]


def pids(engine: EngineProcess) -> set[int]:
    return {one["pid"] for one in engine.admin.document("/workers")["processes"]}


def test_a_new_engine_that_cannot_serve_changes_nothing_and_says_why() -> None:
    with site() as running, running.load() as load:
        engine = running.engine
        serving = pids(engine)
        other = running.chains.path.with_name("other.yaml")
        ChainFile(other).write(chains(chain("r", scripted(no_such_parameter=1))))
        attempts = {
            ("--chains", str(other)): "no_such_parameter",
            ("--workers", "0"): "workers",
            ("--policies-directory", "/no/such"): "/no/such",
            # What it may not have keeps it waiting; what it may, it serves meanwhile, and lets go again.
            ("--listen", f"unix:{running.chains.path.parent}/w{{worker}}.sock,127.0.0.1:{engine.admin.port}"): "in use",
        }
        for flags, why in attempts.items():
            status, output = engine.upgrade(*flags, "--ready-within", "10s" if "in use" in why else "60s")
            assert status in (1, 2), output
            assert why in output
            # Settings are looked at before anything is begun.
            assert status == 2 or "goes on as before" in output
            load.wait_for(GOOD, 20)
        assert pids(engine) == serving
    assert set(load.outcomes) == {GOOD}, load.outcomes


def test_one_at_a_time_and_whoever_dies_on_the_way() -> None:
    with site() as running:
        engine = running.engine
        with running.load() as load:
            load.wait_for(GOOD, 20)
            # The new one killed: the one that runs goes on.
            with engine.start_upgrade() as command:
                os.kill(running.gets_sockets(command), signal.SIGKILL)
                output, _ = command.communicate(timeout=60)
            assert command.returncode == 1
            assert "ended by SIGKILL before it was ready" in output
            load.wait_for(GOOD, 20)
            # A second one meanwhile, and the command interrupted: the new one gives up.
            with engine.start_upgrade() as command:
                new = running.gets_sockets(command, 2)
                os.kill(new, signal.SIGSTOP)
                status, refused = engine.upgrade()
                assert (status, "another upgrade is under way" in refused) == (1, True), refused
                command.send_signal(signal.SIGTERM)
                command.wait(timeout=60)
                os.kill(new, signal.SIGCONT)
                output, _ = command.communicate(timeout=60)
            assert (command.returncode, "interrupted" in output) == (1, True), output
            until(lambda: "the command that started this engine was interrupted" in engine.log(), "given up")
            load.wait_for(GOOD, 20)
        assert set(load.outcomes) == {GOOD}, load.outcomes
        # The one that runs killed: the new one serves alone.
        with engine.start_upgrade() as command:
            new = running.gets_sockets(command, 3)
            os.kill(new, signal.SIGSTOP)
            os.kill(engine.pid, signal.SIGKILL)
            engine.wait(30.0)
            os.kill(new, signal.SIGCONT)
            output, _ = command.communicate(timeout=60)
        assert command.returncode == 0, output
        until(lambda: client.send(running.port, target="/r/x").status == 200, "serving")
        # And can be taken over from in its turn.
        assert engine.upgrade()[0] == 0


def test_systemd_is_told_who_the_service_is() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="up-", dir="/tmp") as name,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        directory = Path(name)
        ChainFile(directory / "chains.yaml").write(CHAINS)
        manager.bind(f"{directory}/notify")
        manager.settimeout(60)
        env = {
            "POLICY_ENGINE_UPGRADE_SOCKET": f"{directory}/upgrade.sock",
            "NOTIFY_SOCKET": f"{directory}/notify",
        }
        engine = EngineProcess(directory, chains=directory / "chains.yaml", policies=TEST_POLICIES, env=env)
        try:
            told: list[str] = []

            def tells(what: str) -> None:
                while what not in told:
                    told.extend(manager.recv(4096).decode().splitlines())

            tells("READY=1")
            os.kill(engine.pid, signal.SIGHUP)
            tells("RELOADING=1")
            tells("READY=1")
            del told[:]
            assert engine.upgrade()[0] == 0
            tells(f"MAINPID={engine.successors[0]}")
            tells("READY=1")
            assert engine.wait(30.0) == 0
            assert "STOPPING=1" not in told
            os.kill(engine.successors[0], signal.SIGTERM)
            tells("STOPPING=1")
        finally:
            engine.stop()
