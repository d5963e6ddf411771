"""Make before break within one stream: what waits for what, and what stays until nothing needs it."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane_testing.ads_peer import Peer, snapshot
from policy_control_plane.ads_stream import AdsStream, DeltaStream, SotwStream, Verdict
from policy_control_plane.resources import (
    CHAIN,
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    ROUTES,
    SHORT_NAMES,
)

STREAMS = pytest.mark.parametrize("kind", [SotwStream, DeltaStream])


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


def _names(response: Any) -> set[str]:
    return {one.name if hasattr(one, "name") else one.value.decode() for one in response.resources}
