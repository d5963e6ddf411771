"""Makes one snapshot, all that Envoy and the engines are to have, from one model.

A separate module because here, and only here, the parts meet: a route and the chain under its name always come from
the same edit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from policy_control_plane.chain_needs import asked_for, chain_needs, longest_answer
from policy_control_plane.envoy_clusters import cluster_body, endpoints_body
from policy_control_plane.envoy_listeners import listener_body, steady_message_timeout
from policy_control_plane.envoy_routes import filtering, route_configuration_body
from policy_control_plane.model import ClusterModel, ListenerModel, Model, RouteModel
from policy_control_plane.resources import (
    CHAIN,
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    ROUTES,
    Resource,
    Snapshot,
    by_name,
    resource,
)
from policy_engine.limits import BODY_LIMIT, POLICY_TIMEOUT
from policy_engine.sources.xds import chain as xds_chain
from policy_engine.worker.chains.needs import NOTHING_ASKED, Needs
from policy_engine.worker.policies.registry import Registry

_Key = TypeVar("_Key", bound=Hashable)


class _Kept(Generic[_Key]):
    """Bodies made for the last snapshot, by what they were made of; what the next one does not use is dropped."""

    def __init__(self) -> None:
        self._before: dict[_Key, bytes] = {}
        self._now: dict[_Key, bytes] = {}

    def get(self, key: _Key, make: Callable[[], bytes]) -> bytes:
        body = self._before.get(key)
        self._now[key] = body if body is not None else make()
        return self._now[key]

    def turn(self) -> None:
        self._before, self._now = self._now, {}


def _endpoints(cluster: ClusterModel) -> bytes:
    return endpoints_body(cluster) or b""


class SnapshotBuilder:
    """Builds snapshots; keep it, because it makes again only what has changed.

    With a `registry`, routes tell Envoy which phases their chains need. `body_limit` is in bytes (R-09).
    `metadata_namespaces` are those of dynamic metadata that policies may write (R-04). `policy_timeout` (seconds) is
    what the engines give to policies whose chain entry has none (R-12).
    """

    def __init__(
        self,
        registry: Registry | None = None,
        body_limit: int = BODY_LIMIT,
        metadata_namespaces: tuple[str, ...] = (),
        policy_timeout: float = POLICY_TIMEOUT,
    ) -> None:
        self._registry = registry
        self._body_limit = body_limit
        self._namespaces = metadata_namespaces
        self._policy_timeout = policy_timeout
        self._bodies: _Kept[Hashable] = _Kept()

    def build(self, model: Model) -> Snapshot:
        """Return the snapshot of `model`; the same model gives the same bytes and versions everywhere."""
        clusters = [*model.clusters, *([model.engine] if model.engine is not None else [])]
        endpoints = [
            resource(cluster.name, body)
            for cluster in clusters
            if (body := self._bodies.get(("endpoints", cluster), partial(_endpoints, cluster)))
        ]
        snapshot = {
            CHAIN: by_name(self._chain(route) for route in model.routes if route.chain is not None),
            CLUSTER: by_name(
                resource(one.name, self._bodies.get(("cluster", one), partial(cluster_body, one))) for one in clusters
            ),
            ENDPOINTS: by_name(endpoints),
            LISTENER: by_name(self._listener(listener, model) for listener in model.listeners),
            ROUTES: by_name(self._routes(listener, model) for listener in model.listeners),
        }
        self._bodies.turn()
        return MappingProxyType(snapshot)

    def _chain(self, route: RouteModel) -> Resource:
        document: dict[str, Any] = {"route_key": route.name, "policies": route.chain, **route.settings}
        if route.errors is not None:
            document["errors"] = route.errors.as_document()
        return resource(route.name, xds_chain.encode(document))

    def _listener(self, listener: ListenerModel, model: Model) -> Resource:
        chains = (route.chain for route in model.routes if route.chain)
        slowest = max((longest_answer(chain, self._registry, self._policy_timeout) for chain in chains), default=0.0)
        with_engine, timeout = model.engine is not None, steady_message_timeout(slowest)
        asked = NOTHING_ASKED
        for route in model.routes:
            asked |= asked_for(route.chain or (), self._registry)
        body = self._bodies.get(
            ("listener", listener, with_engine, timeout, asked),
            lambda: listener_body(
                listener,
                with_engine=with_engine,
                message_timeout=timeout,
                body_limit=self._body_limit,
                namespaces=self._namespaces,
                asked=asked,
            ),
        )
        return resource(listener.name, body)

    def _routes(self, listener: ListenerModel, model: Model) -> Resource:
        with_engine = model.engine is not None
        routes = [
            (route, filtering(route, with_engine=with_engine), self._needs(route))
            for route in model.routes
            if not route.listeners or listener.name in route.listeners
        ]
        return resource(listener.name, route_configuration_body(listener.name, routes))

    def _needs(self, route: RouteModel) -> Needs | None:
        return chain_needs(route.chain, self._registry, self._policy_timeout) if route.chain else None
