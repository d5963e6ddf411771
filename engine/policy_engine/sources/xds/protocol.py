"""The client's side of the xDS transport protocol for one resource type, without any I/O.

A separate module because the rules (what a response means, what must be answered, what a reconnect says) can then be
tested message by message, and the driver has only to move messages. Rules are those of Envoy's "xDS REST and gRPC
protocol" page; the words in quotes below are its section titles.

A response becomes a `Proposal`: the whole set of resources as it would be after it. The driver applies the proposal,
narrows it with `without` by what could not be applied, and finally sends `answer(proposal)`, which is the ACK or NACK
and makes the proposal the last known good.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

Content = TypeVar("Content")

WILDCARD: Final = "*"
_INVALID_ARGUMENT: Final = 3
_MAX_PROBLEMS_TOLD: Final = 20
_MAX_PROBLEM_LENGTH: Final = 2_000
_MAX_NAME_LENGTH: Final = 1_024


class Variant(StrEnum):
    """Which of the two variants of an aggregated stream is spoken ("Four Variants")."""

    STATE_OF_THE_WORLD = "sotw"
    DELTA = "delta"


class ProtocolError(Exception):
    """The server broke the protocol so that no answer is possible; the stream must be ended."""


class InvalidResource(ValueError):
    """Raised by a subscription's `decode` for a resource that has a readable name and is otherwise wrong."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True, slots=True)
class ResourceProblem:
    """Why one resource of a response cannot take effect; an empty name means that the resource's name is not known."""

    name: str
    message: str

    def __str__(self) -> str:
        shown = self.name if self.name.isprintable() and len(self.name) <= _MAX_NAME_LENGTH else ascii(self.name[:64])
        return f"{shown or 'a resource without a name'}: {self.message[:_MAX_PROBLEM_LENGTH]}"


@dataclass(frozen=True, slots=True)
class Resource(Generic[Content]):
    """One named resource; `version` is empty where the variant has none for single resources."""

    name: str
    version: str
    wire: bytes = field(repr=False)
    content: Content = field(repr=False)


@dataclass(frozen=True, slots=True)
class Subscription(Generic[Content]):
    """What to ask for.

    `decode` turns the bytes of a resource into its name and content and raises InvalidResource, or another ValueError
    when not even the name is readable.
    """

    type_url: str
    decode: Callable[[bytes], tuple[str, Content]]
    names: tuple[str, ...] = (WILDCARD,)

    @property
    def complete(self) -> bool:
        """Whether a state-of-the-world response holds every resource, so that an absent one has been removed.

        So it is for listeners and clusters ("Deleting Resources"), and so our chains are defined.
        """
        return WILDCARD in self.names


@dataclass(frozen=True, slots=True)
class Proposal(Generic[Content]):
    """The resources as they would be after one response, and what of that response is refused already."""

    version: str
    nonce: str
    resources: Mapping[str, Resource[Content]]
    changed: frozenset[str]
    removed: frozenset[str]
    problems: tuple[ResourceProblem, ...] = ()
    offered: int = 0

    @property
    def empty(self) -> bool:
        """Whether nothing would change."""
        return not self.changed and not self.removed


