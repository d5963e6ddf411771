"""The server's side of one aggregated xDS stream, without any I/O: requests in, the next response out.

A separate module because the rules of the protocol and of make-before-break (Envoy's "xDS REST and gRPC protocol",
"Eventual consistency considerations") can then be tested message by message. Within one stream the order is: clusters,
their endpoints, listeners, routes; the last two wait until the client has accepted what comes before. A cluster that is
gone from the target stays with the client until it has accepted routes that do not need it. Chains depend on none of
these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

from envoy.service.discovery.v3 import discovery_pb2

from policy_control_plane.resources import (
    CHAIN,
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    NOTHING,
    ROUTES,
    SHORT_NAMES,
    Resource,
    Snapshot,
    version_of,
)
from policy_control_plane.subscription import WILDCARD, Subscription

_ORDER: Final = (CLUSTER, ENDPOINTS, LISTENER, ROUTES)
COMPLETE_IN_SOTW: Final = frozenset({CHAIN, CLUSTER, LISTENER})
"""Types whose state-of-the-world responses hold everything, so that absence is removal."""

_MAX_TYPES = 32
_MAX_NAMES = 100_000
_MAX_NODE_TEXT = 256


class BadRequest(Exception):
    """The client broke the protocol; the stream is to be ended with this message."""


class Verdict(Enum):
    """Where a client stands with one type of the target."""

    CURRENT = "current"
    PENDING = "pending"
    REFUSED = "refused"
    NOT_SUBSCRIBED = "not subscribed"


@dataclass(frozen=True, slots=True)
class Node:
    """Who the client says it is; shown, never trusted."""

    id: str = ""
    cluster: str = ""
    user_agent: str = ""


class AdsStream(ABC):
    """One stream's state; SotwStream and DeltaStream are the two variants.

    Feed `receive` with requests, set `target` to what the client shall have, and send what `next_response` returns
    until it returns None. `lenient` lets routes go out although a cluster's endpoints were never asked for.
    `keep_chains` leaves chains with the client that are not in the target.
    """

    variant: str
    request_class: Any

    def __init__(self, target: Snapshot) -> None:
        self.target = target
        self.node = Node()
        self.lenient = False
        self.keep_chains = False
        self.stale = 0
        """Answers that were about no response waited for."""
        self._types: dict[str, Subscription] = {}

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        """What the client subscribed to, by type."""
        return MappingProxyType(self._types)

    def receive(self, request: Any) -> None:
        """Take a request; raises BadRequest."""
        if not request.type_url:
            raise BadRequest("a request without a type_url on an aggregated stream")
        if not self._types:
            self.node = _node(request)
        first = request.type_url not in self._types
        if first and len(self._types) >= _MAX_TYPES:
            raise BadRequest(f"more than {_MAX_TYPES} resource types on one stream")
        subscription = self._types.setdefault(request.type_url, Subscription(request.type_url))
        self._take(subscription, request, first=first)
        if len(subscription.names) > _MAX_NAMES:
            raise BadRequest(f"more than {_MAX_NAMES} resource names of {request.type_url}")

    def next_response(self) -> Any | None:
        """Return the next message for the client, or None when there is nothing to say before it answers."""
        for type_url in sorted(self._types.keys() - set(_ORDER)):
            response = self._response(self._types[type_url])
            if response is not None:
                return response
        for type_url in _ORDER:
            if self._held_back(type_url):
                return None
            subscription = self._types.get(type_url)
            if subscription is None:
                continue
            response = self._response(subscription)
            if response is not None:
                return response
            # Endpoints do not wait for the ACK of clusters: Envoy sends that only when the clusters are warm.
            if subscription.outstanding is not None and type_url != CLUSTER:
                return None
        return None

    def verdict(self, type_url: str) -> Verdict:
        """Return whether the client has what the target holds for it."""
        subscription = self._types.get(type_url)
        if subscription is None:
            return Verdict.NOT_SUBSCRIBED
        if subscription.outstanding is not None or self._undecided(type_url):
            return Verdict.PENDING
        desired = self._desired(subscription)
        if subscription.refusal is not None and subscription.refusal.version == version_of(desired):
            return Verdict.REFUSED
        return Verdict.PENDING if self._due(subscription, desired) else Verdict.CURRENT

    def waits_for_endpoints(self) -> bool:
        """Whether routes are held back because endpoints of a cluster were not asked for yet."""
        return not self.lenient and not self._endpoints_there()

    def _undecided(self, type_url: str) -> bool:
        """Whether the target says nothing of a type that it should: then the client keeps what it has.

        Of a type that is not ours there is nothing, and that is what a client is told.
        """
        return type_url in SHORT_NAMES and type_url not in self.target

    def _held_back(self, type_url: str) -> bool:
        if type_url not in (LISTENER, ROUTES):
            return False
        clusters, later = self._types.get(CLUSTER), self._types.get(type_url)
        if clusters is not None and clusters.outstanding is not None:
            return True
        had_some = later is not None and bool(later.sent)
        if had_some and any(self.verdict(earlier) is Verdict.REFUSED for earlier in (CLUSTER, ENDPOINTS)):
            return True
        return self.waits_for_endpoints()

    def _endpoints_there(self) -> bool:
        clusters, endpoints = self._types.get(CLUSTER), self._types.get(ENDPOINTS)
        if clusters is None:
            return True
        needed = self.target.get(ENDPOINTS, NOTHING).keys() & clusters.sent.keys()
        if endpoints is None:
            return not needed
        return all(endpoints.wants(name) and name in endpoints.sent for name in needed)

    def _routes_settled(self) -> bool:
        for type_url in (LISTENER, ROUTES):
            subscription = self._types.get(type_url)
            if subscription is None:
                continue
            desired = subscription.wanted(self.target.get(type_url, NOTHING))
            if subscription.outstanding or subscription.refusal or self._due(subscription, desired):
                return False
        return True

    def _desired(self, subscription: Subscription) -> dict[str, Resource]:
        """Return what the client shall hold now, which may be more than the target."""
        desired = subscription.wanted(self.target.get(subscription.type_url, NOTHING))
        if self._lingers(subscription.type_url):
            for name, one in subscription.sent.items():
                if name not in desired and subscription.wants(name) and self._can_repeat(one):
                    desired[name] = one
        return desired

    def _due(self, subscription: Subscription, desired: Mapping[str, Resource]) -> bool:
        if not subscription.answered and (subscription.wildcard or desired):
            return True
        return bool(subscription.missing or subscription.changed(desired) or subscription.removed(desired))

    def _response(self, subscription: Subscription) -> Any | None:
        if subscription.outstanding is not None or self._undecided(subscription.type_url):
            return None
        desired = self._desired(subscription)
        if not self._due(subscription, desired) or subscription.refused(desired):
            return None
        changed, removed = subscription.changed(desired), subscription.removed(desired)
        if subscription.type_url == CLUSTER:
            self._renew_endpoints(changed)
        return self._write(subscription, desired, changed, removed)

    def _renew_endpoints(self, changed: list[Resource]) -> None:
        """A changed cluster warms anew, and that ends only with a new endpoints response ("Resource warming")."""
        endpoints = self._types.get(ENDPOINTS)
        if endpoints is not None:
            endpoints.again |= {one.name for one in changed if one.name in endpoints.sent}

    def _lingers(self, type_url: str) -> bool:
        if type_url == CLUSTER:
            return not self._routes_settled()
        return type_url == CHAIN and self.keep_chains

    def _can_repeat(self, one: Resource) -> bool:
        """Whether a resource that is not in the target can be left with the client."""
        return True

    @abstractmethod
    def _take(self, subscription: Subscription, request: Any, *, first: bool) -> None: ...

    @abstractmethod
    def _write(
        self, subscription: Subscription, desired: Mapping[str, Resource], changed: list[Resource], removed: list[str]
    ) -> Any: ...


class SotwStream(AdsStream):
    """State of the world."""

    variant = "sotw"
    request_class = discovery_pb2.DiscoveryRequest

    def _take(self, subscription: Subscription, request: Any, *, first: bool) -> None:
        nonce = request.response_nonce
        if nonce and not first:
            if nonce != str(subscription.nonces):
                self.stale += 1
                return  # a newer response is on its way; its answer will carry the names again
            subscription.answer(nonce, _error(request))
        self._subscribe(subscription, set(request.resource_names))
        if first and subscription.wildcard and request.version_info:
            self._spare(subscription, request.version_info)

    def _subscribe(self, subscription: Subscription, names: set[str]) -> None:
        if not names and not subscription.named_once:
            subscription.wildcard = True
            return
        subscription.named_once = True
        subscription.wildcard = WILDCARD in names
        names.discard(WILDCARD)
        if not subscription.wildcard:
            subscription.forget(subscription.sent.keys() - names)
        subscription.forget(names - subscription.names)  # newly asked for: to be sent, whatever was sent before
        subscription.names = names

    def _can_repeat(self, one: Resource) -> bool:
        return bool(one.body)  # every response holds everything, so its content is needed

    def _spare(self, subscription: Subscription, version: str) -> None:
        """Send nothing to a client that comes back with exactly what it would be sent."""
        desired = self._desired(subscription)
        if version_of(desired) == version:
            subscription.sent = desired
            subscription.answered, subscription.accepted = True, version

    def _write(
        self, subscription: Subscription, desired: Mapping[str, Resource], changed: list[Resource], removed: list[str]
    ) -> Any:
        whole = subscription.type_url in COMPLETE_IN_SOTW
        waited = subscription.send(desired, desired.values() if whole else changed, removed)
        return discovery_pb2.DiscoveryResponse(
            version_info=waited.version,
            type_url=subscription.type_url,
            nonce=waited.nonce,
            resources=[
                {"type_url": subscription.type_url, "value": one.body}
                for one in (desired.values() if whole else changed)
            ],
        )


class DeltaStream(AdsStream):
    """Incremental."""

    variant = "delta"
    request_class = discovery_pb2.DeltaDiscoveryRequest

    def _take(self, subscription: Subscription, request: Any, *, first: bool) -> None:
        if request.response_nonce and not subscription.answer(request.response_nonce, _error(request)):
            self.stale += 1  # but changes of the subscription count even so
        subscribe, unsubscribe = set(request.resource_names_subscribe), set(request.resource_names_unsubscribe)
        if first:
            for name, version in request.initial_resource_versions.items():
                subscription.sent[name] = Resource(name, version, b"")
            if not subscribe:
                subscription.wildcard = True
        if subscribe:
            subscription.named_once = True
            self._subscribe(subscription, subscribe, first=first)
        if unsubscribe:
            self._unsubscribe(subscription, unsubscribe)

    def _subscribe(self, subscription: Subscription, names: set[str], *, first: bool) -> None:
        if WILDCARD in names:
            subscription.wildcard = True
            names.discard(WILDCARD)
        subscription.names |= names
        existing = names & self.target.get(subscription.type_url, NOTHING).keys()
        subscription.missing |= names - existing
        if not first:
            subscription.again |= existing

    def _unsubscribe(self, subscription: Subscription, names: set[str]) -> None:
        if WILDCARD in names:
            subscription.wildcard = False
            names.discard(WILDCARD)
            subscription.forget(subscription.sent.keys() - subscription.names)
        known = names & subscription.names
        subscription.names -= names
        subscription.missing -= names
        if not subscription.wildcard:
            subscription.forget(names)
            return
        # The client cannot know whether the wildcard covers what it unsubscribed: it must be told either way.
        existing = known & self.target.get(subscription.type_url, NOTHING).keys()
        subscription.again |= existing
        subscription.missing |= known - existing

    def _write(
        self, subscription: Subscription, desired: Mapping[str, Resource], changed: list[Resource], removed: list[str]
    ) -> Any:
        gone = sorted({*removed, *(subscription.missing - desired.keys())})
        waited = subscription.send(desired, changed, removed)
        return discovery_pb2.DeltaDiscoveryResponse(
            system_version_info=waited.version,
            type_url=subscription.type_url,
            nonce=waited.nonce,
            resources=[
                {
                    "name": one.name,
                    "version": one.version,
                    "resource": {"type_url": subscription.type_url, "value": one.body},
                }
                for one in changed
            ],
            removed_resources=gone,
        )


def _error(request: Any) -> str | None:
    if not request.HasField("error_detail"):
        return None
    return request.error_detail.message or f"refused without a reason (code {request.error_detail.code})"


def _node(request: Any) -> Node:
    node = request.node
    return Node(
        node.id[:_MAX_NODE_TEXT],
        node.cluster[:_MAX_NODE_TEXT],
        " ".join(filter(None, (node.user_agent_name, _agent_version(node))))[:_MAX_NODE_TEXT],
    )


def _agent_version(node: Any) -> str:
    if node.WhichOneof("user_agent_version_type") == "user_agent_build_version":
        number = node.user_agent_build_version.version
        return f"{number.major_number}.{number.minor_number}.{number.patch}"
    return str(node.user_agent_version)
