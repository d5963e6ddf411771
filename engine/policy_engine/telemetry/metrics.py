"""Metrics (R-51): what a worker process counts, as plain samples, and their sum over all worker processes.

Workers count in plain objects; nothing here runs while a request is served. The supervisor asks every worker for its
samples when it is scraped and keeps those of workers that died, so that no counter ever falls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from operator import add
from typing import TYPE_CHECKING

from policy_engine.kernel.kernel import Kernel
from policy_engine.sdk.dependencies import DependencyState, dependency_states
from policy_engine.sdk.metrics import metrics_of
from policy_engine.sdk.repeated_lines import SUPPRESSED
from policy_engine.telemetry.route_sums import RouteSums
from policy_engine.telemetry.samples import Samples, label_key
from policy_engine.transport.counters import CountersSnapshot
from policy_engine.worker.chains.compiler import Compiler
from policy_engine.worker.chains.statistics import DURATION_BUCKETS, FailureKind, PolicyStatistics, Wanted
from policy_engine.worker.offload.helpers import Helpers
from policy_engine.worker.policies.registry import PolicyDefinition, Registry, exported_name

if TYPE_CHECKING:  # workers import this module, and have no use for a gRPC client
    from policy_engine.sources.xds.source import XdsStatus


DURATION = "policy_engine_policy_duration_seconds"

METRICS: Mapping[str, tuple[str, str]] = {
    "policy_engine_build_info": ("gauge", "1, with the version of the engine and of the Python that runs it."),
    "policy_engine_streams": ("counter", "ext_proc streams opened, one per HTTP request."),
    "policy_engine_streams_active": ("gauge", "ext_proc streams in flight."),
    "policy_engine_requests": ("counter", "Requests by route key."),
    "policy_engine_denials": (
        "counter",
        "Requests the engine denied (`decision` denied) or answered for a failure (failed), by route, policy, reason.",
    ),
    "policy_engine_phases": ("counter", "Messages from Envoy by phase."),
    "policy_engine_immediate_responses": ("counter", "Requests answered by the engine instead of the upstream."),
    "policy_engine_unmapped_requests": ("counter", "Requests whose route key has no chain."),
    "policy_engine_not_ready_requests": ("counter", "Requests denied because no configuration was active yet."),
    "policy_engine_protocol_errors": ("counter", "Streams ended because Envoy's messages broke the protocol."),
    "policy_engine_bodies_too_large": ("counter", "Bodies refused for their size, as sent or decoded."),
    "policy_engine_headers_too_large": ("counter", "Requests and responses refused for their headers, by phase."),
    "policy_engine_broken_promises": (
        "counter",
        "Bodies that Envoy never sent although a policy needs them; of a response, perhaps because the client left.",
    ),
    "policy_engine_doubted_responses": ("counter", "Responses denied because Envoy may not send their bodies."),
    "policy_engine_policy_short_circuits": ("counter", "Immediate responses by policy."),
    "policy_engine_policy_skipped": ("counter", "Runs left out because the policy's condition was false."),
    "policy_engine_policy_shadow": (
        "counter",
        "What policies in shadow would have done: answer, change, failure.",
    ),
    "policy_engine_policy_failures": ("counter", "Failures by policy, kind and failure mode."),
    "policy_engine_configuration_swaps": ("counter", "Configurations made active."),
    "policy_engine_transport_connections_active": ("gauge", "Connections from Envoy."),
    "policy_engine_transport_connections_refused": (
        "counter",
        "Connections not taken, or idle ones closed to make place for others, by reason.",
    ),
    "policy_engine_log_lines_suppressed": ("counter", "Repeated log lines that were counted and not written."),
    "policy_engine_offload_calls": (
        "counter",
        "Calls of helper processes for work on large bodies, by outcome: done, raised, refused (too many wait), late "
        "(over the policy's timeout), lost (the helper ended), left (nobody waited any more).",
    ),
    "policy_engine_offload_waiting": ("gauge", "Calls that wait for a helper process."),
    "policy_engine_offload_helpers": ("gauge", "Helper processes that run."),
    "policy_engine_offload_helpers_started": ("counter", "Helper processes that were started."),
    "policy_engine_offload_helpers_ended": (
        "counter",
        "Helper processes that ended, by reason: idle, grown (too much memory), late, lost, closed.",
    ),
    "policy_engine_dependency_up": (
        "gauge",
        "1 while a server that policies ask (Redis, a key set) answers every worker process that asks it, else 0.",
    ),
    "policy_engine_dependency_failing_seconds": ("gauge", "For how long it has not answered; 0 while it does."),
    "policy_engine_dependency_errors": ("counter", "Questions that it did not answer."),
    "policy_engine_transport_messages": ("counter", "gRPC messages by direction."),
    "policy_engine_transport_bytes": ("counter", "Bytes on the wire by direction; 0 on the grpcio transport."),
    "policy_engine_transport_resets": ("counter", "Streams reset, by the side that did it."),
    "policy_engine_transport_protocol_errors": ("counter", "HTTP/2 violations by peers, by error code."),
    "policy_engine_handler_errors": ("counter", "Errors of the engine itself on a stream; always a bug."),
    "policy_engine_worker_restarts": ("counter", "Worker processes that died and were started again."),
    "policy_engine_worker_hangs": ("counter", "Worker processes killed because they gave no sign of life."),
    "policy_engine_not_reviewed": (
        "gauge",
        "1 for each policy, library and the engine whose code is not what the builder wrote the digest of, else 0.",
    ),
    "policy_engine_workers": ("gauge", "Worker processes that listen, with chains active and signs of life."),
    "policy_engine_workers_wanted": ("gauge", "Worker processes that there should be, by the setting `workers`."),
    "policy_engine_process_cpu_seconds": (
        "counter",
        "CPU time of the supervisor, the fork server and each worker process.",
    ),
    "policy_engine_process_resident_memory_bytes": ("gauge", "Memory of each process, pages that they share included."),
    "policy_engine_process_open_fds": ("gauge", "Open files and connections of each process."),
    "policy_engine_certificate_expiration_timestamp_seconds": (
        "gauge",
        "When the first certificate of a file expires, seconds since the epoch, by the setting that names the file.",
    ),
    "policy_engine_configuration_rejections": ("counter", "Configurations refused."),
    "policy_engine_configuration_info": ("gauge", "1, with the version of the active configuration."),
    "policy_engine_configuration_active_since_seconds": ("gauge", "When it became active, seconds since the epoch."),
    "policy_engine_xds_connected": ("gauge", "1 while connected to the management server."),
    "policy_engine_xds_disconnections": ("counter", "Connections to the management server that ended."),
    "policy_engine_xds_responses": ("counter", "Responses of the management server, by the engine's answer."),
    "policy_engine_xds_resources": ("gauge", "Chains in use from the management server."),
    "policy_engine_event_loop_delay_seconds": (
        "histogram",
        "How late worker processes ran what was due, ten times a second: what held one, held its requests.",
    ),
    DURATION: ("histogram", "Wall time of a policy's hooks."),
}

_MERGED: Mapping[str, Callable[[float, float], float]] = {
    "policy_engine_dependency_up": min,
    "policy_engine_dependency_failing_seconds": max,
}
"""How values of several worker processes become one, where that is not their sum."""


_OF_A_DENIAL = ("route", "policy", "version", "reason", "decision")
_BOUNDS = (*(f"{bound:g}" for bound in DURATION_BUCKETS), "+Inf")
_AT_A_TIME = 250
_NOTHING_WANTED = dict.fromkeys(Wanted, 0)


async def count_policies(compiler: Compiler, sums: RouteSums) -> None:
    """Take what policies counted into `sums`, some at a time: with many routes it would hold the event loop."""
    for index, one in enumerate(tuple(compiler.statistics.values())):
        labels = (("route", one.route), ("policy", one.policy), ("version", one.version))
        sums.count("policies", labels, _values(one))
        if index % _AT_A_TIME == _AT_A_TIME - 1:
            await asyncio.sleep(0)


def worker_samples(kernel: Kernel, compiler: Compiler, transport: CountersSnapshot, sums: RouteSums) -> Samples:
    """Return everything one worker counted; `sums` is kept from one call to the next, and has its policies by now."""
    total = kernel.statistics
    samples: Samples = {
        "policy_engine_streams": [({}, total.streams)],
        "policy_engine_streams_active": [({}, total.active)],
        "policy_engine_phases": [({"phase": phase}, count) for phase, count in total.phases.items()],
        "policy_engine_immediate_responses": [({}, total.immediate)],
        "policy_engine_unmapped_requests": [({}, total.unmapped)],
        "policy_engine_not_ready_requests": [({}, total.not_ready)],
        "policy_engine_protocol_errors": [({}, total.protocol_errors)],
        "policy_engine_bodies_too_large": [({}, total.body_too_large)],
        "policy_engine_headers_too_large": [
            ({"phase": phase}, count) for phase, count in total.headers_too_large.items()
        ],
        "policy_engine_broken_promises": [
            ({"body": "request"}, total.broken_promises),
            ({"body": "response"}, total.broken_response_promises),
        ],
        "policy_engine_doubted_responses": [({}, total.doubted_responses)],
        "policy_engine_transport_connections_active": [({}, transport.connections_active)],
        "policy_engine_transport_connections_refused": [
            ({"reason": reason}, count) for reason, count in transport.connections_refused.items()
        ],
        "policy_engine_log_lines_suppressed": [({}, SUPPRESSED.count)],
        "policy_engine_transport_messages": [
            ({"direction": "in"}, transport.messages_in),
            ({"direction": "out"}, transport.messages_out),
        ],
        "policy_engine_transport_bytes": [
            ({"direction": "in"}, transport.bytes_in),
            ({"direction": "out"}, transport.bytes_out),
        ],
        "policy_engine_transport_resets": [
            ({"by": "peer"}, transport.resets_received),
            ({"by": "engine"}, transport.resets_sent),
        ],
        "policy_engine_transport_protocol_errors": [
            ({"code": code}, count) for code, count in transport.protocol_errors.items()
        ],
        "policy_engine_handler_errors": [({}, transport.handler_errors)],
    }
    _add_requests(samples, kernel, sums)
    _add_policies(samples, sums)
    _add_metrics_of_policies(samples, compiler)
    return samples | _offload_samples(compiler.helpers) | dependency_samples(dependency_states())


def _offload_samples(helpers: Helpers) -> Samples:
    done = helpers.statistics
    return {
        "policy_engine_offload_calls": [({"outcome": one.value}, count) for one, count in done.calls.items()],
        "policy_engine_offload_waiting": [({}, helpers.queued)],
        "policy_engine_offload_helpers": [({}, helpers.running)],
        "policy_engine_offload_helpers_started": [({}, done.started)],
        "policy_engine_offload_helpers_ended": [({"reason": one.value}, count) for one, count in done.ended.items()],
    }


def _add_requests(samples: Samples, kernel: Kernel, sums: RouteSums) -> None:
    for route, count in kernel.requests_by_route().items():
        sums.count("requests", (("route", route),), (count,))
    for key, count in kernel.statistics.denials.counts.items():
        sums.count("denials", tuple(zip(_OF_A_DENIAL, key, strict=True)), (count,))
    for kind in ("requests", "denials"):
        samples[f"policy_engine_{kind}"] = [(labels, count) for labels, (count,) in sums.sums(kind)]


def _add_policies(samples: Samples, sums: RouteSums) -> None:
    for shown, values in sums.sums("policies"):
        _add_policy(samples, shown, values)


def _values(one: PolicyStatistics) -> tuple[float, ...]:
    """Return the counters of one policy in the order in which `_add_policy` takes them."""
    opened, wanted = one.failed_open, one.wanted or _NOTHING_WANTED
    closed = (count - opened[kind] for kind, count in one.failures.items())
    return (one.short_circuits, one.skipped, one.seconds, *closed, *opened.values(), *wanted.values(), *one.buckets)


def _add_policy(samples: Samples, labels: dict[str, str], values: Sequence[float]) -> None:
    left = iter(values)
    samples.setdefault("policy_engine_policy_short_circuits", []).append((labels, next(left)))
    samples.setdefault("policy_engine_policy_skipped", []).append((labels, next(left)))
    samples.setdefault(DURATION + "_sum", []).append((labels, next(left)))
    failures = samples.setdefault("policy_engine_policy_failures", [])
    for mode in ("closed", "open"):
        counts = [(labels | {"kind": kind.value, "failure_mode": mode}, next(left)) for kind in FailureKind]
        failures += [row for row in counts if row[1]]
    wanted = [(labels | {"wanted": kind.value}, next(left)) for kind in Wanted]
    samples.setdefault("policy_engine_policy_shadow", []).extend(row for row in wanted if row[1])
    buckets, seen = samples.setdefault(DURATION + "_bucket", []), 0.0
    for bound, count in zip(_BOUNDS, left, strict=True):
        seen += count
        buckets.append((labels | {"le": bound}, seen))


def _add_metrics_of_policies(samples: Samples, compiler: Compiler) -> None:
    """Add what policies count themselves, of those that some chain has had."""
    used = {(one.policy, one.version) for one in compiler.statistics.values()}
    for definition in compiler.registry.loaded():
        if (definition.name, str(definition.version)) not in used:
            continue
        for metric in metrics_of(definition.policy_class):
            name, labels = exported_name(definition, metric), labels_of(definition)
            for ending, own, value in metric.samples():
                samples.setdefault(name + ending, []).append((labels | own, value))


def families_of(registry: Registry) -> dict[str, tuple[str, str]]:
    """Return kind and description of what policies that are loaded count, by name; those of the newest version."""
    return {
        exported_name(definition, metric): (metric.kind, metric.description)
        for definition in registry.loaded()
        for metric in metrics_of(definition.policy_class)
    }


def labels_of(definition: PolicyDefinition) -> dict[str, str]:
    """Return the labels that tell whose a policy's metric is."""
    return {"policy": definition.name, "version": str(definition.version)}


