"""What of the settings worker processes are told, and how many of them there are."""

from __future__ import annotations

from pathlib import Path

from policy_engine.limits import LARGEST_HEADERS, MESSAGE_OVERHEAD, RECEIVE_BUFFER
from policy_engine.processes.serving import WorkerOptions
from policy_engine.settings.forms import AUTO
from policy_engine.settings.loading import Settings
from policy_engine.settings.model import UnmappedRoutes, Verify
from policy_engine.settings.route_key import route_key_parts
from policy_engine.settings.usable_cores import usable_cores


def worker_count(workers: int | str) -> int:
    """Return how many workers `workers` means; `auto` is one for each core this process may use."""
    return usable_cores() if workers == AUTO else int(workers)


def worker_options(settings: Settings, policies: Path | None) -> WorkerOptions:
    """Return the part of the settings that workers need, as they cross the channel."""
    longest = max(settings.body_limit, LARGEST_HEADERS) + MESSAGE_OVERHEAD
    return WorkerOptions(
        number=0,
        bind=settings.listen,
        transport=settings.transport.value,
        policies=str(policies.absolute()) if policies is not None else "",
        route_key=route_key_parts(settings.route_key),
        pass_unmapped=settings.unmapped_routes is UnmappedRoutes.PASS,
        body_limit=settings.body_limit,
        error_format=settings.errors.format.value,
        drain_seconds=settings.drain_timeout,
        construction_seconds=settings.construction_timeout,
        blocking_threads=settings.limits.blocking_threads,
        log_level=settings.log.level.value,
        log_format=settings.log.format.value,
        certificate_file=str(settings.tls.cert or ""),
        key_file=str(settings.tls.key or ""),
        client_ca_file=str(settings.tls.client_ca or ""),
        client_names=settings.tls.client_names,
        tracing_endpoint=settings.tracing.endpoint or "",
        tracing_sample_ratio=settings.tracing.sample_ratio,
        tracing_service_name=settings.tracing.service_name,
        envoy_buffer_limit=settings.envoy_buffer_limit,
        header_count=settings.limits.header_count,
        header_size=settings.limits.header_size,
        worker_timeout=settings.worker_timeout,
        strict=settings.policies.verify is Verify.STRICT,
        decisions=settings.decision_log.decisions.value,
        decision_output=settings.decision_log.output,
        decision_endpoint=settings.decision_log.endpoint or "",
        decision_sample_ratio=settings.decision_log.sample_ratio,
        decision_condition=settings.decision_log.condition or "",
        offload_processes=settings.limits.offload_processes,
        offload_waiting=settings.limits.offload_waiting,
        metrics_detail=settings.metrics.detail.value,
        metrics_top_routes=settings.metrics.top_routes,
        limits={
            "max_concurrent_streams": settings.limits.streams,
            "max_connections": settings.limits.connections,
            # What is over a limit must get its status from the session, not an error of the transport.
            "max_message_bytes": longest,
            "receive_buffer_bytes": max(RECEIVE_BUFFER, 4 * longest),
        },
    )
