"""Writes the Envoy bootstrap that tests and the demo run with: small, and every limit the engine depends on set.

`policy-engine envoy-config` writes the operator's; this one stays apart so that a test can get settings
wrong on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Config = dict[str, Any]

_TYPE = "type.googleapis.com/envoy"
ENGINE_CLUSTER = "policy-engine"
UPSTREAM_CLUSTER = "upstream"
_MANY = 100_000
"""Above the 10,000 requests in flight of R-14; Envoy's own default is 1,024 per cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route by path prefix. `name` is what the engine gets as `xds.route_name`; empty means it has none.

    `overrides` is the route's `ExtProcPerRoute.overrides`, `disabled` switches the filter off, `metadata` is the
    route's filter metadata, `domain` the host it is for, `cluster_header` the request header that names the cluster in
    place of `cluster`. `idle_timeout` is a duration such as `1s`; empty leaves it to Envoy.
    """

    prefix: str
    name: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    disabled: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    cluster: str = UPSTREAM_CLUSTER
    cluster_header: str = ""
    domain: str = "*"
    idle_timeout: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """What differs between tests. `engine` is a port of 127.0.0.1 or the path of a Unix socket, or several of them (a
    worker each); None leaves the filter out. `upstreams` are the ports of further clusters by their names.

    Ports 0 let Envoy choose; its admin endpoint tells. `message_timeout` is long because a test machine may stall
    and the engine has its own time limits (R-12); 200 ms is Envoy's default.
    """

    routes: Sequence[Route]
    engine: int | Path | Sequence[int | Path] | None
    upstream_port: int
    listener_port: int = 0
    admin_port: int = 0
    upstream_http2: bool = False
    upstreams: Mapping[str, int] = field(default_factory=dict)
    message_timeout: str = "10s"
    buffer_limit_bytes: int = 12 * 1024 * 1024
    ext_proc: Mapping[str, Any] = field(default_factory=dict)
    access_log: Path | None = None
    access_log_fields: Mapping[str, str] = field(default_factory=dict)


def bootstrap_yaml(bootstrap: Bootstrap) -> str:
    """Return `bootstrap` as the YAML text for `envoy -c`."""
    text: str = yaml.safe_dump(_bootstrap(bootstrap), sort_keys=False)
    return text


def _bootstrap(bootstrap: Bootstrap) -> Config:
    upstreams = {UPSTREAM_CLUSTER: bootstrap.upstream_port, **bootstrap.upstreams}
    clusters = [_cluster(name, [port], http2=bootstrap.upstream_http2) for name, port in upstreams.items()]
    if bootstrap.engine is not None:
        engines = [bootstrap.engine] if isinstance(bootstrap.engine, int | Path) else bootstrap.engine
        clusters.insert(0, _cluster(ENGINE_CLUSTER, engines, http2=True))
    return {
        "admin": {"address": _address(bootstrap.admin_port)},
        "static_resources": {"listeners": [_listener(bootstrap)], "clusters": clusters},
    }


def _listener(bootstrap: Bootstrap) -> Config:
    connection_manager: Config = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "http_filters": [
            *_filters(bootstrap),
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
            },
        ],
        "http_protocol_options": {"enable_trailers": True},
        "route_config": {
            "name": "routes",
            "virtual_hosts": _virtual_hosts(bootstrap.routes),
        },
    }
    if bootstrap.access_log:
        connection_manager["access_log"] = [access_log(bootstrap.access_log, bootstrap.access_log_fields)]
    return {
        "name": "ingress",
        "address": _address(bootstrap.listener_port),
        "per_connection_buffer_limit_bytes": bootstrap.buffer_limit_bytes,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connection_manager}]}
        ],
    }


def _filters(bootstrap: Bootstrap) -> list[Config]:
    if bootstrap.engine is None:
        return []
    return [{"name": "envoy.filters.http.ext_proc", "typed_config": _ext_proc(bootstrap)}]


def _virtual_hosts(routes: Sequence[Route]) -> list[Config]:
    hosts: dict[str, list[Config]] = {}
    for route in routes:
        hosts.setdefault(route.domain, []).append(_route(route))
    return [
        {"name": "all" if domain == "*" else domain, "domains": [domain], "routes": own}
        for domain, own in hosts.items()
    ]


def _ext_proc(bootstrap: Bootstrap) -> Config:
    return {
        "@type": f"{_TYPE}.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": ENGINE_CLUSTER}},
        "failure_mode_allow": False,
        "message_timeout": bootstrap.message_timeout,
        "allow_mode_override": True,
        "request_attributes": ["xds.route_name", "source.address"],
        "response_attributes": ["response.code_details"],
        # Bodies and trailers stay off until the engine asks for them by `mode_override`.
        "processing_mode": {"request_header_mode": "SEND", "response_header_mode": "SEND"},
        "mutation_rules": {"allow_all_routing": True},
        **bootstrap.ext_proc,
    }


def _route(route: Route) -> Config:
    to = {"cluster_header": route.cluster_header} if route.cluster_header else {"cluster": route.cluster}
    config: Config = {"match": {"prefix": route.prefix}, "route": to}
    if route.idle_timeout:
        config["route"]["idle_timeout"] = route.idle_timeout
    if route.name:
        config["name"] = route.name
    if route.metadata:
        config["metadata"] = {"filter_metadata": dict(route.metadata)}
    per_route: Config = {"disabled": True} if route.disabled else {"overrides": dict(route.overrides)}
    if route.disabled or route.overrides:
        config["typed_per_filter_config"] = {
            "envoy.filters.http.ext_proc": {
                "@type": f"{_TYPE}.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
                **per_route,
            }
        }
    return config


def _cluster(name: str, targets: Sequence[int | Path], *, http2: bool) -> Config:
    cluster: Config = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {
            "thresholds": [
                {"max_connections": _MANY, "max_pending_requests": _MANY, "max_requests": _MANY, "max_retries": _MANY}
            ]
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(target)}} for target in targets]}],
        },
    }
    if http2:
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": _http2_limits()},
            }
        }
    return cluster


def _http2_limits() -> Config:
    """Return HTTP/2 options that let 10,000 streams share a connection without tripping Envoy's flood protection."""
    return {
        "max_concurrent_streams": 16_384,
        "max_outbound_frames": _MANY,
        "max_outbound_control_frames": _MANY,
    }


def access_log(path: Path, fields: Mapping[str, str]) -> Config:
    """Return an access log of JSON lines; `fields` are command operators of Envoy by their names."""
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{_TYPE}.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {
                "json_format": {"status": "%RESPONSE_CODE%", "details": "%RESPONSE_CODE_DETAILS%", **fields}
            },
        },
    }


def _address(target: int | Path) -> Config:
    if isinstance(target, Path):
        return {"pipe": {"path": str(target)}}
    return {"socket_address": {"address": "127.0.0.1", "port_value": target}}