def dependency_samples(states: Sequence[DependencyState]) -> Samples:
    """Return what is known of the servers that policies ask; one that was not asked yet is neither up nor down."""
    labelled = [({"kind": one.kind, "name": one.name}, one) for one in states]
    return {
        "policy_engine_dependency_up": [(labels, int(one.up)) for labels, one in labelled if one.up is not None],
        "policy_engine_dependency_failing_seconds": [(labels, one.failing_seconds) for labels, one in labelled],
        "policy_engine_dependency_errors": [(labels, one.errors) for labels, one in labelled],
    }


def xds_samples(status: XdsStatus) -> Samples:
    """Return what the supervisor counted of the management server (R-21)."""
    return {
        "policy_engine_xds_connected": [({}, int(status.connected))],
        "policy_engine_xds_disconnections": [({}, status.disconnections)],
        "policy_engine_xds_responses": [({"answer": "ack"}, status.acks), ({"answer": "nack"}, status.nacks)],
        "policy_engine_xds_resources": [({}, status.resources)],
    }


def add_samples(total: Samples, more: Samples, *, keep_gauges: bool = True) -> None:
    """Add `more` to `total`, label set by label set; without `keep_gauges` only what counts (for dead workers)."""
    for name, rows in more.items():
        if not keep_gauges and METRICS.get(name, ("counter",))[0] == "gauge":
            continue
        merge: Callable[[float, float], float] = _MERGED.get(name, add)
        sums = {label_key(labels): index for index, (labels, _) in enumerate(total.setdefault(name, []))}
        for labels, value in rows:
            key = label_key(labels)
            index = sums.get(key)
            if index is None:
                total[name].append((labels, value))
            else:
                total[name][index] = (labels, merge(total[name][index][1], value))
