"""Writes the ext_proc filter, the engine's cluster and the per-route overrides that a set of chains needs.

A separate module because these are the parts an operator pastes into an Envoy configuration of their own. Plain data
and not `envoy-data-plane`'s types: those are no dependency of the engine's image, and Envoy itself checks the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from policy_engine.envoy.access_log import access_log
from policy_engine.envoy.demands import REQUESTS_IN_FLIGHT, ChainDemand, Demands
from policy_engine.envoy.edge import ANY_PORT, FILTER_MODES, NOT_FOUND, SPELLINGS, http2_limits
from policy_engine.kernel.origin import RESPONSE_DETAILS
from policy_engine.kernel.reply import DECISION_NAMESPACE
from policy_engine.limits import ENVOY_STREAMS_PER_CONNECTION
from policy_engine.transport.listen import parse_address
from policy_engine.worker.chains.needs import Asked

Config = dict[str, Any]

FILTER = "envoy.filters.http.ext_proc"
ENGINE_CLUSTER = "policy-engine"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
TYPE = "type.googleapis.com/envoy"

MANY = 10 * REQUESTS_IN_FLIGHT
"""Above every count that 10,000 requests in flight lead to: Envoy's limits are for peers it does not trust."""

RETRY_ON = frozenset({"connect-failure", "refused-stream", "reset-before-request"})
"""What shows that an engine cannot have seen a request, so that another may be asked."""

CHECK_INTERVAL, CHECK_TIMEOUT = 0.2, 0.25
"""Seconds. What is sent to a worker process that hangs fails until a check finds it out: half a second at most, as one
failed check is enough."""

PANIC_PERCENT = 1
"""When fewer engines are healthy, which means none, all are tried: a moment in which all are slow is not an outage. It
lets nothing through: an engine without a configuration does not listen, and one that is gone fails the request."""

MERGE_SECONDS = 0.0
"""For how long Envoy keeps back what it learns of an endpoint after it learnt of another; a second unless set.

In a rolling restart the next engine ends as soon as the last one is back: with a second, Envoy sends requests to the
one that has ended, and none to the one that is back.
"""

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}  # noqa: S104 - what is dialled for it


@dataclass(frozen=True, slots=True)
class EngineTls:
    """Files, as Envoy sees them, with which Envoy checks the engine and shows itself to it.

    `name` is the DNS name that the engine's certificate has to bear; without it any certificate of the CA will do.
    """

    ca: Path
    name: str | None = None
    cert: Path | None = None
    key: Path | None = None


def fragments(demands: Demands, tls: EngineTls | None = None, namespaces: Sequence[str] = ()) -> Config:
    """Return what belongs into an existing configuration, each part under the name of the field it goes to.

    `namespaces` are those of dynamic metadata that policies may write.
    """
    return {
        "per_connection_buffer_limit_bytes": demands.buffer_limit,
        "http_filters": [ext_proc_filter(demands, namespaces)],
        "http_connection_manager": {
            **deepcopy(SPELLINGS),
            "http2_protocol_options": http2_limits(demands.buffer_limit),
            "access_log": access_log(),
        },
        "route_config": dict(ANY_PORT),
        "routes": [*(route_parts(chain, demands) for chain in demands.chains.values()), not_found()],
        "clusters": [engine_cluster(demands.addresses, tls)],
    }


def ext_proc_filter(demands: Demands, namespaces: Sequence[str] = ()) -> Config:
    """Return the HTTP filter."""
    config: Config = {
        "@type": f"{TYPE}.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": ENGINE_CLUSTER}, "retry_policy": another_engine()},
        "failure_mode_allow": False,
        "message_timeout": duration(demands.message_timeout),
        "allow_mode_override": True,
        "request_attributes": list(demands.request_attributes),
        "response_attributes": [RESPONSE_DETAILS],
        "processing_mode": dict(FILTER_MODES),
        "mutation_rules": {"allow_all_routing": True},
    }
    config["metadata_options"] = metadata_options(demands.asked, namespaces)
    return {"name": FILTER, "typed_config": config}


