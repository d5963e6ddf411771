"""Conformance of the server's side, message by message, with Envoy's "xDS REST and gRPC protocol" page."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from controlplane_testing.ads_peer import Peer, snapshot
from policy_control_plane.ads_stream import AdsStream, BadRequest, DeltaStream, SotwStream, Verdict
from policy_control_plane.resources import (
    CHAIN,
    CLUSTER,
    ROUTES,
    Resource,
    version_of,
)

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
