"""10,000 requests in flight at once before a slow upstream (R-61): how many fail, and how much memory each takes."""

from __future__ import annotations

import time
from contextlib import ExitStack

from benchmarks.run.accounting import usage
from benchmarks.run.course import Course, workplace
from benchmarks.run.lanes import KEY, Engine, Lane, ext_proc_settings
from benchmarks.run.load import ORDINARY_HEADERS, many_at_once, outcome_of_log
from benchmarks.run.results import Sample
from benchmarks.run.servers import EngineServer
from benchmarks.run.upstream import UpstreamEnvoy
from benchmarks.scenarios import chains
from benchmarks.scenarios.chains import Phases
from integration.harness import client
from integration.harness.envoy import EnvoyProcess
from integration.harness.envoy_config import Bootstrap, Route

SCENARIO = "in-flight"
_STREAMS = 10_000
_CONNECTIONS = 100
_DELAY_S = 6.0
_LIMIT_S = 40.0
_ROUNDS = 3
_TIMEOUTS = ("http.ingress.ext_proc.message_timeouts", "cluster.upstream.upstream_rq_timeout")
_BEFORE = 50
"""Requests before memory is looked at for the first time: imports and caches are not what a request takes."""


def run(course: Course) -> list[Sample]:
    """Measure with a fresh engine each round: memory that one round left behind would serve the next."""
    rounds = max(1, min(course.rounds // 2, _ROUNDS))
    return [_round(number, course) for number in range(1, rounds + 1)]


def _round(number: int, course: Course) -> Sample:
    lane = Lane(name="native, 5 policies", server=Engine(chain=chains.five()), phases=Phases.BOTH)
    with ExitStack() as parts:
        directory = parts.enter_context(workplace())
        quick = parts.enter_context(UpstreamEnvoy(directory / "quick"))
        slow = parts.enter_context(UpstreamEnvoy(directory / "slow", delay_s=_DELAY_S))
        engine = parts.enter_context(EngineServer(directory, {KEY: chains.five()}))
        addresses = engine.ready()
        envoys = []
        for name, upstream in (("to-quick", quick), ("to-slow", slow)):
            (directory / name).mkdir()
            bootstrap = Bootstrap(
                routes=[Route(prefix="/", name=KEY)],
                engine=addresses,
                upstream_port=upstream.ready(),
                upstream_http2=True,
                ext_proc=ext_proc_settings(lane),
            )
            envoys.append(parts.enter_context(EnvoyProcess(bootstrap, directory / name)).ready())
        for _ in range(_BEFORE):
            client.send(envoys[0].port, "GET", "/", headers=list(ORDINARY_HEADERS.items()))
        idle = usage(engine.pid).rss_bytes
        most, at_once = idle, 0
        load = many_at_once(envoys[1].port, streams=_STREAMS, connections=_CONNECTIONS, directory=directory)
        begun = time.monotonic()
        while load.poll() is None:
            if time.monotonic() - begun > _LIMIT_S:
                load.kill()
                break
            most = max(most, usage(engine.pid).rss_bytes)
            at_once = max(at_once, int(sum(engine.admin.samples("policy_engine_streams_active").values())))
            time.sleep(0.2)
        load.communicate()
        outcome = outcome_of_log((directory / "in-flight.log").read_text())
        # What Envoy gave up by its own clock: on a machine that is too busy, not the engine's doing.
        timeouts = sum(envoys[1].counter(name) for name in _TIMEOUTS)
    failed = _STREAMS - outcome.requests + outcome.failed
    each = (most - idle) / max(1, at_once)
    course.say(f"{SCENARIO} {number}: {at_once} at once, {failed} failed ({timeouts} timeouts), {each:,.0f} bytes each")
    values = {
        "at_once": float(at_once),
        "requests": float(_STREAMS),
        "failed": float(failed),
        "timeouts": float(timeouts),
        "each_bytes": each,
        "idle_rss_bytes": float(idle),
        "rss_bytes": float(most),
    }
    return Sample(scenario=SCENARIO, lane=lane.name, round=number, values=values)
