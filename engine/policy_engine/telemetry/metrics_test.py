"""Samples of several worker processes become one; what a worker process counts has a description."""

from __future__ import annotations

import dataclasses

from policy_engine.kernel.kernel import Kernel, KernelOptions
from policy_engine.sdk import dependency
from policy_engine.sdk.dependencies import DependencyState
from policy_engine.telemetry.exposition import exposition
from policy_engine.telemetry.metrics import DURATION, METRICS, add_samples, dependency_samples, worker_samples
from policy_engine.telemetry.route_sums import RouteSums
from policy_engine.transport.counters import CountersSnapshot
from policy_engine.worker.chains.compiler import Compiler
from policy_engine.worker.offload.helpers import Ending, Outcome
from policy_engine.worker.policies.registry import Registry


def test_an_outage_that_one_worker_process_sees_is_what_is_told() -> None:
    total = dependency_samples([DependencyState("redis", "r:1", True, 0.0, 3, "")])
    add_samples(total, dependency_samples([DependencyState("redis", "r:1", False, 7.0, 2, "")]))
    add_samples(total, dependency_samples([DependencyState("redis", "r:1", None, 0.0, 0, "")]))
    labels = {"kind": "redis", "name": "r:1"}
    assert total == {
        "policy_engine_dependency_up": [(labels, 0)],
        "policy_engine_dependency_failing_seconds": [(labels, 7.0)],
        "policy_engine_dependency_errors": [(labels, 5)],
    }


def test_all_that_a_worker_process_counts_is_described_and_written() -> None:
    compiler = Compiler(Registry([]))
    compiler.helpers.statistics.calls[Outcome.REFUSED] += 2
    compiler.helpers.statistics.ended[Ending.GROWN] += 1
    kept = dependency("redis", 'r"1')
    kept.failed("TimeoutError")
    zero = dict.fromkeys((one.name for one in dataclasses.fields(CountersSnapshot)), 0)
    transport = CountersSnapshot(**zero | {"protocol_errors": {}, "connections_refused": {}})  # type: ignore[arg-type] # every field but two is an int
    samples = worker_samples(Kernel(KernelOptions()), compiler, transport, RouteSums())
    assert {name for name in samples if not name.startswith(DURATION)} <= set(METRICS)
    page = exposition(samples).decode()
    for line in (
        'policy_engine_offload_calls_total{outcome="refused"} 2.0',
        'policy_engine_offload_helpers_ended_total{reason="grown"} 1.0',
        "policy_engine_offload_waiting 0.0",
        "policy_engine_offload_helpers 0.0",
        'policy_engine_dependency_up{kind="redis",name="r\\"1"} 0.0',
        'policy_engine_dependency_errors_total{kind="redis",name="r\\"1"} 1.0',
    ):
        assert line in page.splitlines()
