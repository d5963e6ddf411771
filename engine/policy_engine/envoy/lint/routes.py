"""Checks the routes of a listener against the chains: each route has one, and Envoy sends what it needs.

A separate module because it is the only check that needs to know both, route by route.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.documents.fields import did_you_mean
from policy_engine.envoy.demands import ChainDemand, Demands
from policy_engine.envoy.filter_config import duration
from policy_engine.envoy.lint.filters import lint_failure_mode, lint_namespaces
from policy_engine.envoy.lint.modes import STREAMING, effective_modes
from policy_engine.envoy.lint.proto_json import Node
from policy_engine.settings.route_key import RouteKeyPlace

_LISTED = 10
_DEFAULT_IDLE = 300.0
"""Seconds; `stream_idle_timeout` unless set (http_connection_manager.proto)."""


class RouteLint:
    """Checks one route configuration after the other and remembers which chains and clusters they use."""

    def __init__(self, demands: Demands) -> None:
        self._demands = demands
        self._used: set[str] = set()
        self._all_seen = True
        self._last: Node | None = None
        self.clusters: dict[str, Node] = {}

    def lint(self, manager: Node, http_filter: Node) -> Iterator[Diagnostic]:
        """Yield what is wrong with the routes of one connection manager that has the filter."""
        configuration = manager.get("route_config")
        if not configuration.exists:
            self._all_seen = False
            reason = "routes are discovered (RDS), so that they cannot be checked against the chains here"
            yield manager.get("rds").warning(Rule.ENVOY_ROUTE, reason, show=False, key=True)
            return
        if configuration.get("vhds").exists:
            self._all_seen = False
        self._last = configuration
        for host in configuration.get("virtual_hosts").items():
            for route in host.get("routes").items():
                self._note_clusters(route.get("route"))
                levels = (route, host, configuration)
                # A part of a route may have settings of its own, the most specific of all.
                parts = list(route.get("route", "weighted_clusters", "clusters").items())
                switches = [PerRoute(http_filter, (part, *levels)) for part in parts]
                whole = PerRoute(http_filter, levels)
                yield from self._route(manager, route, next((one for one in switches if one.off is not None), whole))

    def lint_chains_without_route(self) -> Iterator[Diagnostic]:
        """Yield a finding for each chain that no route of the file has, unless there may be routes elsewhere."""
        if self._last is None or not self._all_seen:
            return
        left = sorted(self._demands.chains.keys() - self._used)
        for key in left[:_LISTED]:
            reason = f"the chain {key!r} has no route here: it is never used"
            yield self._last.get("virtual_hosts").warning(Rule.ENVOY_ROUTE, reason, show=False, key=True)
        if len(left) > _LISTED:
            reason = f"{len(left) - _LISTED} more chains have no route here"
            yield self._last.get("virtual_hosts").warning(Rule.ENVOY_ROUTE, reason, show=False, key=True)

    def _note_clusters(self, action: Node) -> None:
        names = [action.get("cluster")]
        names += [one.get("name") for one in action.get("weighted_clusters", "clusters").items()]
        self.clusters |= {one.text(): one for one in names if one.text()}

    def _route(self, manager: Node, route: Node, per_route: PerRoute) -> Iterator[Diagnostic]:
        key = key_of(route, self._demands.route_key)
        chain = self._demands.chains.get(key.text())
        if chain is not None:
            self._used.add(chain.route_key)
        if per_route.off is not None:
            if chain is not None and chain.runs:
                reason = f"the filter is off on a route whose chain {chain.route_key!r} has policies: none of them runs"
                yield per_route.off.error(Rule.ENVOY_ROUTE, reason)
            return
        if chain is None:
            yield self._unknown(route, key)
            return
        yield from lint_failure_mode(per_route.setting("failure_mode_allow"), (chain.route_key,), self._demands)
        own = per_route.setting("metadata_options")
        if own.exists:
            yield from lint_namespaces(
                own.get("forwarding_namespaces", "untyped"), chain.asked.namespaces, self._demands
            )
        if chain.runs:
            yield from _modes(route, per_route, chain, self._demands, _idle_timeout(manager, route))

    def _unknown(self, route: Node, key: Node) -> Diagnostic:
        known = self._demands.chains
        if not key.text():
            what = (
                f"filter metadata {'.'.join(map(str, key.path[-2:]))}" if self._demands.route_key.namespace else "name"
            )
            reason = f"the route has no {what}, by which the engine would find its chain"
        else:
            reason = f"no chain has this route key{did_you_mean(key.text(), known)}"
        allowed = ", ".join(sorted(known)[:_LISTED]) + (", …" if len(known) > _LISTED else "")
        node = key if key.exists else route
        if self._demands.pass_unmapped:
            return node.warning(Rule.ENVOY_ROUTE, f"{reason}: its requests pass without policies", allowed=allowed)
        return node.error(Rule.ENVOY_ROUTE, f"{reason}: its requests are denied", allowed=allowed)


def key_of(route: Node, place: RouteKeyPlace) -> Node:
    """Return the route's key, by which the engine finds its chain."""
    if not place.namespace:
        return route.get("name")
    return route.get("metadata", "filter_metadata").at(place.namespace).at(place.key)


