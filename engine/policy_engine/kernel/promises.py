"""What one connection has shown of whether Envoy takes the engine's `mode_override` (R-08).

Envoy never says whether it does, nor how a stream ended: a response body that it may not send looks like a client that
went away. Where Envoy's own configuration already sends what a chain needs, nothing of this is asked.

Why it is sound. Only Envoy can make a body arrive that the override alone asked for, so `honoured` cannot be forged,
and from then on an end without a body means nothing. `doubted` can be forged, by a client that leaves before that: so
in doubt each stream asks not to be sent the response's headers. From an Envoy that takes overrides the body then comes
by itself and ends the doubt (that one response is broken off); from one that does not the headers come, and are denied.
A chain that changes response headers is no such probe, as they must not go out unchanged; others end its doubt.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from policy_engine.kernel.routes import Modes, Route
from policy_engine.kernel.stream import Peer
from policy_engine.worker.chains.compiled import Step

logger = logging.getLogger("policy_engine.kernel")

_ENDS_IN_A_ROW = 20
"""Streams of a route that end without the body they asked for before that is named although others got theirs."""


def honour(peer: Peer, route: Route) -> None:
    """A body came that only an override can have asked for."""
    route.ends_without_body = 0
    if peer.doubted:
        peer.doubted = False
        logger.warning(
            "Envoy sends the bodies it is asked for: responses that need them pass again (seen on route %s)",
            route.chain.route_key,
            extra={"event": "body_sent_after_all", "route": route.chain.route_key},
        )
    peer.honoured = True


def doubt(peer: Peer) -> None:
    """Something came, or did not, that should not be so if Envoy took overrides."""
    peer.doubted = not peer.honoured


def ended_without_body(peer: Peer, route: Route, modes: Modes) -> bool:
    """Take note of a stream that ended after the response's headers; returns whether a promise may be broken."""
    doubt(peer)
    route.ends_without_body += 1
    if peer.doubted or route.ends_without_body == _ENDS_IN_A_ROW:
        name_unsent_response_body(route, modes)
    return peer.doubted


def name_unsent_response_body(route: Route, modes: Modes) -> None:
    """Say once for a route what its configuration in Envoy lacks."""
    _once(
        route,
        "body_not_sent",
        "response",
        "route %s needs the response body for %s, but Envoy did not send it: set `processing_mode.response_body_mode: "
        "BUFFERED` for the route, or `allow_mode_override: true` on the ext_proc filter (and list the mode in "
        "`allowed_override_modes` if that is used). Perhaps the client only went away: the next body that comes ends "
        "the doubt. Until then responses of such routes are %s",
        _labels(route.chain.response_body),
        "passed unchecked (failure mode open)" if modes.guard is None else "denied",
    )


def name_unsent_request_body(route: Route, steps: Sequence[Step], closed: Step | None) -> None:
    """Say once for a route that a request went on without the body that was asked for."""
    _once(
        route,
        "body_not_sent",
        "request",
        "route %s needs the request body for %s, but Envoy did not send it: set `allow_mode_override: true` on "
        "the ext_proc filter (and list the mode in `allowed_override_modes` if that is used); requests are %s",
        _labels(steps),
        "passed unchecked (failure mode open)" if closed is None else "denied until then",
    )


def name_hung_request(route: Route, length: str) -> None:
    """Say once for a route that a request ended while its body was waited for; `length` is that which it announced."""
    _once(
        route,
        "body_waited_for",
        "request",
        "route %s: a request with a body of %s bytes ended before Envoy had sent the body. If such requests hang, the "
        "body is larger than Envoy's buffer (per_connection_buffer_limit_bytes; 32 KiB in Envoy Gateway): raise that, "
        "set `request_body_mode: BUFFERED` for the route or the filter, or tell the engine (envoy_buffer_limit). "
        "Perhaps the client only went away",
        length,
        level=logging.WARNING,
    )


def name_body_in_pieces(route: Route, field: str, steps: Sequence[Step], closed: Step | None) -> None:
    """Say once for a route that a body comes in pieces which policies need whole; `field` is that of the message."""
    _once(
        route,
        "body_in_pieces",
        field,
        f"route %s needs the whole {field.replace('_', ' ')} for %s, but Envoy sends it in pieces: set "
        "`allow_mode_override: true` on the ext_proc filter, or the mode BUFFERED for the route; bodies are %s",
        _labels(steps),
        "passed (failure mode open)" if closed is None else "broken off",
    )


def name_trailers_only(route: Route) -> None:
    """Say once for a route that something was denied for having trailers but no body."""
    _once(
        route,
        "trailers_only",
        "",
        "route %s: trailers without a body; what policies that read it would change cannot be sent, so denied",
    )


def _labels(steps: Sequence[Step]) -> str:
    return ", ".join(step.label for step in steps)


def _once(route: Route, event: str, side: str, text: str, *values: str, level: int = logging.ERROR) -> None:
    if f"{event} {side}" not in route.warned:
        route.warned.add(f"{event} {side}")
        key = route.chain.route_key
        logger.log(level, text, key, *values, extra={"event": event, "route": key})
