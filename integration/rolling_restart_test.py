"""Engines are drained, replaced and killed under steady load through Envoy: which requests that costs (R-54).

Envoy runs what `policy-engine envoy-config` writes for two engines, as an operator in file mode would use it.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from integration.harness import client
from integration.harness.chain_file import ChainFile, chain, chains
from integration.harness.client import Connection, Reply
from integration.harness.engine import EngineProcess
from integration.harness.envoy import Envoy
from integration.harness.generated_envoy import envoy_for
from integration.harness.load import Load
from integration.harness.marked import GOOD, MARKING, outcome, until
from integration.harness.upstream_process import UpstreamProcess
from integration.runtime_stack import TEST_POLICIES, scripted
from policy_engine.envoy.filter_config import ENGINE_CLUSTER

CONNECTIONS = 8
HEALTH_CHECK_S = 1.5
"""A little more than the interval of Envoy's health checks."""


CHAINS = chains(chain("r", scripted(**MARKING)))


@dataclass(slots=True)
class Site:
    """Two engines behind one Envoy."""

    directory: Path
    engines: list[EngineProcess]
    transport: str
    envoy: Envoy | None = None

    def start(self, number: int, workers: int = 1) -> EngineProcess:
        """Start engine `number`, the first time or again, where it was."""
        own = self.directory / str(number)
        own.mkdir(exist_ok=True)
        env = {"POLICY_ENGINE_TRANSPORT": self.transport, "POLICY_ENGINE_WORKERS": str(workers)}
        engine = EngineProcess(own, chains=self.directory / "chains.yaml", policies=TEST_POLICIES, env=env)
        engine.ready()
        return engine

    def wait_for_health_checks(self) -> None:
        """Wait as an orchestrator does: the next engine goes when Envoy finds this one healthy, late on a busy machine."""
        envoy = self.envoy
        assert envoy is not None
        time.sleep(HEALTH_CHECK_S)
        healthy = f"cluster.{ENGINE_CLUSTER}.membership_healthy"
        until(lambda: envoy.counter(healthy) == len(self.engines), "healthy for Envoy")

    def load(self) -> Load:
        """Return a load of requests with bodies whose chain marks request and response."""

        def request(connection: Connection) -> Reply:
            return connection.send("POST", "/r/x", body=b"text")

        assert self.envoy is not None
        return Load(self.envoy.port, request, outcome, workers=CONNECTIONS)


@contextmanager
def site(transport: str, workers: int = 1) -> Iterator[Site]:
    # Not pytest's directory: the path of a Unix socket must be short (108 bytes, unix(7)).
    with tempfile.TemporaryDirectory(prefix="rr-", dir="/tmp") as name:
        directory = Path(name)
        ChainFile(directory / "chains.yaml").write(CHAINS)
        running = Site(directory, [], transport)
        try:
            running.engines = [running.start(number, workers) for number in (0, 1)]
            with UpstreamProcess(directory) as upstream:
                addresses = [engine.address for engine in running.engines]
                with envoy_for(directory, addresses, upstream.ready(), TEST_POLICIES) as envoy:
                    running.envoy = envoy
                    until(lambda: client.send(envoy.port, target="/r/x").status == 200, "serving")
                    yield running
        finally:
            for engine in running.engines:
                engine.stop()


def test_a_rolling_restart_loses_no_request(transport: str) -> None:
    with site(transport) as running, running.load() as load:
        load.wait_for(GOOD, 50)
        for number in (0, 1):
            assert running.engines[number].stop() == 0
            load.wait_for(GOOD, 50)
            running.engines[number] = running.start(number)
            running.wait_for_health_checks()
    assert set(load.outcomes) == {GOOD}, load.outcomes


def test_a_worker_that_is_killed_costs_at_most_what_it_was_working_on(transport: str) -> None:
    with site(transport) as running, running.load() as load:
        load.wait_for(GOOD, 50)
        for number in (0, 1):
            engine = running.engines[number]
            os.kill(worker_of(engine), signal.SIGKILL)
            load.wait_for(GOOD, 50)
            until(engine.admin.is_ready, "ready again")
            running.wait_for_health_checks()
    lost = {what: count for what, count in load.outcomes.items() if what != GOOD}
    assert sum(lost.values()) <= 2 * CONNECTIONS, lost
    # Nothing went past the engine, and nothing hung.
    assert all(what.startswith("500 ") for what in lost), lost


def worker_of(engine: EngineProcess) -> int:
    """Return the process id of the engine's one worker."""
    (worker,) = Path(f"/proc/{engine.pid}/task/{engine.pid}/children").read_text().split()
    return int(worker)
