"""Checks clusters: HTTP/2 and TLS towards the engine, and limits that 10,000 requests in flight would meet (R-14).

A separate module because a cluster is checked once, however many filters and routes use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.envoy.demands import REQUESTS_IN_FLIGHT, Demands
from policy_engine.envoy.filter_config import HTTP_OPTIONS, MANY
from policy_engine.envoy.lint.proto_json import Node

_DEFAULT_THRESHOLD = 1024
_FLOOD_LIMITS = {"max_outbound_frames": 10_000, "max_outbound_control_frames": 1_000}
"""Envoy's defaults (config/core/v3/protocol.proto, Http2ProtocolOptions)."""

_LIKE_OURS = f"{MANY}, as `policy-engine envoy-config` writes"


def lint_engine_cluster(cluster: Node, demands: Demands) -> Iterator[Diagnostic]:
    """Yield what is wrong with the cluster that the filter sends to."""
    options = _http2_options(cluster)
    if options is None:
        reason = "the engine's cluster does not use HTTP/2, without which there is no gRPC"
        node = cluster.get("typed_extension_protocol_options").at(HTTP_OPTIONS)
        yield node.error(Rule.ENVOY_HTTP2, reason, allowed="explicit_http_config: {http2_protocol_options: {…}}")
    else:
        yield from _flood_limits(options)
    low = list(_low_thresholds(cluster, ("max_requests", "max_pending_requests")))
    if low:
        yield low[0].error(Rule.ENVOY_CIRCUIT_BREAKER, _breaker(low, "the engine"), allowed=_LIKE_OURS)
    encrypted = cluster.get("transport_socket").exists
    if demands.tls and not encrypted:
        reason = "the engine serves TLS (setting tls.cert), and its cluster has no transport_socket"
        yield cluster.get("transport_socket").error(Rule.ENVOY_CLUSTER, reason, allowed="an UpstreamTlsContext")


def lint_upstream_cluster(cluster: Node) -> Iterator[Diagnostic]:
    """Yield what would stop 10,000 requests behind the engine; an operator may want that, hence warnings."""
    low = list(_low_thresholds(cluster, ("max_connections", "max_requests", "max_pending_requests")))
    if low:
        yield low[0].warning(Rule.ENVOY_CIRCUIT_BREAKER, _breaker(low, "this upstream"), allowed=_LIKE_OURS)


def _http2_options(cluster: Node) -> Node | None:
    options = cluster.get("typed_extension_protocol_options").at(HTTP_OPTIONS)
    for node in (
        options.get("explicit_http_config", "http2_protocol_options"),
        options.get("use_downstream_protocol_config", "http2_protocol_options"),
        options.get("auto_config", "http2_protocol_options"),
        cluster.get("http2_protocol_options"),
    ):
        if node.exists:
            return node
    return None


def _flood_limits(options: Node) -> Iterator[Diagnostic]:
    for name, default in _FLOOD_LIMITS.items():
        node = options.get(name)
        if node.integer(default) <= REQUESTS_IN_FLIGHT:
            reason = (
                f"{name} ({default} unless set) is not above {REQUESTS_IN_FLIGHT}: Envoy's flood protection ends a "
                "connection that so many streams share, and every request on it"
            )
            yield node.error(Rule.ENVOY_FLOOD, reason, allowed=_LIKE_OURS)


def _low_thresholds(cluster: Node, names: tuple[str, ...]) -> Iterator[Node]:
    breakers = cluster.get("circuit_breakers")
    default = next((one for one in breakers.get("thresholds").items() if _is_default(one)), breakers)
    for name in names:
        node = default.get(name)
        if node.integer(_DEFAULT_THRESHOLD) < REQUESTS_IN_FLIGHT:
            yield node


def _is_default(threshold: Node) -> bool:
    return threshold.get("priority").value in (None, 0, "DEFAULT")


def _breaker(low: Sequence[Node], whom: str) -> str:
    names = ", ".join(str(node.path[-1]) for node in low)
    return (
        f"circuit breakers below {REQUESTS_IN_FLIGHT} ({_DEFAULT_THRESHOLD} unless set): {names}; Envoy fails requests "
        f"to {whom} beyond them"
    )
