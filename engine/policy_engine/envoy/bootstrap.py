"""Writes a whole Envoy bootstrap with the engine in front of one upstream, as YAML that explains itself.

A separate module because it is a sample: everything in it that the engine needs comes from `filter_config`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import yaml

from policy_engine.envoy.access_log import access_log
from policy_engine.envoy.demands import Demands
from policy_engine.envoy.edge import ANY_PORT, SPELLINGS, http2_limits
from policy_engine.envoy.filter_config import (
    TYPE,
    Config,
    EngineTls,
    cluster,
    engine_cluster,
    ext_proc_filter,
    not_found,
    route_parts,
    socket_address,
)
from policy_engine.envoy.scalars import is_plain_text
from policy_engine.transport.listen import parse_address

UPSTREAM_CLUSTER = "upstream"

_COMMENTS = {
    "per_connection_buffer_limit_bytes": (
        "Bounds a buffered body in Envoy (default 1 MiB); a little above the engine's body limit, so that the engine's",
        "answer (413) is the one the client sees.",
    ),
    "normalize_path": ("Two ways to write one path must not be two routes with different policies.",),
    "strip_trailing_host_dot": ("Nor two ways to write one host.",),
    "headers_with_underscores_action": ("`x_user` beside `x-user` is one header to many upstreams.",),
    "initial_stream_window_size": ("Bounds what Envoy holds of a request over HTTP/2: above the engine's body limit.",),
    "response_header_mode": (
        "SKIP, so that Envoy's own answers (400, 426, 431) reach the client; routes and the engine ask for them.",
    ),
    "direct_response": ("A path without a route: 404, without the engine.",),
    "failure_mode_allow": ("An engine that cannot be reached must not switch authentication off.",),
    "retry_policy": ("Another engine is asked when one restarts or is gone and cannot have seen the request.",),
    "message_timeout": ("Above the timeouts of the slowest chain's policies together (default 200 ms).",),
    "allow_mode_override": ("Lets the engine ask for the phases that its chains of this moment need.",),
    "request_attributes": (
        "The engine finds the chain by the first, and knows the client by the second; policies or conditions ask for",
        "the others.",
    ),
    "response_attributes": ("Tells policies the upstream's responses from Envoy's own answers.",),
    "mutation_rules": ("Lets policies change :method, :authority and :scheme.",),
    "access_log": ("A JSON line for each request, with the policy that denied it and why; paths without their query.",),
    "metadata_options": (
        "Namespaces of dynamic metadata: forwarded ones are those that policies or conditions read; received ones that",
        "of the engine's decisions and those in which policies may write.",
    ),
    "disabled": ("A chain without policies: the engine need not see the request at all.",),
    "overrides": ("The phases that this chain needs. Streaming can be set only here, never by the engine.",),
    "health_checks": (
        "An engine that drains, or has no configuration yet, gets no new requests; nor does a worker process that",
        "hangs, from half a second after it began to.",
    ),
    "common_lb_config": (
        "While no engine is healthy all are tried, as a moment in which all are slow is not an outage. With less than",
        "half of them healthy, Envoy would by default send to the others too.",
    ),
    "update_merge_window": (
        "What Envoy learns of an engine counts at once. By default it waits up to a second with it after it learnt of",
        "another: one that restarts while another is just back would get requests.",
    ),
    "circuit_breakers": ("Envoy's own defaults of 1,024 would be the limit on requests in flight.",),
    "max_outbound_frames": ("Keep Envoy's flood protection from ending a connection that thousands of streams share.",),
}
"""Put above the first line with the key."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a bootstrap needs beside the chains; addresses are `host:port` (`upstream` also `unix:/path`)."""

    ingress: str = "127.0.0.1:10000"
    upstream: str = "127.0.0.1:8080"
    admin: str = "127.0.0.1:9901"


def bootstrap(demands: Demands, sample: Sample, tls: EngineTls | None = None, namespaces: Sequence[str] = ()) -> Config:
    """Return the bootstrap. A route's path is its route key: the chains do not say what an operator's routes match."""
    return {
        "admin": {"address": _address(sample.admin)},
        "static_resources": {
            "listeners": [_listener(demands, sample, namespaces)],
            "clusters": [engine_cluster(demands.addresses, tls), cluster(UPSTREAM_CLUSTER, (sample.upstream,))],
        },
    }


def render(config: Config, header: Sequence[str] = (), comments: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return YAML with a comment above each setting that matters, once; `comments` are further ones by key."""
    lines = [f"# {line}" for line in header]
    left = {**_COMMENTS, **(comments or {})}
    for line in yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=2**20).splitlines():
        body = line.lstrip(" ")
        key = body.removeprefix("- ").partition(":")[0]
        lines += [f"{' ' * (len(line) - len(body))}# {comment}" for comment in left.pop(key, ())]
        lines.append(line)
    return "\n".join(lines) + "\n"


class _Dumper(yaml.SafeDumper):
    """Writes every text on one line, so that lines can be told apart by keys, and quotes what Envoy takes for no text.

    PyYAML knows neither all booleans nor all numbers that Envoy's reader does: it leaves `n` and `1e5` plain.
    """


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if text.isprintable() and is_plain_text(text) else '"'
    )


_Dumper.add_representer(str, _text)


def _listener(demands: Demands, sample: Sample, namespaces: Sequence[str]) -> Config:
    manager = {
        "@type": f"{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        **deepcopy(SPELLINGS),
        "http2_protocol_options": http2_limits(demands.buffer_limit),
        "access_log": access_log(),
        "http_filters": [
            ext_proc_filter(demands, namespaces),
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{TYPE}.extensions.filters.http.router.v3.Router"},
            },
        ],
        "route_config": {
            "name": "routes",
            **ANY_PORT,
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": _routes(demands)}],
        },
    }
    return {
        "name": "ingress",
        "address": _address(sample.ingress),
        "per_connection_buffer_limit_bytes": demands.buffer_limit,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _routes(demands: Demands) -> list[Config]:
    routes = []
    for key, chain in demands.chains.items():
        parts = route_parts(chain, demands)
        match = {"path_separated_prefix": "/" + quote(key, safe="")}
        named = {"name": parts.pop("name"), "match": match, "route": {"cluster": UPSTREAM_CLUSTER}}
        routes.append(named | parts)
    return [*routes, not_found()]


def _address(text: str) -> Config:
    address = parse_address(text)
    if isinstance(address, Path):
        raise ValueError(f"address {text!r}: expected host:port")
    return socket_address(*address)
