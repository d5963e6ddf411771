"""A worker killed under load (R-54): which requests fail, when it serves again, and what Envoy hides of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.run.accounting import family, usage
from benchmarks.run.course import Course, workplace
from benchmarks.run.lanes import KEY, Engine, Lane, ext_proc_settings
from benchmarks.run.load import steady
from benchmarks.run.results import Sample
from benchmarks.run.servers import EngineServer
from benchmarks.run.upstream import UpstreamEnvoy
from benchmarks.scenarios import chains
from benchmarks.scenarios.chains import Chain, Phases
from integration.harness.envoy import EnvoyProcess
from integration.harness.envoy_config import ENGINE_CLUSTER, Bootstrap, Route

SCENARIO = "worker-killed"
_SECONDS = 6.0
_KILL_AFTER_S = 2.0
_BACK_WITHIN_S = 30.0
_RETRY = {
    "grpc_service": {
        "envoy_grpc": {"cluster_name": ENGINE_CLUSTER},
        "retry_policy": {"num_retries": 5, "retry_on": "connect-failure,refused-stream,reset,unavailable"},
    }
}


CONNECTIONS = 64
"""Requests in flight, all of them on the worker that is killed when Envoy has one connection to the engine's port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to put Envoy in front. `most_failed` is how many requests may fail, None: any number.

    Envoy tries a stream again only while it has no answer; what has passed its request phase, and is lost in the
    response phase, is beyond a retry.
    """

    name: str
    filter: Mapping[str, Any]
    phases: Phases = Phases.BOTH
    socket_each: bool = False
    most_failed: int | None = None

    def chain(self) -> Chain:
        """Return the chain: the five policies, or one that has no response phase."""
        return chains.five() if self.phases is Phases.BOTH else [chains.set_header()]


VARIANTS = (
    Variant(name="one port, Envoy as it is", filter={}, most_failed=CONNECTIONS),
    Variant(name="one port, retry_policy, request phase only", filter=_RETRY, phases=Phases.REQUEST, most_failed=0),
    Variant(name="one port, retry_policy, both phases", filter=_RETRY, most_failed=CONNECTIONS),
    Variant(name="one port, failure_mode_allow, both phases", filter={"failure_mode_allow": True}, most_failed=0),
    Variant(name="socket each, Envoy as it is", filter={}, socket_each=True),
    Variant(
        name="socket each, retry_policy, request phase only",
        filter=_RETRY,
        phases=Phases.REQUEST,
        socket_each=True,
        most_failed=0,
    ),
)


@dataclass(frozen=True, slots=True)
class _Killing:
    wall_us: float
    back_s: float


def run(course: Course) -> list[Sample]:
    """Kill one of two workers in each variant."""
    return [_variant(variant, course) for variant in VARIANTS]


def _variant(variant: Variant, course: Course) -> Sample:
    lane = Lane(name=variant.name, server=Engine(chain=variant.chain()), phases=variant.phases)
    with ExitStack() as parts:
        directory = parts.enter_context(workplace())
        upstream = parts.enter_context(UpstreamEnvoy(directory / "upstream"))
        routes = {KEY: variant.chain()}
        engine = parts.enter_context(EngineServer(directory, routes, workers=2, socket_each=variant.socket_each))
        bootstrap = Bootstrap(
            routes=[Route(prefix="/", name=KEY)],
            engine=engine.ready(),
            upstream_port=upstream.ready(),
            ext_proc={**ext_proc_settings(lane), **variant.filter},
        )
        port = parts.enter_context(EnvoyProcess(bootstrap, directory)).ready().port
        load = steady(port, connections=CONNECTIONS, seconds=_SECONDS, directory=directory)
        time.sleep(_KILL_AFTER_S)
        killing = _kill_busiest(engine)
        load.communicate(timeout=_SECONDS + _BACK_WITHIN_S)
        values = _values((directory / "steady.log"), killing)
    course.say(
        f"{SCENARIO} {variant.name}: {values['failed']:.0f} of {values['requests']:.0f} failed, "
        f"worker back after {values['back_s']:.2f} s"
    )
    return Sample(scenario=SCENARIO, lane=variant.name, round=1, values=values)


def _kill_busiest(engine: EngineServer) -> _Killing:
    """Kill the worker that Envoy's requests reach, and return when all workers serve again."""
    victim = max(family(engine.pid)[1:], key=lambda pid: usage(pid).cpu_s)
    wall_us = time.time() * 1e6
    begun = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    engine.wait_until(lambda: not _all_serve(engine), what="missing a worker", timeout_s=_BACK_WITHIN_S)
    engine.wait_until(lambda: _all_serve(engine), what="complete again", timeout_s=_BACK_WITHIN_S)
    return _Killing(wall_us, time.monotonic() - begun)


def _all_serve(engine: EngineServer) -> bool:
    workers = engine.admin.document("/workers")
    return bool(workers["serving"] == workers["wanted"])


def _values(log: Path, killing: _Killing) -> dict[str, float]:
    rows = [[int(column) for column in line.split("\t")[:3]] for line in log.read_text().splitlines()]
    ended = [(start + latency - killing.wall_us) / 1e6 for start, status, latency in rows if not 200 <= status < 400]
    return {
        "requests": float(len(rows)),
        "failed": float(len(ended)),
        "in_flight": float(CONNECTIONS),
        "back_s": killing.back_s,
        "first_failure_s": min(ended, default=0.0),
        "last_failure_s": max(ended, default=0.0),
    }
