"""Metrics stay few however many routes there are, and no counter falls or is lost when other routes are named."""

from __future__ import annotations

import asyncio
import random

import pytest

from policy_engine.kernel.kernel import Kernel, KernelOptions
from policy_engine.telemetry.exposition import exposition
from policy_engine.telemetry.metrics import DURATION, count_policies, worker_samples
from policy_engine.telemetry.route_sums import OTHER_ROUTES, RouteSums, only_named, top_routes
from policy_engine.telemetry.samples import Samples
from policy_engine.transport.counters import CountersSnapshot
from policy_engine.worker.chains.compiler import Compiler
from policy_engine.worker.chains.statistics import FailureKind, PolicyStatistics
from policy_engine.worker.policies.registry import Registry

_NOTHING = CountersSnapshot(
    **dict.fromkeys(CountersSnapshot.__slots__, 0)  # type: ignore[arg-type] # every field but two is an int
    | {"protocol_errors": {}, "connections_refused": {}}
)


def counted(compiler: Compiler, sums: RouteSums) -> Samples:
    asyncio.run(count_policies(compiler, sums))
    return worker_samples(Kernel(KernelOptions()), compiler, _NOTHING, sums)


def compiler_of(routes: int, policies: int = 3) -> Compiler:
    compiler = Compiler(Registry([]))
    for route in range(routes):
        for number in range(policies):
            one = PolicyStatistics(f"route-{route}", f"policy-{number}", "v1.0.0")
            one.observe(0.002)
            one.failures[FailureKind.TIMEOUT] += 2
            one.failed_open[FailureKind.TIMEOUT] += 1
            compiler.statistics[one.route, one.policy, one.version] = one
    return compiler


def runs(samples: Samples) -> dict[str, float]:
    """Return the runs of policies by route."""
    found: dict[str, float] = {}
    for labels, value in samples[DURATION + "_bucket"]:
        if labels["le"] == "+Inf":
            route = labels.get("route", "")
            found[route] = found.get(route, 0) + value
    return found


def lines(routes: int, detail: str, limit: int = 50) -> int:
    sums = RouteSums(detail)
    sums.named = top_routes({f"route-{number}": number for number in range(routes)}, limit)
    return len(exposition(counted(compiler_of(routes), sums)).splitlines())


@pytest.mark.parametrize("detail", ["policy", "route", "total"])
def test_lines_do_not_grow_with_routes(detail: str) -> None:
    assert lines(250, detail) == lines(500, detail) == lines(1000, detail)


def test_less_detail_is_less_to_read() -> None:
    assert lines(1000, "policy") > 2 * lines(1000, "route") > 2 * lines(1000, "total")
    assert lines(1000, "policy") < 4000


def test_nothing_is_lost_and_nothing_falls_whichever_routes_are_named() -> None:
    dice = random.Random(7)
    compiler, sums, before = compiler_of(20, 1), RouteSums(), dict[str, float]()
    for _ in range(40):
        sums.named = frozenset(f"route-{number}" for number in dice.sample(range(20), 5))
        for one in compiler.statistics.values():
            for _ in range(dice.randrange(3)):
                one.observe(0.1)
        now = runs(counted(compiler, sums))
        assert set(now) - {OTHER_ROUTES} <= sums.named
        assert all(value >= before.get(route, 0) for route, value in now.items())
        before |= now
        # What a route has had under its own name stays there, shown or not.
        assert sum(before.values()) == sum(one.runs for one in compiler.statistics.values())


def test_what_was_not_named_is_not_counted_again_when_it_is() -> None:
    compiler, sums = compiler_of(2, 1), RouteSums()
    sums.named = frozenset()
    assert runs(counted(compiler, sums)) == {OTHER_ROUTES: 2}
    sums.named = frozenset({"route-0"})
    for one in compiler.statistics.values():
        one.observe(0.1)
    assert runs(counted(compiler, sums)) == {OTHER_ROUTES: 3, "route-0": 1}


def test_failures_tell_whether_requests_went_on() -> None:
    rows = counted(compiler_of(1, 1), RouteSums())["policy_engine_policy_failures"]
    labels = {"route": "route-0", "policy": "policy-0", "version": "v1.0.0", "kind": "timeout"}
    assert rows == [(labels | {"failure_mode": mode}, 1) for mode in ("closed", "open")]


def test_the_routes_named_are_those_with_the_most_requests() -> None:
    assert top_routes({"a": 1, "b": 3, "c": 2}, 3) is None
    assert top_routes({"a": 1, "b": 3, "c": 2}, 2) == frozenset("bc")
    assert top_routes({"a": 1}, 0) == frozenset()


def test_what_ended_processes_counted_is_as_bounded() -> None:
    samples: Samples = {"x": [({"route": "a"}, 1), ({"route": OTHER_ROUTES}, 2), ({}, 3), ({"route": "b"}, 4)]}
    assert only_named(samples, {"b"}) == {"x": [({"route": OTHER_ROUTES}, 2), ({}, 3), ({"route": "b"}, 4)]}
    assert only_named(samples, None) == samples
