"""Envoy's clusters and their endpoints, written with `envoy-data-plane`'s types.

A separate module because clusters and endpoints are two resources of one thing: which hosts come and go is sent as
endpoints, so that the cluster, its connections and what it has learnt of its hosts stay.
"""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCommonLbConfig,
    ClusterDiscoveryType,
    ClusterEdsClusterConfig,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    HealthCheck,
    HealthCheckGrpcHealthCheck,
    Http2ProtocolOptions,
    Pipe,
    SocketAddress,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    Endpoint as EnvoyEndpoint,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any

from policy_control_plane.envoy_listeners import over_ads
from policy_control_plane.model import ClusterModel, Endpoint
from policy_engine.envoy.filter_config import (
    CHECK_INTERVAL,
    CHECK_TIMEOUT,
    HTTP_OPTIONS,
    MANY,
    MERGE_SECONDS,
    PANIC_PERCENT,
)
from policy_engine.limits import ENVOY_STREAMS_PER_CONNECTION


def cluster_body(cluster: ClusterModel) -> bytes:
    """Return a serialised Cluster."""
    inline = cluster.resolved_by_envoy
    return bytes(
        Cluster(
            name=cluster.name,
            type=ClusterDiscoveryType.STRICT_DNS if inline else ClusterDiscoveryType.EDS,
            eds_cluster_config=None if inline else ClusterEdsClusterConfig(eds_config=over_ads()),
            load_assignment=_assignment(cluster) if inline else None,
            connect_timeout=timedelta(seconds=cluster.connect_timeout),
            circuit_breakers=unlimited(),
            health_checks=[_grpc_health()] if cluster.health_checked else [],
            common_lb_config=_balancing() if cluster.health_checked else None,
            typed_extension_protocol_options={HTTP_OPTIONS: Any.pack(http2_options())} if cluster.http2 else {},
        )
    )


def endpoints_body(cluster: ClusterModel) -> bytes | None:
    """Return a serialised ClusterLoadAssignment, or None for a cluster whose hosts Envoy looks up itself."""
    return None if cluster.resolved_by_envoy else bytes(_assignment(cluster))


def _balancing() -> ClusterCommonLbConfig:
    """Return what keeps requests from engines that are not healthy, from the moment at which Envoy knows."""
    return ClusterCommonLbConfig(
        healthy_panic_threshold=Percent(value=PANIC_PERCENT),
        update_merge_window=timedelta(seconds=MERGE_SECONDS),
    )


def _grpc_health() -> HealthCheck:
    """Return a check that keeps new requests from an engine that drains, hangs or has no configuration (R-50, R-54)."""
    return HealthCheck(
        interval=timedelta(seconds=CHECK_INTERVAL),
        no_traffic_interval=timedelta(seconds=1),
        timeout=timedelta(seconds=CHECK_TIMEOUT),
        unhealthy_threshold=1,
        healthy_threshold=1,
        grpc_health_check=HealthCheckGrpcHealthCheck(),
    )


def unlimited() -> CircuitBreakers:
    """Return circuit breakers that do not stop 10,000 requests in flight; Envoy's defaults stop at 1,024."""
    return CircuitBreakers(
        thresholds=[
            CircuitBreakersThresholds(
                max_connections=MANY,
                max_pending_requests=MANY,
                max_requests=MANY,
                max_retries=MANY,
            )
        ]
    )


def http2_options() -> HttpProtocolOptions:
    """Return HTTP/2 without Envoy's flood limits in the way of 10,000 streams on one connection."""
    return HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=Http2ProtocolOptions(
                max_concurrent_streams=ENVOY_STREAMS_PER_CONNECTION,
                max_outbound_frames=MANY,
                max_outbound_control_frames=MANY,
            )
        )
    )


def _assignment(cluster: ClusterModel) -> ClusterLoadAssignment:
    hosts = [LbEndpoint(endpoint=EnvoyEndpoint(address=_address(endpoint))) for endpoint in cluster.endpoints]
    return ClusterLoadAssignment(cluster_name=cluster.name, endpoints=[LocalityLbEndpoints(lb_endpoints=hosts)])


def _address(endpoint: Endpoint) -> Address:
    if endpoint.path:
        return Address(pipe=Pipe(path=endpoint.path))
    return Address(socket_address=SocketAddress(address=endpoint.host, port_value=endpoint.port))