class PerRoute:
    """What a route, its virtual host and its route configuration say about the filter, most specific first."""

    def __init__(self, http_filter: Node, levels: tuple[Node, ...]) -> None:
        name = http_filter.get("name").text()
        written = [level.get("typed_per_filter_config").at(name) for level in levels]
        self._filter = http_filter.get("typed_config")
        self._configs = [one.get("config") if one.is_a("FilterConfig") else one for one in written if one.exists]
        self.off = _switched_off(http_filter, [one for one in written if one.exists])

    def setting(self, name: str) -> Node:
        """Return the override `name` of the most specific level that has it; a node that is not there else."""
        settings = [one.get("overrides", name) for one in self._configs]
        return next((one for one in settings if one.exists), Node(self._filter.document))

    @property
    def may_override(self) -> bool:
        """Whether the filter takes the modes that the engine asks for."""
        return self._filter.get("allow_mode_override").is_true()

    def modes(self) -> tuple[Node, Node]:
        """Return the override of processing modes and the filter's own."""
        return self.setting("processing_mode"), self._filter.get("processing_mode")


def _switched_off(http_filter: Node, written: list[Node]) -> Node | None:
    """Return what switches the filter off on a route, None when it is on; the most specific level decides."""
    for one in written:
        config = one.get("config") if one.is_a("FilterConfig") else one
        for node in (one.get("disabled"), config.get("disabled")):
            if node.is_true():
                return node
        if config.exists:
            return None
    disabled = http_filter.get("disabled")
    return disabled if disabled.is_true() else None


def _modes(route: Node, per_route: PerRoute, chain: ChainDemand, demands: Demands, idle: float) -> Iterator[Diagnostic]:
    nodes = per_route.modes()
    set_here = next((one for one in nodes if one.exists), route)
    modes = effective_modes(nodes)
    if modes["request_header_mode"] == "SKIP":
        reason = f"request headers are not sent: no policy of the chain {chain.route_key!r} runs"
        yield set_here.get("request_header_mode").error(Rule.ENVOY_MODE, reason, allowed="SEND")
    if (
        chain.modes["response_header_mode"] == "SEND"
        and modes["response_header_mode"] == "SKIP"
        and not per_route.may_override
    ):
        reason = (
            f"the chain {chain.route_key!r} has policies of the response, whose headers are not sent here, and "
            "allow_mode_override, by which the engine could ask for them, is not true"
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
        if chain.modes[body] == "BUFFERED" and modes[body] != "BUFFERED":
            own = per_route.setting("processing_mode")
            node = own.get(body) if own.exists else route
            yield from _not_whole(node, side, modes[body], chain, may_override=per_route.may_override)
            if side == "request" and modes[body] == "NONE" and idle > demands.longest_idle:
                yield _may_hang(node, chain, idle, demands)
        if chain.modes[body] == "BUFFERED" and modes[trailers] != "SEND" and not per_route.may_override:
            reason = (
                f"the chain {chain.route_key!r} reads the {side} body: without {trailers} SEND a {side} of headers and "
                "trailers alone passes by it, and allow_mode_override, by which the engine could ask, is not true"
            )
            yield set_here.get(trailers).error(Rule.ENVOY_MODE, reason, allowed="SEND")
        if modes[body] == "FULL_DUPLEX_STREAMED" and modes[trailers] != "SEND":
            reason = f"{body} FULL_DUPLEX_STREAMED needs {trailers} SEND"
            yield set_here.get(trailers).error(Rule.ENVOY_MODE, reason, allowed="SEND")


def _not_whole(node: Node, side: str, mode: str, chain: ChainDemand, *, may_override: bool) -> Iterator[Diagnostic]:
    """Yield a finding for a body that a chain needs whole and that only an override makes Envoy send so (R-08)."""
    allowed = f"{side}_body_mode: BUFFERED in the route's ExtProcPerRoute"
    needs = f"the chain {chain.route_key!r} needs the whole {side} body, the mode here is {mode}"
    if not may_override:
        reason = f"{needs}, and allow_mode_override, by which the engine could ask for it, is not true"
        yield node.error(Rule.ENVOY_MODE, reason, allowed=allowed)
    elif side == "response" and mode == "NONE":
        reason = (
            f"{needs} until the engine asks for it: whether Envoy grants that, the engine learns only when a first "
            "body has come; until then a client that breaks off makes it deny responses for a moment"
        )
        yield node.warning(Rule.ENVOY_MODE, reason, allowed=allowed)


def _idle_timeout(manager: Node, route: Node) -> float:
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