def metadata_options(asked: Asked, namespaces: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Return which namespaces of dynamic metadata Envoy sends and takes.

    Sent are those that policies or conditions read, taken the engine's own and the `namespaces` for policies.
    """
    options = {"receiving_namespaces": {"untyped": list(dict.fromkeys((DECISION_NAMESPACE, *namespaces)))}}
    if asked.namespaces:
        options["forwarding_namespaces"] = {"untyped": sorted(asked.namespaces)}
    return options


def another_engine() -> Config:
    """Return a retry policy: another endpoint when one cannot have seen the request, because it restarts or is gone.

    Health checks find that out a second later; without this, every request until then is lost (R-54).
    """
    predicate = "envoy.retry_host_predicates.previous_hosts"
    config = {"@type": f"{TYPE}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}
    return {
        "retry_on": ",".join(sorted(RETRY_ON)),
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.100s"},
        "retry_host_predicate": [{"name": predicate, "typed_config": config}],
        "host_selection_retry_max_attempts": "3",
    }


def route_parts(chain: ChainDemand, demands: Demands) -> Config:
    """Return what the route of `chain` needs: its key, and what the filter does on it."""
    per_route: Config = {"@type": f"{TYPE}.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"}
    if chain.runs:
        per_route["overrides"] = {"processing_mode": dict(chain.modes)}
    else:
        per_route["disabled"] = True
    parts: Config = {"name": chain.route_key}
    place = demands.route_key.metadata
    if place is not None:
        namespace, key = place
        parts["metadata"] = {"filter_metadata": {namespace: {key: chain.route_key}}}
    return parts | {"typed_per_filter_config": {FILTER: per_route}}


def not_found() -> Config:
    """Return the last route of a virtual host: what has no route gets a 404 from Envoy, and no engine is asked."""
    off = {"@type": f"{TYPE}.extensions.filters.http.ext_proc.v3.ExtProcPerRoute", "disabled": True}
    return {**deepcopy(NOT_FOUND), "typed_per_filter_config": {FILTER: off}}


def engine_cluster(addresses: Sequence[str], tls: EngineTls | None = None) -> Config:
    """Return the engine's cluster, one endpoint for each address."""
    check: Config = {"timeout": duration(CHECK_TIMEOUT), "interval": duration(CHECK_INTERVAL)}
    check |= {"no_traffic_interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1, "grpc_health_check": {}}
    engine: Config = {
        "typed_extension_protocol_options": {HTTP_OPTIONS: _http2()},
        "health_checks": [check],
        "common_lb_config": {
            "healthy_panic_threshold": {"value": PANIC_PERCENT},
            "update_merge_window": duration(MERGE_SECONDS),
        },
    }
    if tls is not None:
        engine["transport_socket"] = _transport_socket(tls)
    return cluster(ENGINE_CLUSTER, addresses) | engine


def cluster(name: str, addresses: Sequence[str]) -> Config:
    """Return a cluster of `addresses` (`host:port` or `unix:/path`) that bears 10,000 requests at once (R-14)."""
    endpoints = [_address(one) for one in addresses]
    return {
        "name": name,
        "type": "STATIC" if all(_is_numeric(one) for one in endpoints) else "STRICT_DNS",
        "connect_timeout": "1s",
        "circuit_breakers": _circuit_breakers(),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": one}} for one in endpoints]}],
        },
    }


def duration(seconds: float) -> str:
    """Return seconds as protobuf's JSON writes a duration."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"


def socket_address(host: str, port: int) -> Config:
    """Return an Envoy `Address`."""
    return {"socket_address": {"address": host, "port_value": port}}


def _circuit_breakers() -> Config:
    return {
        "thresholds": [
            {"max_connections": MANY, "max_pending_requests": MANY, "max_requests": MANY, "max_retries": MANY}
        ]
    }


def _http2() -> Config:
    return {
        "@type": f"{TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {
            "http2_protocol_options": {
                "max_concurrent_streams": ENVOY_STREAMS_PER_CONNECTION,
                "max_outbound_frames": MANY,
                "max_outbound_control_frames": MANY,
            }
        },
    }


def _transport_socket(tls: EngineTls) -> Config:
    validation: Config = {"trusted_ca": {"filename": str(tls.ca)}}
    if tls.name is not None:
        validation["match_typed_subject_alt_names"] = [{"san_type": "DNS", "matcher": {"exact": tls.name}}]
    common: Config = {"validation_context": validation, "alpn_protocols": ["h2"]}
    if tls.cert is not None and tls.key is not None:
        common["tls_certificates"] = [
            {"certificate_chain": {"filename": str(tls.cert)}, "private_key": {"filename": str(tls.key)}}
        ]
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TYPE}.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": common,
        }
        | ({"sni": tls.name} if tls.name is not None else {}),
    }


def _address(text: str) -> Config:
    address = parse_address(text)
    if isinstance(address, Path):
        return {"pipe": {"path": str(address)}}
    host, port = address
    return socket_address(_ANY_ADDRESS.get(host, host), port)


def _is_numeric(address: Config) -> bool:
    if "pipe" in address:
        return True
    try:
        ip_address(address["socket_address"]["address"])
    except ValueError:
        return False
    return True
