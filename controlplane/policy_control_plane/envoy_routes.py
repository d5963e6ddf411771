"""Envoy's routes, each with what it asks of the engine.

A separate module because routes are many and change often. That is also why they alone are made of the compiled
messages of `xds-protos`: 200 routes take 1.4 s of processor time with `envoy-data-plane`, 3 ms with these, and an edit
that touches all of them (a renamed cluster) has to be in use as fast as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Final

from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2
from google.protobuf import json_format

from policy_control_plane.model import HeaderMatch, MatchKind, RouteModel
from policy_engine.envoy.edge import ANY_PORT, NOT_FOUND
from policy_engine.envoy.filter_config import FILTER
from policy_engine.kernel.routes import configured_mode
from policy_engine.sources.written_entries import running
from policy_engine.worker.chains.needs import Needs

_PATH_FIELDS: Final = {
    MatchKind.EXACT: "path",
    MatchKind.PREFIX: "prefix",
    MatchKind.SEGMENTS: "path_separated_prefix",
}


class Filtering(Enum):
    """Whether the engine sees requests of a route."""

    NO_FILTER = "the listener has no filter"
    OFF = "switched off"
    ON = "on"


def filtering(route: RouteModel, *, with_engine: bool) -> Filtering:
    """Return whether `route` needs the engine: not without a chain, nor with one that has nothing to run."""
    if not with_engine:
        return Filtering.NO_FILTER
    return Filtering.ON if any(running(route.chain or ())) else Filtering.OFF


def route_configuration_body(name: str, routes: Sequence[tuple[RouteModel, Filtering, Needs | None]]) -> bytes:
    """Return a serialised RouteConfiguration with `routes` in their order, as one virtual host for each host named.

    A route's name is the route key that the engine gets to see (R-07). A route without needs leaves it to the engine to
    say which phases it needs. A route without hosts is for every host: Envoy looks into the most specific virtual host
    only, so such a route goes into all of them. What has no route gets a 404 and no engine is asked.
    """
    configuration = json_format.ParseDict({"name": name, **ANY_PORT}, route_pb2.RouteConfiguration())
    messages = [(route.hosts, _route(route, filtering, needs)) for route, filtering, needs in routes]
    for host in sorted({host for hosts, _ in messages for host in hosts} | {"*"}):
        virtual_host = configuration.virtual_hosts.add(name=host, domains=[host])
        virtual_host.routes.extend(message for hosts, message in messages if not hosts or host in hosts)
        virtual_host.routes.append(_not_found())
    wire: bytes = configuration.SerializeToString(deterministic=True)
    return wire


def _route(route: RouteModel, filtering: Filtering, needs: Needs | None) -> Any:
    message = route_components_pb2.Route(name=route.name)
    if route.path_kind is MatchKind.REGEX:
        message.match.safe_regex.regex = route.path
    else:
        setattr(message.match, _PATH_FIELDS[route.path_kind], route.path)
    for header in route.headers:
        _add_header(message.match.headers.add(), header)
    message.route.cluster = route.cluster
    message.route.timeout.FromMilliseconds(round(route.timeout * 1000))
    if filtering is Filtering.OFF:
        message.typed_per_filter_config[FILTER].Pack(ext_proc_pb2.ExtProcPerRoute(disabled=True))
    elif filtering is Filtering.ON and needs is not None:
        overrides = ext_proc_pb2.ExtProcOverrides(processing_mode=configured_mode(needs))
        message.typed_per_filter_config[FILTER].Pack(ext_proc_pb2.ExtProcPerRoute(overrides=overrides))
    return message


def _not_found() -> Any:
    """Return a route that answers 404 by itself: a request without a route would still go through the filter."""
    message = json_format.ParseDict(NOT_FOUND, route_components_pb2.Route())
    message.typed_per_filter_config[FILTER].Pack(ext_proc_pb2.ExtProcPerRoute(disabled=True))
    return message


def _add_header(message: Any, header: HeaderMatch) -> None:
    message.name = header.name
    if header.kind is MatchKind.PRESENT:
        message.present_match = True
    elif header.kind is MatchKind.REGEX:
        message.string_match.safe_regex.regex = header.value
    else:
        setattr(message.string_match, header.kind.value, header.value)
