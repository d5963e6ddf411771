"""Envoy's routes, each with what it asks of the engine.

It is its own room because it is the hot part of a change: one edited route must not cost the making of all others. A
route is written with `envoy-data-plane`'s types and kept serialised for as long as it does not change; the route
configuration around them is put together with the compiled messages of `xds-protos` (measured: 200 routes through
`envoy-data-plane` take over a second, 5 ms each; put together from kept routes, 1 ms in all).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import Enum
from functools import cache

from envoy.config.route.v3 import route_pb2
from envoy_data_plane.envoy.config.route.v3 import DirectResponseAction, HeaderMatcher, Route, RouteAction, RouteMatch
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExtProcOverrides,
    ExtProcPerRoute,
    ProcessingMode,
    ProcessingModeBodySendMode,
    ProcessingModeHeaderSendMode,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any

from policy_control_plane.chain_modes import ChainModes, enabled
from policy_control_plane.envoy_listeners import FILTER
from policy_control_plane.model import HeaderMatch, MatchKind, RouteModel
from policy_engine.worker.chain import BodyMode

_BODY_MODES = {
    BodyMode.NONE: ProcessingModeBodySendMode.NONE,
    BodyMode.BUFFERED: ProcessingModeBodySendMode.BUFFERED,
    BodyMode.STREAMED: ProcessingModeBodySendMode.FULL_DUPLEX_STREAMED,
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
    return Filtering.ON if route.chain and enabled(route.chain) else Filtering.OFF


def route_body(route: RouteModel, filtering: Filtering, modes: ChainModes | None) -> bytes:
    """Return a serialised Route, of whose chain only `filtering` and `modes` matter.

    Its name is the route key that the engine gets to see (R-07). Without `modes` the engine says with its first answer
    which phases it needs.
    """
    per_route = _per_route(filtering, modes)
    return bytes(
        Route(
            name=route.name,
            match=_match(route),
            route=RouteAction(cluster=route.cluster, timeout=timedelta(seconds=route.timeout)),
            typed_per_filter_config={} if per_route is None else {FILTER: Any.pack(per_route)},
        )
    )


@cache
def _not_found() -> bytes:
    """Return a route that answers 404 by itself: a request without a route would still go through the filter."""
    return bytes(
        Route(
            match=RouteMatch(prefix="/"),
            direct_response=DirectResponseAction(status=404),
            typed_per_filter_config={FILTER: Any.pack(ExtProcPerRoute(disabled=True))},
        )
    )


def route_configuration_body(name: str, routes: Sequence[tuple[RouteModel, bytes]]) -> bytes:
    """Return a serialised RouteConfiguration with `routes` in their order, as one virtual host for each host named.

    A route without hosts is for every host. Envoy looks into the most specific virtual host only, so such a route goes
    into all of them. What has no route gets a 404 and no engine is asked.
    """
    configuration = route_pb2.RouteConfiguration(name=name, ignore_port_in_host_matching=True)
    for host in sorted({host for route, _ in routes for host in route.hosts} | {"*"}):
        of_host = [body for route, body in routes if not route.hosts or host in route.hosts]
        virtual_host = configuration.virtual_hosts.add(name=host, domains=[host])
        for body in (*of_host, _not_found()):
            virtual_host.routes.add().MergeFromString(body)
    wire: bytes = configuration.SerializeToString(deterministic=True)
    return wire


def _per_route(filtering: Filtering, modes: ChainModes | None) -> ExtProcPerRoute | None:
    if filtering is Filtering.OFF:
        return ExtProcPerRoute(disabled=True)
    if filtering is Filtering.NO_FILTER or modes is None:
        return None
    return ExtProcPerRoute(
        overrides=ExtProcOverrides(
            processing_mode=ProcessingMode(
                request_header_mode=ProcessingModeHeaderSendMode.SEND,
                request_body_mode=_BODY_MODES[modes.request_body],
                request_trailer_mode=_send(modes.request_trailers),
                response_header_mode=_send(modes.response_headers),
                response_body_mode=_BODY_MODES[modes.response_body],
                response_trailer_mode=_send(modes.response_trailers),
            )
        )
    )


def _send(wanted: bool) -> ProcessingModeHeaderSendMode:
    return ProcessingModeHeaderSendMode.SEND if wanted else ProcessingModeHeaderSendMode.SKIP


def _match(route: RouteModel) -> RouteMatch:
    headers = [_header(header) for header in route.headers]
    if route.path_kind is MatchKind.EXACT:
        return RouteMatch(path=route.path, headers=headers)
    if route.path_kind is MatchKind.PREFIX:
        return RouteMatch(prefix=route.path, headers=headers)
    if route.path_kind is MatchKind.SEGMENTS:
        return RouteMatch(path_separated_prefix=route.path, headers=headers)
    return RouteMatch(safe_regex=RegexMatcher(regex=route.path), headers=headers)


def _header(header: HeaderMatch) -> HeaderMatcher:
    if header.kind is MatchKind.PRESENT:
        return HeaderMatcher(name=header.name, present_match=True)
    matchers: Mapping[MatchKind, StringMatcher] = {
        MatchKind.EXACT: StringMatcher(exact=header.value),
        MatchKind.PREFIX: StringMatcher(prefix=header.value),
        MatchKind.REGEX: StringMatcher(safe_regex=RegexMatcher(regex=header.value)),
    }
    return HeaderMatcher(name=header.name, string_match=matchers[header.kind])
