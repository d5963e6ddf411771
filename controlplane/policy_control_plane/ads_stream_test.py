"""Conformance of the server's side, message by message, with Envoy's "xDS REST and gRPC protocol" page."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from policy_control_plane.ads_stream import AdsStream, BadRequest, DeltaStream, SotwStream, Verdict
from policy_control_plane.resources import (
    CHAIN,
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    ROUTES,
    SHORT_NAMES,
    Resource,
    Snapshot,
    by_name,
    resource,
    version_of,
)
from policy_engine.config.xds_protocol import Client, DeltaClient, InvalidResource, SotwClient
from policy_engine.config.xds_protocol import Subscription as ClientSubscription

NODE = base_pb2.Node(id="envoy-1", cluster="edge")


def snapshot(**types: dict[str, str]) -> Snapshot:
    """Return a snapshot from short type names and name → content; types not given are empty."""
    return {
        type_url: by_name(resource(name, content.encode()) for name, content in types.get(short, {}).items())
        for type_url, short in SHORT_NAMES.items()
    }


class Peer:
    """A client of one stream that keeps what it gets, and answers only when told to."""

    def __init__(self, stream: AdsStream) -> None:
        self.stream = stream
        self.sotw = isinstance(stream, SotwStream)
        self.held: dict[str, dict[str, str]] = {}
        self.names: dict[str, list[str]] = {}
        self.versions: dict[str, str] = {}

    def subscribe(self, type_url: str, *names: str, **fields: Any) -> None:
        self.names[type_url] = list(names)
        if self.sotw:
            request = discovery_pb2.DiscoveryRequest(type_url=type_url, resource_names=names, node=NODE, **fields)
        else:
            request = discovery_pb2.DeltaDiscoveryRequest(
                type_url=type_url, resource_names_subscribe=names, node=NODE, **fields
            )
        self.stream.receive(request)

    def take(self) -> Any:
        """Return the next response after taking in its content, or None."""
        response = self.stream.next_response()
        if response is None:
            return None
        held = self.held.setdefault(response.type_url, {})
        if self.sotw:
            if response.type_url in (CHAIN, CLUSTER, LISTENER):
                held.clear()
            # The test's resources carry their name in front, as `by_name` cannot be seen from the bytes.
            held.update({one.value.decode(): one.value.decode() for one in response.resources})
        else:
            held.update({one.name: one.resource.value.decode() for one in response.resources})
            for name in response.removed_resources:
                held.pop(name, None)
        return response

    def answer(self, response: Any, error: str | None = None) -> None:
        detail = {} if error is None else {"error_detail": status_pb2.Status(code=3, message=error)}
        if self.sotw:
            version = response.version_info if error is None else self.versions.get(response.type_url, "")
            self.versions[response.type_url] = version
            request = discovery_pb2.DiscoveryRequest(
                type_url=response.type_url,
                resource_names=self.names[response.type_url],
                version_info=version,
                response_nonce=response.nonce,
                **detail,
            )
        else:
            request = discovery_pb2.DeltaDiscoveryRequest(
                type_url=response.type_url, response_nonce=response.nonce, **detail
            )
        self.stream.receive(request)

    def drain(self) -> list[str]:
        """Acknowledge everything there is; return the short names of the types in order."""
        order = []
        while (response := self.take()) is not None:
            order.append(SHORT_NAMES[response.type_url])
            self.answer(response)
        return order


STREAMS = pytest.mark.parametrize("kind", [SotwStream, DeltaStream])


def _names(response: Any) -> set[str]:
    return {one.name if hasattr(one, "name") else one.value.decode() for one in response.resources}


# Subscriptions


@STREAMS
def test_no_names_at_first_means_everything(kind: type[AdsStream]) -> None:
    peer = Peer(kind(snapshot(clusters={"a": "a", "b": "b"})))
    peer.subscribe(CLUSTER)
    assert _names(peer.take()) == {"a", "b"}
    assert peer.stream.node.id == "envoy-1"


@STREAMS
def test_the_star_means_everything(kind: type[AdsStream]) -> None:
    peer = Peer(kind(snapshot(chains={"a": "a", "b": "b"})))
    peer.subscribe(CHAIN, "*")
    assert _names(peer.take()) == {"a", "b"}


@STREAMS
def test_named_resources_only_are_sent_when_they_are_named(kind: type[AdsStream]) -> None:
    peer = Peer(kind(snapshot(routes={"a": "a", "b": "b"})))
    peer.subscribe(ROUTES, "b")
    assert _names(peer.take()) == {"b"}


def test_sotw_no_names_after_names_is_an_unsubscription_and_not_a_wildcard() -> None:
    stream = SotwStream(snapshot(clusters={"a": "a", "b": "b"}))
    peer = Peer(stream)
    peer.subscribe(CLUSTER, "a")
    response = peer.take()
    peer.names[CLUSTER] = []
    peer.answer(response)
    stream.target = snapshot(clusters={"a": "a2", "b": "b2"})
    assert peer.take() is None


def test_sotw_a_newly_named_resource_is_sent_although_nothing_changed() -> None:
    peer = Peer(SotwStream(snapshot(routes={"a": "a", "b": "b"})))
    peer.subscribe(ROUTES, "a")
    response = peer.take()
    peer.names[ROUTES] = ["a", "b"]
    peer.answer(response)
    assert _names(peer.take()) == {"b"}


def test_delta_subscribing_again_sends_again() -> None:
    peer = Peer(DeltaStream(snapshot(routes={"a": "a"})))
    peer.subscribe(ROUTES, "a")
    peer.drain()
    peer.subscribe(ROUTES, "a")
    assert _names(peer.take()) == {"a"}


def test_delta_a_name_that_does_not_exist_is_told_and_sent_once_it_does() -> None:
    stream = DeltaStream(snapshot())
    peer = Peer(stream)
    peer.subscribe(ROUTES, "a")
    response = peer.take()
    assert list(response.removed_resources) == ["a"]
    peer.answer(response)
    assert peer.take() is None
    stream.target = snapshot(routes={"a": "a"})
    assert _names(peer.take()) == {"a"}


def test_delta_unsubscribing_needs_no_answer_unless_a_wildcard_covers_the_name() -> None:
    stream = DeltaStream(snapshot(chains={"a": "a"}))
    peer = Peer(stream)
    peer.subscribe(CHAIN, "*", "a", "gone")
    peer.drain()
    unsubscribe = discovery_pb2.DeltaDiscoveryRequest(type_url=CHAIN, resource_names_unsubscribe=["a", "gone", "never"])
    stream.receive(unsubscribe)
    response = peer.take()
    assert _names(response) == {"a"}
    assert list(response.removed_resources) == ["gone"]
    peer.answer(response)
    stream.receive(discovery_pb2.DeltaDiscoveryRequest(type_url=CHAIN, resource_names_unsubscribe=["*"]))
    stream.target = snapshot(chains={"a": "2"})
    assert peer.take() is None


def test_delta_a_stale_nonce_still_changes_the_subscription() -> None:
    peer = Peer(DeltaStream(snapshot(routes={"a": "a", "b": "b"})))
    peer.subscribe(ROUTES, "a")
    peer.drain()
    peer.subscribe(ROUTES, "b", response_nonce="not ours")
    assert _names(peer.take()) == {"b"}
    assert peer.stream.stale == 1


@STREAMS
def test_a_type_that_is_not_ours_is_answered_with_nothing(kind: type[AdsStream]) -> None:
    peer = Peer(kind(snapshot()))
    peer.subscribe("type.googleapis.com/envoy.service.runtime.v3.Runtime", "x")
    response = peer.take()
    assert response is None if kind is SotwStream else list(response.removed_resources) == ["x"]


@STREAMS
def test_a_type_that_the_target_does_not_decide_is_left_alone(kind: type[AdsStream]) -> None:
    peer = Peer(kind({CHAIN: {}}))
    peer.subscribe(CLUSTER)
    assert peer.take() is None
    assert peer.stream.verdict(CLUSTER) is Verdict.PENDING


@STREAMS
def test_requests_without_a_type_or_with_too_many_are_refused(kind: type[AdsStream]) -> None:
    stream = kind(snapshot())
    with pytest.raises(BadRequest):
        stream.receive(kind.request_class())
    for number in range(32):
        stream.receive(kind.request_class(type_url=f"type.googleapis.com/t{number}"))
    with pytest.raises(BadRequest):
        stream.receive(kind.request_class(type_url="type.googleapis.com/one-more"))


# Versions, nonces, ACK and NACK


@STREAMS
def test_nothing_is_sent_twice_and_only_what_changed_is_sent(kind: type[AdsStream]) -> None:
    stream = kind(snapshot(chains={"a": "a", "b": "b"}))
    peer = Peer(stream)
    peer.subscribe(CHAIN)
    peer.drain()
    assert peer.take() is None
    stream.target = snapshot(chains={"a": "a", "b": "b2", "c": "c"})
    response = peer.take()
    if kind is DeltaStream:
        assert {one.name for one in response.resources} == {"b", "c"}
    else:
        assert {one.value.decode() for one in response.resources} == {"a", "b2", "c"}


@STREAMS
def test_one_response_of_a_type_is_on_its_way_at_a_time(kind: type[AdsStream]) -> None:
    stream = kind(snapshot(chains={"a": "1"}))
    peer = Peer(stream)
    peer.subscribe(CHAIN)
    first = peer.take()
    stream.target = snapshot(chains={"a": "2"})
    assert peer.take() is None
    peer.answer(first)
    second = peer.take()
    assert second.nonce != first.nonce


def test_sotw_an_answer_with_a_stale_nonce_is_ignored() -> None:
    stream = SotwStream(snapshot(chains={"a": "1"}))
    peer = Peer(stream)
    peer.subscribe(CHAIN)
    first = peer.take()
    peer.answer(first)
    stream.target = snapshot(chains={"a": "2"})
    peer.take()
    peer.answer(first)
    assert stream.stale == 1
    assert stream.verdict(CHAIN) is Verdict.PENDING


def test_sotw_a_request_with_a_stale_nonce_does_not_change_the_subscription() -> None:
    stream = SotwStream(snapshot(routes={"a": "1", "b": "1"}))
    peer = Peer(stream)
    peer.subscribe(ROUTES, "a")
    first = peer.take()
    peer.answer(first)
    stream.target = snapshot(routes={"a": "2", "b": "1"})
    second = peer.take()
    peer.names[ROUTES] = ["b"]
    peer.answer(first)
    peer.names[ROUTES] = ["a"]
    peer.answer(second)
    assert peer.take() is None


@STREAMS
def test_a_nack_is_remembered_with_its_reason_and_not_answered_with_the_same_again(kind: type[AdsStream]) -> None:
    stream = kind(snapshot(chains={"a": "1"}))
    peer = Peer(stream)
    peer.subscribe(CHAIN)
    peer.drain()
    good = stream.subscriptions[CHAIN].accepted
    stream.target = snapshot(chains={"a": "bad"})
    peer.answer(peer.take(), error="a: no such policy")
    assert peer.take() is None
    assert stream.verdict(CHAIN) is Verdict.REFUSED
    subscription = stream.subscriptions[CHAIN]
    assert subscription.accepted == good
    assert subscription.refusal is not None
    assert subscription.refusal.message == "a: no such policy"


@STREAMS
def test_what_was_refused_is_sent_with_the_next_change(kind: type[AdsStream]) -> None:
    stream = kind(snapshot(chains={"a": "1", "b": "1"}))
    peer = Peer(stream)
    peer.subscribe(CHAIN)
    peer.drain()
    stream.target = snapshot(chains={"a": "bad", "b": "1"})
    peer.answer(peer.take(), error="no")
    stream.target = snapshot(chains={"a": "bad", "b": "2"})
    response = peer.take()
    contents = {(one.resource if kind is DeltaStream else one).value.decode() for one in response.resources}
    assert contents == {"bad", "2"}


@STREAMS
def test_after_a_nack_going_back_is_an_update_that_the_client_accepts(kind: type[AdsStream]) -> None:
    stream = kind(snapshot(chains={"a": "1"}))
    peer = Peer(stream)
    peer.subscribe(CHAIN)
    peer.drain()
    stream.target = snapshot(chains={"a": "bad"})
    peer.answer(peer.take(), error="no")
    stream.target = snapshot(chains={"a": "1"})
    peer.drain()
    assert stream.verdict(CHAIN) is Verdict.CURRENT


@STREAMS
def test_a_refused_newcomer_is_removed_when_it_goes(kind: type[AdsStream]) -> None:
    stream = kind(snapshot(chains={}))
    peer = Peer(stream)
    peer.subscribe(CHAIN)
    peer.drain()
    stream.target = snapshot(chains={"a": "bad"})
    peer.answer(peer.take(), error="no")
    stream.target = snapshot(chains={})
    peer.drain()
    assert stream.verdict(CHAIN) is Verdict.CURRENT
    assert peer.held[CHAIN] == {}


def test_sotw_a_client_that_comes_back_with_the_present_version_is_sent_nothing() -> None:
    target = snapshot(chains={"a": "1"})
    peer = Peer(SotwStream(target))
    peer.subscribe(CHAIN, "*", version_info=version_of(target[CHAIN]), response_nonce="of another stream")
    assert peer.take() is None
    assert peer.stream.verdict(CHAIN) is Verdict.CURRENT


def test_sotw_a_client_that_comes_back_with_an_old_version_is_sent_everything() -> None:
    peer = Peer(SotwStream(snapshot(chains={"a": "1"})))
    peer.subscribe(CHAIN, "*", version_info="old")
    assert _names(peer.take()) == {"1"}


def test_delta_a_client_that_comes_back_is_sent_only_what_it_lacks() -> None:
    target = snapshot(chains={"same": "1", "changed": "2", "new": "1"})
    peer = Peer(DeltaStream(target))
    known = {"same": target[CHAIN]["same"].version, "changed": "old", "gone": "old"}
    peer.subscribe(CHAIN, "*", initial_resource_versions=known)
    response = peer.take()
    assert _names(response) == {"changed", "new"}
    assert list(response.removed_resources) == ["gone"]


def test_delta_a_client_that_has_everything_is_told_so_once() -> None:
    target = snapshot(chains={"a": "1"})
    peer = Peer(DeltaStream(target))
    peer.subscribe(CHAIN, "*", initial_resource_versions={"a": target[CHAIN]["a"].version})
    response = peer.take()
    assert not response.resources
    peer.answer(response)
    assert peer.take() is None


def test_the_same_content_has_the_same_versions_in_every_replica_and_order() -> None:
    names = {f"r{i}": f"c{i}" for i in range(50)}
    one, two = snapshot(chains=names), snapshot(chains=dict(reversed(names.items())))
    assert version_of(one[CHAIN]) == version_of(two[CHAIN])
    assert version_of(snapshot(chains=names | {"r1": "other"})[CHAIN]) != version_of(one[CHAIN])
    assert version_of({"ab": Resource("ab", "c", b"")}) != version_of({"a": Resource("a", "bc", b"")})


# Make before break


def _edge(kind: type[AdsStream], **types: dict[str, str]) -> Peer:
    """An Envoy that has everything of its snapshot."""
    peer = Peer(kind(snapshot(**types)))
    peer.subscribe(CLUSTER)
    peer.drain()
    peer.subscribe(ENDPOINTS, *types.get("endpoints", {}))
    peer.drain()
    peer.subscribe(LISTENER)
    peer.drain()
    peer.subscribe(ROUTES, *types.get("routes", {}))
    peer.drain()
    assert peer.stream.verdict(ROUTES) is Verdict.CURRENT
    return peer


@STREAMS
def test_clusters_then_endpoints_then_when_both_are_accepted_listeners_then_routes(kind: type[AdsStream]) -> None:
    before = {"clusters": {"x": "x"}, "endpoints": {"x": "x"}, "listeners": {"l": "l"}, "routes": {"l": "x"}}
    peer = _edge(kind, **before)
    peer.stream.target = snapshot(
        clusters={"x": "x2"}, endpoints={"x": "x3"}, listeners={"l": "l2"}, routes={"l": "x2"}
    )
    # Envoy answers clusters only when they are warm, and for that it needs their endpoints.
    clusters, endpoints = peer.take(), peer.take()
    assert [SHORT_NAMES[one.type_url] for one in (clusters, endpoints)] == ["clusters", "endpoints"]
    assert peer.take() is None
    peer.answer(endpoints)
    assert peer.take() is None
    peer.answer(clusters)
    for expected in ("listeners", "routes"):
        response = peer.take()
        assert SHORT_NAMES[response.type_url] == expected
        assert peer.take() is None
        peer.answer(response)
    assert peer.take() is None


@STREAMS
def test_a_route_to_a_new_cluster_waits_until_its_endpoints_were_asked_for_and_accepted(kind: type[AdsStream]) -> None:
    peer = _edge(kind, clusters={"x": "x"}, endpoints={"x": "x"}, listeners={"l": "l"}, routes={"l": "to x"})
    peer.stream.target = snapshot(
        clusters={"x": "x", "y": "y"}, endpoints={"x": "x", "y": "y"}, listeners={"l": "l"}, routes={"l": "to y"}
    )
    assert peer.drain() == ["clusters"]
    assert peer.stream.waits_for_endpoints()
    peer.subscribe(ENDPOINTS, "x", "y")
    order = peer.drain()
    assert order[0] == "endpoints"
    assert order[-1] == "routes"


@STREAMS
def test_a_client_that_never_asks_for_endpoints_gets_its_routes_after_all(kind: type[AdsStream]) -> None:
    peer = _edge(kind, clusters={"x": "x"}, endpoints={"x": "x"}, listeners={"l": "l"}, routes={"l": "to x"})
    peer.stream.target = snapshot(
        clusters={"x": "x", "y": "y"}, endpoints={"x": "x", "y": "y"}, listeners={"l": "l"}, routes={"l": "to y"}
    )
    peer.drain()
    peer.stream.lenient = True
    assert peer.drain() == ["routes"]


@STREAMS
def test_a_cluster_stays_until_routes_without_it_are_accepted(kind: type[AdsStream]) -> None:
    peer = _edge(kind, clusters={"x": "x", "y": "y"}, endpoints={}, listeners={"l": "l"}, routes={"l": "to x"})
    peer.stream.target = snapshot(clusters={"y": "y"}, listeners={"l": "l"}, routes={"l": "to y"})
    response = peer.take()
    assert SHORT_NAMES[response.type_url] == "routes"
    assert peer.take() is None
    assert "x" in peer.held[CLUSTER]
    peer.answer(response)
    assert peer.drain() == ["clusters"]
    assert "x" not in peer.held[CLUSTER]


@STREAMS
def test_a_cluster_stays_when_the_routes_without_it_are_refused(kind: type[AdsStream]) -> None:
    peer = _edge(kind, clusters={"x": "x", "y": "y"}, endpoints={}, listeners={"l": "l"}, routes={"l": "to x"})
    peer.stream.target = snapshot(clusters={"y": "y"}, listeners={"l": "l"}, routes={"l": "bad"})
    peer.answer(peer.take(), error="no such route")
    assert peer.take() is None
    assert "x" in peer.held[CLUSTER]


@STREAMS
def test_routes_are_held_back_while_clusters_are_refused(kind: type[AdsStream]) -> None:
    peer = _edge(kind, clusters={"x": "x"}, endpoints={}, listeners={"l": "l"}, routes={"l": "to x"})
    peer.stream.target = snapshot(clusters={"x": "x", "y": "bad"}, listeners={"l": "l"}, routes={"l": "to y"})
    peer.answer(peer.take(), error="bad cluster")
    assert peer.take() is None
    peer.stream.target = snapshot(clusters={"x": "x", "y": "y"}, listeners={"l": "l"}, routes={"l": "to y"})
    assert peer.drain() == ["clusters", "routes"]


@STREAMS
def test_a_refused_cluster_that_is_given_up_blocks_nothing(kind: type[AdsStream]) -> None:
    peer = _edge(kind, clusters={"x": "x"}, endpoints={}, listeners={"l": "l"}, routes={"l": "to x"})
    peer.stream.target = snapshot(clusters={"x": "x", "y": "bad"}, listeners={"l": "l"}, routes={"l": "to y"})
    peer.answer(peer.take(), error="bad cluster")
    peer.stream.target = snapshot(clusters={"x": "x"}, listeners={"l": "l"}, routes={"l": "to x, again"})
    assert peer.drain()[-1] in ("routes", "clusters")
    assert all(peer.stream.verdict(type_url) is Verdict.CURRENT for type_url in (CLUSTER, LISTENER, ROUTES))


@STREAMS
def test_a_changed_cluster_gets_its_endpoints_again_because_it_warms_anew(kind: type[AdsStream]) -> None:
    peer = _edge(kind, clusters={"x": "x"}, endpoints={"x": "x"}, listeners={"l": "l"}, routes={"l": "r"})
    peer.stream.target = snapshot(
        clusters={"x": "other timeout"}, endpoints={"x": "x"}, listeners={"l": "l"}, routes={"l": "r"}
    )
    assert peer.drain() == ["clusters", "endpoints"]


def test_delta_an_envoy_that_comes_back_keeps_a_removed_cluster_until_its_routes_are_new() -> None:
    target = snapshot(clusters={"y": "y"}, listeners={"l": "l"}, routes={"l": "to y"})
    peer = Peer(DeltaStream(target))
    known = {name: one.version for name, one in snapshot(clusters={"x": "x", "y": "y"})[CLUSTER].items()}
    peer.subscribe(CLUSTER, "*", initial_resource_versions=known)
    peer.subscribe(LISTENER, "*", initial_resource_versions={"l": target[LISTENER]["l"].version})
    peer.subscribe(ROUTES, "l", initial_resource_versions={"l": "to x"})
    order = []
    while (response := peer.take()) is not None:
        order.append((SHORT_NAMES[response.type_url], list(response.removed_resources)))
        peer.answer(response)
    assert order[-1] == ("clusters", ["x"])
    assert ("routes", []) in order[:-1]


def test_delta_chains_of_an_earlier_run_are_kept_while_envoys_may_still_need_them() -> None:
    stream = DeltaStream(snapshot(chains={"new": "1"}))
    stream.keep_chains = True
    peer = Peer(stream)
    peer.subscribe(CHAIN, "*", initial_resource_versions={"old": "1"})
    response = peer.take()
    assert (_names(response), list(response.removed_resources)) == ({"new"}, [])
    peer.answer(response)
    stream.keep_chains = False
    assert list(peer.take().removed_resources) == ["old"]


# Our client against our server: whatever happens, they agree in the end.

NAMES = st.sampled_from(["a", "b", "c", "d"])
CHAINS = st.dictionaries(NAMES, st.sampled_from(["1", "2", "3", "bad"]), max_size=4)


def _decode(wire: bytes) -> tuple[str, str]:
    name, _, content = wire.decode().partition("=")
    if content == "bad":
        raise InvalidResource(name, "bad")
    return name, content


class Pair(RuleBasedStateMachine):
    """Changes, broken changes and lost connections in any order; then everything that is sound arrives."""

    client_kind: type[Client[Any]]
    stream_kind: type[AdsStream]

    def __init__(self) -> None:
        super().__init__()
        self.client = self.client_kind(ClientSubscription(CHAIN, _decode), NODE)
        self.wanted: dict[str, str] = {}
        self.good: dict[str, str] = {}
        self.connect()

    def connect(self) -> None:
        self.stream = self.stream_kind(snapshot(chains={n: f"{n}={c}" for n, c in self.wanted.items()}))
        self.stream.receive(self.client.start_stream())

    @rule(chains=CHAINS)
    def change(self, chains: dict[str, str]) -> None:
        self.wanted = chains
        self.stream.target = snapshot(chains={n: f"{n}={c}" for n, c in chains.items()})

    @rule()
    def one_message(self) -> None:
        response = self.stream.next_response()
        if response is not None:
            self._deliver(response)

    @rule()
    def lose_an_answer_with_the_connection(self) -> None:
        response = self.stream.next_response()
        if response is not None:
            proposal = self.client.receive(response)
            assert proposal is not None
            self.client.answer(proposal)
        self.connect()

    @rule()
    def settle(self) -> None:
        for _ in range(10):
            response = self.stream.next_response()
            if response is None:
                break
            self._deliver(response)
        else:
            raise AssertionError("the two never come to rest")
        held = {name: one.content for name, one in self.client.resources.items()}
        assert held.keys() <= self.wanted.keys()
        sound = {name: content for name, content in self.wanted.items() if content != "bad"}
        assert sound.items() <= held.items()
        refused = sound != self.wanted
        assert self.stream.verdict(CHAIN) is (Verdict.REFUSED if refused else Verdict.CURRENT)

    def _deliver(self, response: Any) -> None:
        proposal = self.client.receive(response)
        assert proposal is not None
        self.stream.receive(self.client.answer(proposal))

    @invariant()
    def nothing_bad_is_held(self) -> None:
        assert all(one.content != "bad" for one in self.client.resources.values())
        assert not self.client.oddities
        assert not self.stream.stale


class SotwPair(Pair):
    client_kind = SotwClient
    stream_kind = SotwStream


class DeltaPair(Pair):
    client_kind = DeltaClient
    stream_kind = DeltaStream


TestSotwPair = SotwPair.TestCase
TestDeltaPair = DeltaPair.TestCase
TestSotwPair.settings = TestDeltaPair.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