class Client(ABC, Generic[Content]):
    """The state of one subscription over any number of streams; see SotwClient and DeltaClient."""

    variant: Variant
    method: str
    """Full gRPC method name."""
    response_class: Any

    def __init__(self, subscription: Subscription[Content], node: base_pb2.Node) -> None:
        self._subscription = subscription
        self._node = node
        self._nonces: set[str] = set()
        self._version = ""
        self._resources: Mapping[str, Resource[Content]] = MappingProxyType({})
        self.established = False
        """Whether any configuration is in use: an empty one counts, one that was refused wholly does not."""
        self.oddities: Counter[str] = Counter()
        """What a server did that the protocol forbids and that was survived, by kind."""

    @property
    def resources(self) -> Mapping[str, Resource[Content]]:
        """The last known good resources."""
        return self._resources

    @property
    def version(self) -> str:
        """The most recent version of the resource type that was accepted whole."""
        return self._version

    def restore(self, version: str, resources: Iterable[Resource[Content]]) -> None:
        """Take resources of an earlier run as last known good; `version` is empty unless all of them are in use."""
        self._version = version
        self._resources = MappingProxyType({resource.name: resource for resource in resources})
        self.established = True

    def revive(
        self, variant: str, kept: Iterable[tuple[str, str, bytes]]
    ) -> tuple[dict[str, Resource[Content]], list[ResourceProblem]]:
        """Read resources of an earlier run (name, version, bytes); versions count only when `variant` is this one's."""
        sound: dict[str, Resource[Content]] = {}
        problems: list[ResourceProblem] = []
        for name, version, wire in kept:
            try:
                _, content = self._subscription.decode(wire)
            except ValueError as error:
                problems.append(ResourceProblem(name, str(error)))
            else:
                sound[name] = Resource(name, version if variant == self.variant else "", wire, content)
        return sound, problems

    def start_stream(self) -> Any:
        """Forget the previous stream's nonces ("a nonce is valid only in the context of an individual stream").

        Returns the new stream's first request.
        """
        self._nonces.clear()
        return self._first_request()

    def receive(self, response: Any) -> Proposal[Content] | None:
        """Return what `response` proposes, or None when it is not about this subscription.

        Raises ProtocolError when it has no nonce: then it can be neither acknowledged nor refused.
        """
        if response.type_url != self._subscription.type_url:
            self.oddities["response_of_unsubscribed_type"] += 1
            return None
        if not response.nonce:
            raise ProtocolError(f"the management server sent a response of {response.type_url} without a nonce")
        if response.nonce in self._nonces:
            self.oddities["nonce_used_twice"] += 1
        self._nonces.add(response.nonce)
        return self._propose(response)

    def without(self, proposal: Proposal[Content], problems: Sequence[ResourceProblem]) -> Proposal[Content]:
        """Return `proposal` with the resources that have `problems` put back to their last good version.

        A problem that names none of the changed resources puts back everything.
        """
        named = {problem.name for problem in problems}
        refused = proposal.changed & named if named <= proposal.changed else proposal.changed | proposal.removed
        resources = dict(proposal.resources)
        for name in refused:
            kept = self._resources.get(name)
            if kept is None:
                resources.pop(name, None)
            else:
                resources[name] = kept
        return replace(
            proposal,
            resources=MappingProxyType(resources),
            changed=proposal.changed - refused,
            removed=proposal.removed - refused,
            problems=(*proposal.problems, *problems),
        )

    def answer(self, proposal: Proposal[Content]) -> Any:
        """Make `proposal` the last known good and return the request that tells the server: an ACK or a NACK."""
        self._resources = proposal.resources
        self.established = self.established or not proposal.problems or not proposal.empty
        if not proposal.problems:
            self._version = proposal.version
        request = self._reply(proposal.nonce)
        if proposal.problems:
            request.error_detail.code = _INVALID_ARGUMENT
            request.error_detail.message = refusal_message(proposal)
        return request

    def _judge(
        self, offered: Iterable[tuple[str, str, Any, str | None]]
    ) -> tuple[dict[str, Resource[Content]], list[ResourceProblem]]:
        """Sort `offered` (name or "", version, Any, name it must have or None) into sound resources and problems."""
        sound: dict[str, Resource[Content]] = {}
        problems: list[ResourceProblem] = []
        seen: Counter[str] = Counter()
        # A state-of-the-world server repeats everything for one change: what is in use need not be validated again.
        in_use = {resource.wire: resource for resource in self._resources.values()}
        for known_name, version, packed, required_name in offered:
            name = known_name
            try:
                name, content = self._decode(packed, in_use)
                if required_name is not None and name != required_name:
                    problems.append(ResourceProblem(required_name, f"the resource inside is named {name!r}"))
                    name = required_name
                else:
                    sound[name] = Resource(name, version, packed.value, content)
            except ValueError as error:
                name = known_name or (error.name if isinstance(error, InvalidResource) else "")
                problems.append(ResourceProblem(name, str(error)))
            seen[name] += 1
        for name, count in seen.items():
            if name and count > 1:  # "Duplicate Resource Names": no telling which one was meant
                sound.pop(name, None)
                problems.append(ResourceProblem(name, f"the response contains this name {count} times"))
        return sound, problems

    def _decode(self, packed: Any, in_use: Mapping[bytes, Resource[Content]]) -> tuple[str, Content]:
        if packed.type_url != self._subscription.type_url:
            raise ValueError(f"the resource is of type {packed.type_url!r}, not {self._subscription.type_url!r}")
        if packed.value in in_use:
            return in_use[packed.value].name, in_use[packed.value].content
        name, content = self._subscription.decode(packed.value)
        if not name or len(name) > _MAX_NAME_LENGTH:
            raise ValueError(f"a resource name must have 1 to {_MAX_NAME_LENGTH} characters")
        return name, content

    def _proposal(
        self, response: Any, version: str, resources: dict[str, Resource[Content]], problems: list[ResourceProblem]
    ) -> Proposal[Content]:
        before = self._resources
        return Proposal(
            version=version,
            nonce=response.nonce,
            resources=MappingProxyType(resources),
            changed=frozenset(n for n, r in resources.items() if n not in before or before[n].wire != r.wire),
            removed=frozenset(before.keys() - resources.keys()),
            problems=tuple(problems),
            offered=len(response.resources),
        )

    def _subscribed(self, name: str) -> bool:
        return WILDCARD in self._subscription.names or name in self._subscription.names

    @abstractmethod
    def _first_request(self) -> Any: ...

    @abstractmethod
    def _reply(self, nonce: str) -> Any: ...

    @abstractmethod
    def _propose(self, response: Any) -> Proposal[Content]: ...


