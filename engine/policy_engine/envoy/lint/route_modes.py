"""Checks whether Envoy sends of a route what the policies of its chain need.

Apart from `routes`, which finds the chain of a route: what is needed is the same wherever the modes are written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.envoy.demands import ChainDemand, Demands
from policy_engine.envoy.filter_config import duration
from policy_engine.envoy.lint.modes import STREAMING, effective_modes
from policy_engine.envoy.lint.per_route import PerRoute
from policy_engine.envoy.lint.proto_json import Node

_DEFAULT_IDLE = 300.0
"""Seconds; `stream_idle_timeout` unless set (http_connection_manager.proto)."""
_DUPLEX = "FULL_DUPLEX_STREAMED"


def lint_modes(
    route: Node, per_route: PerRoute, chain: ChainDemand, demands: Demands, idle: float
) -> Iterator[Diagnostic]:
    """Yield what Envoy does not send of the route of `chain`; `idle` are the seconds after which it gives up."""
    nodes = per_route.modes()
    set_here = next((one for one in nodes if one.exists), route)
    modes = effective_modes(nodes)
    duplex = _DUPLEX in modes.values()
    # With full duplex on one side, Envoy takes no override for any phase.
    may_override = per_route.may_override and not duplex
    if modes["request_header_mode"] == "SKIP":
        reason = f"request headers are not sent: no policy of the chain {chain.route_key!r} runs"
        yield set_here.get("request_header_mode").error(Rule.ENVOY_MODE, reason, allowed="SEND")
    if chain.modes["response_header_mode"] == "SEND" and modes["response_header_mode"] == "SKIP" and not may_override:
        reason = (
            f"the chain {chain.route_key!r} has policies of the response, whose headers are not sent here, and "
            f"{_no_override(duplex=duplex)}"
        )
        yield set_here.get("response_header_mode").error(Rule.ENVOY_MODE, reason, allowed="SEND")
    for side in ("request", "response"):
        body, trailers = f"{side}_body_mode", f"{side}_trailer_mode"
        if chain.modes[body] in STREAMING and modes[body] not in STREAMING:
            own = per_route.setting("processing_mode")
            node = own.get(body) if own.exists else route
            reason = (
                f"every policy of the chain {chain.route_key!r} can stream the {side} body, but it is buffered: "
                "streaming can be switched on only here, in the route's ExtProcPerRoute"
            )
            yield node.error(Rule.ENVOY_MODE, reason, allowed=f"{body}: {chain.modes[body]}, {trailers}: SEND")
        if modes[body] == _DUPLEX and chain.modes[body] == "NONE":
            reason = (
                f"{body} {_DUPLEX}: all of it goes through the engine, and no policy of {chain.route_key!r} reads it"
            )
            yield set_here.get(body).warning(Rule.ENVOY_MODE, reason, allowed="NONE")
        # What comes in full duplex, the engine puts together itself.
        if chain.modes[body] == "BUFFERED" and modes[body] not in ("BUFFERED", _DUPLEX):
            own = per_route.setting("processing_mode")
            node = own.get(body) if own.exists else route
            yield from _not_whole(node, side, modes[body], chain, None if may_override else _no_override(duplex=duplex))
            if side == "request" and modes[body] == "NONE" and idle > demands.longest_idle:
                yield _may_hang(node, chain, idle, demands)
        if chain.modes[body] == "BUFFERED" and modes[trailers] != "SEND" and not may_override:
            reason = (
                f"the chain {chain.route_key!r} reads the {side} body: without {trailers} SEND a {side} of headers and "
                f"trailers alone passes by it, and {_no_override(duplex=duplex)}"
            )
            yield set_here.get(trailers).error(Rule.ENVOY_MODE, reason, allowed="SEND")
        if modes[body] == "FULL_DUPLEX_STREAMED" and modes[trailers] != "SEND":
            reason = f"{body} FULL_DUPLEX_STREAMED needs {trailers} SEND"
            yield set_here.get(trailers).error(Rule.ENVOY_MODE, reason, allowed="SEND")


def _no_override(*, duplex: bool) -> str:
    if duplex:
        return f"{_DUPLEX} on the other side keeps Envoy from taking the override by which the engine could ask"
    return "allow_mode_override, by which the engine could ask, is not true"


def _not_whole(node: Node, side: str, mode: str, chain: ChainDemand, forbidden: str | None) -> Iterator[Diagnostic]:
    """Yield a finding for a body that a chain needs whole and that only an override makes Envoy send so (R-08)."""
    allowed = f"{side}_body_mode: BUFFERED in the route's ExtProcPerRoute"
    needs = f"the chain {chain.route_key!r} needs the whole {side} body, the mode here is {mode}"
    if forbidden is not None:
        reason = f"{needs}, and {forbidden}"
        yield node.error(Rule.ENVOY_MODE, reason, allowed=allowed)
    elif side == "response" and mode == "NONE":
        reason = (
            f"{needs} until the engine asks for it: whether Envoy grants that, the engine learns only when a first "
            "body has come; until then a client that breaks off makes it deny responses for a moment"
        )
        yield node.warning(Rule.ENVOY_MODE, reason, allowed=allowed)


def idle_timeout(manager: Node, route: Node) -> float:
    """Return the seconds after which Envoy ends a request of which nothing more comes; infinite for never."""
    limits = (
        manager.get("request_timeout").seconds(0),
        route.get("route", "idle_timeout").seconds(manager.get("stream_idle_timeout").seconds(_DEFAULT_IDLE)),
    )
    return min((limit for limit in limits if limit), default=math.inf)


def _may_hang(node: Node, chain: ChainDemand, idle: float, demands: Demands) -> Diagnostic:
    """Return the finding about a trap of Envoy 1.36 (shown by `runtime_limits_test`)."""
    until = "for ever" if math.isinf(idle) else f"until the idle timeout of {duration(idle)}"
    reason = (
        f"a request for the chain {chain.route_key!r} that has no content-length and sends more than Envoy's buffer "
        f"holds before the engine has answered its headers hangs {until}, as the mode is not set here"
    )
    bounds = f"idle_timeout of the route, or request_timeout, of at most {duration(demands.longest_idle)}"
    return node.warning(Rule.ENVOY_IDLE, reason, allowed=f"request_body_mode: BUFFERED in ExtProcPerRoute; or {bounds}")
