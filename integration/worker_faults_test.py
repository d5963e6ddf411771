"""Worker processes are stopped, hung, killed and signalled under steady load through Envoy: what that costs (R-15, R-54).

Envoy runs what `policy-engine envoy-config` writes for an engine of two worker processes. With `-s` each case prints
what was sent, what failed, and how long it took.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration.harness import client
from integration.harness.chain_file import ChainFile, Document, chain, chains, policy
from integration.harness.engine import EngineProcess
from integration.harness.envoy import Envoy
from integration.harness.generated_envoy import envoy_for
from integration.harness.steady_load import SteadyLoad
from integration.harness.upstream_process import UpstreamProcess
from integration.runtime_stack import TEST_POLICIES

RATE = 150.0
MOST_FAILED = int(0.01 * 30 * RATE)
"""One percent of what is sent in 30 s."""
LATEST_S = 20.0
"""Wide, for busy machines: on an idle one it takes five to six seconds."""


def routes(*more: str, how: str = "characters") -> Document:
    marked = chain("r", policy("holding", "v1"))
    return chains(marked, chain("h", policy("holding", "v1", {"how": how}, timeout="300ms")), *map(chain, more))


@dataclass(slots=True)
class Site:
    """An engine of two worker processes behind Envoy."""

    engine: EngineProcess
    envoy: Envoy
    chains: ChainFile

    def workers(self) -> list[int]:
        """Return the process ids of those that serve, by their numbers."""
        return [one.get("pid", 0) for one in self.engine.admin.document("/workers")["processes"]]

    def load(self) -> SteadyLoad:
        return SteadyLoad(self.envoy.port, "/r/x", RATE)

    def count(self, name: str) -> float:
        return sum(self.engine.admin.samples(name).values())

    def until(self, holds: Callable[[], bool], what: str, seconds: float = 30.0) -> float:
        """Return how many seconds it took."""
        began = time.monotonic()
        while not holds():
            assert time.monotonic() - began < seconds, f"not {what}\n{self.engine.log()[-4000:]}"
            time.sleep(0.02)
        return time.monotonic() - began

    def hold(self, times: int = 1) -> None:
        """Send requests whose policy holds the loop that they come to, without waiting for answers."""
        for _ in range(times):
            with client.Connection(self.envoy.port, timeout_s=0.2) as connection, suppress(TimeoutError):
                connection.send("GET", "/h/x", headers=[("x-hold", "1")])


@contextmanager
def site(transport: str, how: str = "characters", **env: str) -> Iterator[Site]:
    # Not pytest's directory: the path of a Unix socket must be short (108 bytes, unix(7)).
    with tempfile.TemporaryDirectory(prefix="wf-", dir="/tmp") as name:
        directory = Path(name)
        file = ChainFile(directory / "chains.yaml")
        file.write(routes(how=how))
        own = {
            "POLICY_ENGINE_TRANSPORT": transport,
            "POLICY_ENGINE_WORKERS": "2",
            "POLICY_ENGINE_LISTEN": f"unix:{directory}/w{{worker}}.sock",
            **env,
        }
        with EngineProcess(directory, chains=file.path, policies=TEST_POLICIES, env=own) as engine:
            engine.ready()
            with UpstreamProcess(directory) as upstream:
                addresses = [directory / f"w{number}.sock" for number in (0, 1)]
                with envoy_for(directory, addresses, upstream.ready(), TEST_POLICIES) as envoy:
                    running = Site(engine, envoy, file)
                    running.until(lambda: client.send(envoy.port, target="/r/x").status == 200, "serving")
                    healthy = "cluster.policy-engine.membership_healthy"
                    running.until(lambda: envoy.counter(healthy) == 2, "healthy for Envoy")
                    yield running


@pytest.mark.parametrize("number", [0, 1])
def test_a_stopped_worker_process_is_replaced_and_costs_little(transport: str, number: int) -> None:
    with site(transport) as running:
        victim = running.workers()[number]
        with running.load() as load:
            time.sleep(2)
            began = time.monotonic()
            os.kill(victim, signal.SIGSTOP)
            silent = running.until(lambda: not running.engine.admin.is_ready(), "not ready")
            assert "no sign of life" in client.send(running.engine.admin.port, target="/readyz").body.decode()
            replaced = running.until(running.engine.admin.is_ready, "ready again") + silent
            time.sleep(2)
        print(f"stopped: {load.summary(began)}, replaced after {replaced:.1f} s")
        assert len(load.failed) <= MOST_FAILED, load.summary(began)
        assert replaced < LATEST_S
        assert running.count("policy_engine_worker_hangs_total") == 1
        assert victim not in running.workers()
        assert "stopped from outside" in running.engine.log()


def test_a_worker_process_that_hangs_in_c_code_is_replaced_and_named(transport: str) -> None:
    with site(transport) as running:
        with running.load() as load:
            time.sleep(2)
            began = time.monotonic()
            running.hold()
            silent = running.until(lambda: not running.engine.admin.is_ready(), "not ready")
            replaced = running.until(running.engine.admin.is_ready, "ready again") + silent
            time.sleep(2)
        print(f"hung: {load.summary(began)}, replaced after {replaced:.1f} s")
        assert len(load.failed) <= MOST_FAILED, load.summary(began)
        assert replaced < LATEST_S
        log = running.engine.log()
        assert "holding/v1_0_0/policy.py, line 32, in _hold" in log
        assert "route 'h'" in log


def test_a_pattern_that_hangs_is_broken_off_at_its_timeout(transport: str) -> None:
    with site(transport, "pattern") as running:
        workers = running.workers()
        with running.load() as load:
            time.sleep(1)
            began = time.monotonic()
            running.hold(4)
            time.sleep(3)
        print(f"pattern: {load.summary(began)}")
        assert len(load.failed) <= MOST_FAILED, load.summary(began)
        assert running.workers() == workers
        labels = {"failure_mode": "closed", "kind": "timeout", "policy": "holding", "route": "h", "version": "v1.0.0"}
        failures = running.engine.admin.samples("policy_engine_policy_failures_total")
        assert failures[tuple(sorted(labels.items()))] == 4


def test_a_change_reaches_those_that_live_while_one_hangs(transport: str) -> None:
    with site(transport) as running:
        os.kill(running.workers()[1], signal.SIGSTOP)
        began = time.monotonic()
        running.chains.write(routes("new"))
        active = running.until(lambda: _has(running, "new"), "active")
        running.until(running.engine.admin.is_ready, "ready again")
        print(f"change while one is stopped: active after {active:.1f} s, all after {time.monotonic() - began:.1f} s")
        assert active < LATEST_S
        assert running.engine.admin.history()["rejected"] == 0


@pytest.mark.parametrize("delay", [0.03, 0.05, 0.07, 0.09])
def test_a_change_survives_the_death_of_a_worker_process(transport: str, delay: float) -> None:
    with site(transport) as running:
        for turn in range(3):
            running.until(lambda: 0 not in running.workers(), "all there")
            victims = running.workers() if turn == 2 else running.workers()[:1]
            running.chains.write(routes(f"new-{turn}"))
            time.sleep(delay)
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
            running.until(lambda gone=victims: not {*gone} & {*running.workers()}, "noticed")  # type: ignore[misc]
            running.until(lambda turn=turn: _has(running, f"new-{turn}"), "active")  # type: ignore[misc]
            running.until(running.engine.admin.is_ready, "ready again")
        assert running.engine.admin.history()["rejected"] == 0


def test_the_engine_ends_in_time_while_a_worker_process_hangs(transport: str) -> None:
    with site(transport, POLICY_ENGINE_DRAIN_TIMEOUT="3s") as running:
        running.hold()
        os.kill(running.workers()[0], signal.SIGSTOP)
        time.sleep(0.2)
        began = time.monotonic()
        running.engine.stop()
        took = time.monotonic() - began
        print(f"SIGTERM while hung: ended after {took:.1f} s of 3 s")
        assert took < 6.0


def test_a_constructor_that_hangs_in_c_code_holds_nobody_and_is_refused_with_its_place(transport: str) -> None:
    with site(transport, POLICY_ENGINE_CONSTRUCTION_TIMEOUT="2s") as running:
        workers = running.workers()
        with running.load() as load:
            time.sleep(1)
            began = time.monotonic()
            running.chains.write(routes("new", how="constructor"))
            longest = 0.0
            while running.engine.admin.history()["rejected"] == 0:
                assert time.monotonic() - began < 60
                asked = time.monotonic()
                assert running.engine.admin.is_ready()
                longest = max(longest, time.monotonic() - asked)
                time.sleep(0.05)
            time.sleep(1)
        print(f"constructor: {load.summary(began)}, /readyz took at most {longest * 1000:.0f} ms")
        assert load.failed == []
        assert running.workers() == workers
        (problem,) = running.engine.admin.history()["last_rejection"]["problems"]
        assert "did not return within 2 s and could not be broken off; it is at" in problem
        assert "holding/v1_0_0/policy.py:" in problem
        running.chains.write(routes("newer"))
        running.until(lambda: _has(running, "newer"), "active")


@pytest.mark.parametrize("stopped", [False, True])
def test_worker_processes_that_hang_or_are_stopped_end_after_a_supervisor_that_was_killed(
    transport: str, *, stopped: bool
) -> None:
    with site(transport, POLICY_ENGINE_WORKER_TIMEOUT="1s") as running:
        workers = running.workers()
        if stopped:
            os.kill(workers[0], signal.SIGSTOP)
        else:
            running.hold(4)
            time.sleep(0.2)
        os.kill(running.engine.pid, signal.SIGKILL)
        began = time.monotonic()
        while left := [pid for pid in workers if _runs(pid)]:
            assert time.monotonic() - began < 60, f"{left} of {workers} are left"
            time.sleep(0.05)
        print(f"orphans: all ended after {time.monotonic() - began:.1f} s")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_worker_process_costs_what_it_was_working_on(transport: str) -> None:
    with site(transport) as running:
        with running.load() as load:
            time.sleep(2)
            began = time.monotonic()
            os.kill(running.workers()[0], signal.SIGKILL)
            running.until(lambda: running.count("policy_engine_worker_restarts_total") == 1, "restarted")
            replaced = running.until(running.engine.admin.is_ready, "ready again")
            time.sleep(2)
        print(f"killed: {load.summary(began)}, ready again {replaced:.1f} s later")
        assert len(load.failed) <= 8, load.summary(began)


def test_signals_to_the_whole_group_fail_no_request(transport: str) -> None:
    stray = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF]
    stray += [signal.SIGIO, signal.SIGTSTP, signal.SIGQUIT, signal.SIGRTMIN, signal.SIGRTMAX]
    with site(transport) as running:
        workers = running.workers()
        with running.load() as load:
            began = time.monotonic()
            for number in stray:
                time.sleep(0.4)
                os.killpg(running.engine.pid, number)
                for pid in workers:
                    os.kill(pid, number)
            time.sleep(1)
        print(f"signals: {load.summary(began)}")
        assert not load.failed, load.summary(began)
        assert running.workers() == workers
        assert running.engine.running()


def _has(running: Site, route: str) -> bool:
    return route in {one["route_key"] for one in running.engine.admin.document("/chains")["routes"]}