class SotwClient(Client[Content]):
    """State of the world: `DiscoveryRequest` and `DiscoveryResponse`."""

    variant = Variant.STATE_OF_THE_WORLD
    method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
    response_class = discovery_pb2.DiscoveryResponse

    def _first_request(self) -> Any:
        request = self._reply("")
        request.node.CopyFrom(self._node)
        return request

    def _reply(self, nonce: str) -> Any:
        # Every request repeats the full list of names, or it would unsubscribe.
        return discovery_pb2.DiscoveryRequest(
            version_info=self._version,
            resource_names=self._subscription.names,
            type_url=self._subscription.type_url,
            response_nonce=nonce,
        )

    def _propose(self, response: Any) -> Proposal[Content]:
        sound, problems = self._judge(("", "", packed, None) for packed in response.resources)
        sound = {name: resource for name, resource in sound.items() if self._subscribed(name)}
        # A resource that cannot even be named may be the new version of any absent one: then nothing is removed.
        nameless = any(not problem.name for problem in problems)
        refused = {problem.name for problem in problems}
        kept = {
            name: resource
            for name, resource in self._resources.items()
            if name in refused or nameless or not self._subscription.complete
        }
        return self._proposal(response, response.version_info, kept | sound, problems)


class DeltaClient(Client[Content]):
    """Incremental: `DeltaDiscoveryRequest` and `DeltaDiscoveryResponse`."""

    variant = Variant.DELTA
    method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
    response_class = discovery_pb2.DeltaDiscoveryResponse

    def _first_request(self) -> Any:
        request = self._reply("")
        request.node.CopyFrom(self._node)
        request.resource_names_subscribe.extend(self._subscription.names)
        for name, resource in self._resources.items():
            if resource.version:
                request.initial_resource_versions[name] = resource.version
        return request

    def _reply(self, nonce: str) -> Any:
        return discovery_pb2.DeltaDiscoveryRequest(type_url=self._subscription.type_url, response_nonce=nonce)

    def _propose(self, response: Any) -> Proposal[Content]:
        wanted = [resource for resource in response.resources if self._subscribed(resource.name)]
        sound, problems = self._judge(
            (resource.name, resource.version, resource.resource, resource.name)
            for resource in wanted
            if not self._is_heartbeat(resource)
        )
        removed = set(response.removed_resources)
        for name in sorted(removed & {resource.name for resource in wanted}):
            sound.pop(name, None)
            removed.discard(name)
            problems.append(ResourceProblem(name, "the response both sends and removes this resource"))
        kept = {name: resource for name, resource in self._resources.items() if name not in removed}
        return self._proposal(response, response.system_version_info, kept | sound, problems)

    def _is_heartbeat(self, resource: Any) -> bool:
        """Whether it only renews a time to live ("TTL"); nothing to do, since this client lets no resource expire."""
        known = self._resources.get(resource.name)
        return not resource.HasField("resource") and known is not None and known.version == resource.version


def refusal_message(proposal: Proposal[Any]) -> str:
    """Return the message of a NACK: how much was refused, and why, for the person who can mend it."""
    told = "; ".join(str(problem) for problem in proposal.problems[:_MAX_PROBLEMS_TOLD])
    more = len(proposal.problems) - _MAX_PROBLEMS_TOLD
    rest = f"; and {more} more" if more > 0 else ""
    refused = len({problem.name for problem in proposal.problems})
    return f"version {proposal.version!r}: {refused} of {proposal.offered} resources refused: {told}{rest}"
