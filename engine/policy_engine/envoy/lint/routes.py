"""Checks the routes of a listener against the chains: each route has one, and it is the one that is meant for it.

A separate module because it is the only check that needs to know both, route by route.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.documents.fields import did_you_mean
from policy_engine.envoy.demands import Demands
from policy_engine.envoy.lint.filters import lint_failure_mode, lint_namespaces
from policy_engine.envoy.lint.per_route import PerRoute, per_route
from policy_engine.envoy.lint.proto_json import Node
from policy_engine.envoy.lint.route_modes import idle_timeout, lint_modes
from policy_engine.kernel.route_key import RouteKey
from policy_engine.kernel.route_metadata import resource_of
from policy_engine.worker.chains.route_patterns import RoutePatterns, is_pattern

_LISTED = 10
_ISTIO_NAMESPACE = 5
"""Place of the namespace in `/apis/GROUP/VERSION/namespaces/NAMESPACE/KIND/NAME`."""


@dataclass(frozen=True, slots=True)
class _Owner:
    """Whom a route belongs to, as far as its metadata says: the namespace of its resource, else its virtual host."""

    namespace: str
    host: str


@dataclass(slots=True)
class FilterUse:
    """One filter of a connection manager, and the keys of the chains on whose routes it is on.

    `all_seen` is false where it may serve routes that are not in the file.
    """

    listener: Node
    manager: Node
    http_filter: Node
    serves: set[str] = field(default_factory=set)
    all_seen: bool = True


class RouteLint:
    """Checks one route configuration after the other and remembers which chains and clusters they use."""

    def __init__(self, demands: Demands, discovered: Mapping[str, Node]) -> None:
        self._demands = demands
        self._discovered = discovered
        self._known = {*demands.chains, *demands.unmapped}
        self._patterns = RoutePatterns(filter(is_pattern, self._known))
        self._used: set[str] = set()
        self._owners: dict[str, dict[_Owner, Node]] = {}
        self._all_seen = True
        self._last: Node | None = None
        self.clusters: dict[str, Node] = {}

    def lint(self, manager: Node, uses: Sequence[FilterUse]) -> Iterator[Diagnostic]:
        """Yield what is wrong with the routes of one connection manager that has these filters."""
        configuration = manager.get("route_config")
        if not configuration.exists:
            name = manager.get("rds", "route_config_name").text()
            configuration = self._discovered.get(name, configuration)
        if not configuration.exists or configuration.get("vhds").exists:
            self._all_seen = False
            for use in uses:
                use.all_seen = False
        if not configuration.exists:
            reason = "routes are discovered (RDS), so that they cannot be checked against the chains here"
            yield manager.get("rds").warning(Rule.ENVOY_ROUTE, reason, show=False, key=True)
            return
        self._last = configuration
        for host in configuration.get("virtual_hosts").items():
            for route in host.get("routes").items():
                self._note_clusters(route.get("route"))
                on_route = [per_route(use.http_filter, route, host, configuration) for use in uses]
                yield from self._route(manager, host, route, list(zip(uses, on_route, strict=True)))

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

    def lint_shared_keys(self) -> Iterator[Diagnostic]:
        """Yield a finding for each key that routes of several owners have: they share a chain, meant or not."""
        for key, owners in self._owners.items():
            namespaces = sorted({one.namespace for one in owners if one.namespace})
            hosts = sorted({one.host for one in owners})
            *_, last = owners.values()
            if len(namespaces) > 1:
                reason = f"routes of the namespaces {', '.join(namespaces)} have one key, {key!r}, and so one chain"
                allowed = "a key that has the namespace in it: route_key.source httproute, annotation or istio"
                yield last.error(Rule.ENVOY_ROUTE, reason, allowed=allowed)
            elif len(hosts) > 1 and not namespaces:
                reason = f"routes of the virtual hosts {', '.join(hosts)} have one key, {key!r}, and so one chain"
                yield last.warning(Rule.ENVOY_ROUTE, reason, allowed="a name of its own for each")

    def _met(self, key: str | None) -> str | None:
        """Return the route key of the chains that requests of a route with `key` meet, as in the engine."""
        return key if not key or key in self._known else self._patterns.find(key)

    def _note_clusters(self, action: Node) -> None:
        names = [action.get("cluster")]
        names += [one.get("name") for one in action.get("weighted_clusters", "clusters").items()]
        self.clusters |= {one.text(): one for one in names if one.text()}

    def _route(
        self, manager: Node, host: Node, route: Node, on_route: Sequence[tuple[FilterUse, PerRoute]]
    ) -> Iterator[Diagnostic]:
        key, node = key_of(route, self._demands.route_key)
        if key is None:
            return
        met = self._met(key)
        chain = self._demands.chains.get(met or "")
        on = [(use, one) for use, one in on_route if one.off is None]
        if chain is not None:
            self._used.add(chain.route_key)
            if on:
                self._owners.setdefault(key, {})[_owner(host, route)] = node if node.exists else route
        if not on:
            off = on_route[0][1].off
            if chain is not None and chain.runs and off is not None:
                reason = f"the filter is off on a route whose chain {chain.route_key!r} has policies: none of them runs"
                yield off.error(Rule.ENVOY_ROUTE, reason)
            return
        if chain is None:
            if not met:
                yield self._unknown(route, key, node)
            return
        if len(on) > 1:
            names = ", ".join(use.http_filter.get("name").text() for use, _ in on)
            reason = f"{len(on)} filters ask the engine on this route, so that the chain {key!r} runs as often: {names}"
            yield (node if node.exists else route).error(
                Rule.ENVOY_FILTER, reason, allowed="one of them, the others off"
            )
        for use, one in on:
            use.serves.add(chain.route_key)
            yield from lint_failure_mode(one.setting("failure_mode_allow"), (chain.route_key,), self._demands)
            own = one.setting("metadata_options")
            if own.exists:
                forwarded = own.get("forwarding_namespaces", "untyped")
                yield from lint_namespaces(forwarded, chain.asked.namespaces, self._demands)
            if chain.runs:
                yield from lint_modes(route, one, chain, self._demands, idle_timeout(manager, route))

    def _unknown(self, route: Node, key: str, node: Node) -> Diagnostic:
        known = self._demands.chains
        if not key:
            reason = f"the route has no {self._sought()}, by which the engine would find its chain"
        else:
            # A key that stands in the file as it is, is shown there.
            what = "this route key" if node.value == key else f"this route's key, {key!r}"
            reason = f"no chain has {what}{did_you_mean(key, known)}"
        allowed = ", ".join(sorted(known)[:_LISTED]) + (", …" if len(known) > _LISTED else "")
        node = node if node.exists else route
        if self._demands.pass_unmapped:
            return node.warning(Rule.ENVOY_ROUTE, f"{reason}: its requests pass without policies", allowed=allowed)
        return node.error(Rule.ENVOY_ROUTE, f"{reason}: its requests are denied", allowed=allowed)

    def _sought(self) -> str:
        place = self._demands.route_key.metadata
        if place is not None:
            return f"filter metadata {'.'.join(place)}"
        return "name" if self._demands.route_key.parts == ("route_name",) else ", ".join(self._demands.route_key.parts)


def key_of(route: Node, route_key: RouteKey) -> tuple[str | None, Node]:
    """Return the route's key, None where the file cannot tell it, and the place to speak of."""
    metadata = route.get("metadata", "filter_metadata")
    place = route_key.metadata
    node = route.get("name") if place is None else metadata.at(place[0]).at(place[1])
    return route_key.of_route(route.get("name").text(), _plain(metadata)), node


def _plain(metadata: Node) -> Mapping[str, Any]:
    found = metadata.value if isinstance(metadata.value, dict) else {}
    return {name: values for name, values in found.items() if isinstance(values, dict)}


def _owner(host: Node, route: Node) -> _Owner:
    metadata = _plain(route.get("metadata", "filter_metadata"))
    namespace = resource_of(metadata).namespace
    config = metadata.get("istio", {}).get("config")
    if not namespace and isinstance(config, str):
        parts = config.split("/")
        namespace = parts[_ISTIO_NAMESPACE] if len(parts) > _ISTIO_NAMESPACE else ""
    return _Owner(namespace, host.get("name").text())
