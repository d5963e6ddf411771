"""Conformance of the xDS client, message by message, with Envoy's "xDS REST and gRPC protocol" page.

Each test names what the page says. Resources here are text: `name=content`; content `bad` does not validate.
"""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from policy_engine.sources.xds.protocol import (
    Client,
    DeltaClient,
    InvalidResource,
    ProtocolError,
    ResourceProblem,
    SotwClient,
    Subscription,
    refusal_message,
)

TYPE = "type.googleapis.com/test.Chain"
NODE = base_pb2.Node(id="engine-1", cluster="engines")


def _decode(wire: bytes) -> tuple[str, str]:
    name, separator, content = wire.decode("utf-8").partition("=")
    if not separator:
        raise ValueError("half a resource")
    if content == "bad":
        raise InvalidResource(name, "the content is bad")
    return name, content


def _pack(wire: str, type_url: str = TYPE) -> any_pb2.Any:
    return any_pb2.Any(type_url=type_url, value=wire.encode())


def _sotw(version: str, nonce: str, *wires: str, type_url: str = TYPE) -> Any:
    return discovery_pb2.DiscoveryResponse(
        version_info=version, nonce=nonce, type_url=type_url, resources=[_pack(wire) for wire in wires]
    )


def _delta(
    nonce: str, changed: dict[str, tuple[str, str]] | None = None, removed: tuple[str, ...] = (), version: str = "s"
) -> Any:
    return discovery_pb2.DeltaDiscoveryResponse(
        system_version_info=version,
        nonce=nonce,
        type_url=TYPE,
        resources=[
            discovery_pb2.Resource(name=name, version=resource_version, resource=_pack(wire))
            for name, (resource_version, wire) in (changed or {}).items()
        ],
        removed_resources=removed,
    )


def _client(kind: type[Client[Any]], names: tuple[str, ...] = ("*",)) -> Any:
    client = kind(Subscription(TYPE, _decode, names), NODE)
    client.start_stream()
    return client


def _contents(client: Client[Any]) -> dict[str, str]:
    return {name: resource.content for name, resource in client.resources.items()}


def _exchange(client: Client[Any], response: Any) -> Any:
    proposal = client.receive(response)
    assert proposal is not None
    return client.answer(proposal)


def _is_ack(request: Any) -> bool:
    return not request.HasField("error_detail")


# The beginning of a stream


def test_sotw_first_request_names_type_node_and_wildcard_and_has_neither_version_nor_nonce() -> None:
    request = SotwClient(Subscription(TYPE, _decode), NODE).start_stream()
    assert request == discovery_pb2.DiscoveryRequest(node=NODE, type_url=TYPE, resource_names=["*"])


def test_delta_first_request_subscribes_and_knows_nothing() -> None:
    request = DeltaClient(Subscription(TYPE, _decode), NODE).start_stream()
    assert request == discovery_pb2.DeltaDiscoveryRequest(node=NODE, type_url=TYPE, resource_names_subscribe=["*"])


@pytest.mark.parametrize("kind", [SotwClient, DeltaClient])
def test_only_the_first_request_of_a_stream_carries_the_node(kind: Any) -> None:
    client = _client(kind)
    response = _sotw("1", "a", "x=1") if kind is SotwClient else _delta("a", {"x": ("1", "x=1")})
    assert not _exchange(client, response).HasField("node")
    assert client.start_stream().node.id == "engine-1"


# ACK and NACK


def test_sotw_ack_carries_the_new_version_the_nonce_and_the_full_list_of_names() -> None:
    client = _client(SotwClient, ("x", "y"))
    request = _exchange(client, _sotw("1", "a", "x=1"))
    assert request == discovery_pb2.DiscoveryRequest(
        version_info="1", response_nonce="a", type_url=TYPE, resource_names=["x", "y"]
    )


def test_delta_ack_carries_the_nonce_and_no_change_of_subscription() -> None:
    client = _client(DeltaClient)
    request = _exchange(client, _delta("a", {"x": ("1", "x=1")}))
    assert request == discovery_pb2.DeltaDiscoveryRequest(response_nonce="a", type_url=TYPE)


def test_sotw_nack_carries_the_previous_version_the_new_nonce_and_the_reason() -> None:
    client = _client(SotwClient)
    _exchange(client, _sotw("1", "a", "x=1"))
    request = _exchange(client, _sotw("2", "b", "x=bad"))
    assert (request.version_info, request.response_nonce) == ("1", "b")
    assert request.error_detail.code == 3
    assert "x: the content is bad" in request.error_detail.message
    assert _contents(client) == {"x": "1"}


def test_a_nack_before_any_ack_has_the_empty_version_and_establishes_nothing() -> None:
    client = _client(SotwClient)
    request = _exchange(client, _sotw("1", "a", "x=bad"))
    assert request.version_info == ""
    assert not client.established


def test_an_update_may_succeed_after_a_nack() -> None:
    client = _client(SotwClient)
    _exchange(client, _sotw("1", "a", "x=bad"))
    request = _exchange(client, _sotw("2", "b", "x=2"))
    assert _is_ack(request)
    assert request.version_info == "2"
    assert _contents(client) == {"x": "2"}


@pytest.mark.parametrize("kind", [SotwClient, DeltaClient])
def test_sound_resources_take_effect_and_a_bad_one_keeps_its_last_good_version(kind: Any) -> None:
    client = _client(kind)
    if kind is SotwClient:
        first, second = _sotw("1", "a", "x=1", "y=1"), _sotw("2", "b", "x=bad", "y=2", "z=2")
    else:
        first = _delta("a", {"x": ("1", "x=1"), "y": ("1", "y=1")})
        second = _delta("b", {"x": ("2", "x=bad"), "y": ("2", "y=2"), "z": ("2", "z=2")})
    _exchange(client, first)
    request = _exchange(client, second)
    assert not _is_ack(request)
    assert "1 of 3 resources refused" in request.error_detail.message
    assert _contents(client) == {"x": "1", "y": "2", "z": "2"}


def test_an_empty_wildcard_response_is_a_configuration() -> None:
    client = _client(SotwClient)
    assert _is_ack(_exchange(client, _sotw("1", "a")))
    assert client.established


def test_what_could_not_be_applied_is_put_back_and_told() -> None:
    client = _client(DeltaClient)
    _exchange(client, _delta("a", {"x": ("1", "x=1")}))
    proposal = client.receive(_delta("b", {"x": ("2", "x=2"), "y": ("2", "y=2")}))
    narrowed = client.without(proposal, [ResourceProblem("x", "no such policy")])
    assert narrowed.changed == {"y"}
    request = client.answer(narrowed)
    assert "x: no such policy" in request.error_detail.message
    assert _contents(client) == {"x": "1", "y": "2"}


@pytest.mark.parametrize("culprit", ["", "someone-else"])
def test_a_problem_of_no_changed_resource_puts_everything_back(culprit: str) -> None:
    client = _client(DeltaClient)
    _exchange(client, _delta("a", {"x": ("1", "x=1"), "w": ("1", "w=1")}))
    proposal = client.receive(_delta("b", {"x": ("2", "x=2")}, removed=("w",)))
    narrowed = client.without(proposal, [ResourceProblem(culprit, "out of memory")])
    assert narrowed.empty
    assert not _is_ack(client.answer(narrowed))
    assert _contents(client) == {"x": "1", "w": "1"}


def test_the_message_of_a_nack_is_bounded_and_printable() -> None:
    client = _client(DeltaClient)
    many = {f"r{i}": ("1", f"r{i}=bad") for i in range(500)}
    many["evil\n\x1b[31m" + "x" * 5000] = ("1", "other")
    proposal = client.receive(_delta("a", many))
    message = refusal_message(proposal)
    assert len(message) < 45_000
    assert message.isprintable()
    assert "481 more" in message


# Nonces


@pytest.mark.parametrize("kind", [SotwClient, DeltaClient])
def test_nonces_do_not_survive_the_stream(kind: Any) -> None:
    client = _client(kind)
    _exchange(client, _sotw("1", "a", "x=1") if kind is SotwClient else _delta("a", {"x": ("1", "x=1")}))
    assert client.start_stream().response_nonce == ""
    _exchange(client, _sotw("1", "a", "x=1") if kind is SotwClient else _delta("a", {"x": ("1", "x=1")}))
    assert not client.oddities


@pytest.mark.parametrize("kind", [SotwClient, DeltaClient])
def test_a_response_without_nonce_cannot_be_answered_and_ends_the_stream(kind: Any) -> None:
    client = _client(kind)
    with pytest.raises(ProtocolError, match="without a nonce"):
        client.receive(_sotw("1", "", "x=1") if kind is SotwClient else _delta("", {"x": ("1", "x=1")}))
    assert not client.resources


def test_a_nonce_used_twice_is_answered_and_counted() -> None:
    client = _client(SotwClient)
    _exchange(client, _sotw("1", "a", "x=1"))
    request = _exchange(client, _sotw("2", "a", "x=2"))
    assert (request.version_info, request.response_nonce) == ("2", "a")
    assert client.oddities == {"nonce_used_twice": 1}


def test_a_response_of_another_type_is_neither_used_nor_answered() -> None:
    client = _client(SotwClient)
    assert client.receive(_sotw("1", "a", "x=1", type_url="type.googleapis.com/other")) is None
    assert client.oddities == {"response_of_unsubscribed_type": 1}


# Which resources


def test_sotw_a_resource_of_another_type_inside_is_refused() -> None:
    client = _client(SotwClient)
    response = _sotw("1", "a", "x=1")
    response.resources.append(_pack("y=1", "type.googleapis.com/other"))
    assert "is of type 'type.googleapis.com/other'" in _exchange(client, response).error_detail.message
    assert _contents(client) == {"x": "1"}


@pytest.mark.parametrize("kind", [SotwClient, DeltaClient])
def test_resources_that_were_not_asked_for_are_silently_ignored(kind: Any) -> None:
    client = _client(kind, ("x",))
    response = (
        _sotw("1", "a", "x=1", "y=1") if kind is SotwClient else _delta("a", {"x": ("1", "x=1"), "y": ("1", "y=1")})
    )
    assert _is_ack(_exchange(client, response))
    assert _contents(client) == {"x": "1"}


@pytest.mark.parametrize("second", ["x=2", "x=1", "x=bad"])
def test_sotw_duplicate_names_are_nacked_and_none_of_them_is_used(second: str) -> None:
    client = _client(SotwClient)
    _exchange(client, _sotw("1", "a", "x=0", "y=0"))
    request = _exchange(client, _sotw("2", "b", "x=1", "y=1", second))
    assert "this name 2 times" in request.error_detail.message
    assert _contents(client) == {"x": "0", "y": "1"}


def test_delta_duplicate_names_are_nacked_and_none_of_them_is_used() -> None:
    client = _client(DeltaClient)
    response = _delta("a", {"x": ("1", "x=1")})
    response.resources.append(discovery_pb2.Resource(name="x", version="2", resource=_pack("x=2")))
    assert "this name 2 times" in _exchange(client, response).error_detail.message
    assert not client.resources


def test_delta_a_name_outside_that_differs_from_the_one_inside_is_refused() -> None:
    client = _client(DeltaClient)
    request = _exchange(client, _delta("a", {"x": ("1", "y=1")}))
    assert "x: the resource inside is named 'y'" in request.error_detail.message
    assert not client.resources


def test_delta_both_sent_and_removed_keeps_the_last_good() -> None:
    client = _client(DeltaClient)
    _exchange(client, _delta("a", {"x": ("1", "x=1")}))
    request = _exchange(client, _delta("b", {"x": ("2", "x=2")}, removed=("x",)))
    assert "both sends and removes" in request.error_detail.message
    assert _contents(client) == {"x": "1"}


def test_half_a_resource_removes_nothing_in_sotw_since_it_might_be_any_of_the_absent() -> None:
    client = _client(SotwClient)
    _exchange(client, _sotw("1", "a", "x=1", "y=1"))
    request = _exchange(client, _sotw("2", "b", "x=2", "half"))
    assert "a resource without a name: half a resource" in request.error_detail.message
    assert _contents(client) == {"x": "2", "y": "1"}


def test_delta_resource_without_a_body_is_refused_unless_it_is_a_heartbeat() -> None:
    client = _client(DeltaClient)
    _exchange(client, _delta("a", {"x": ("1", "x=1")}))
    heartbeat = _delta("b")
    heartbeat.resources.add(name="x", version="1")
    assert _is_ack(_exchange(client, heartbeat))
    half = _delta("c")
    half.resources.add(name="x", version="2")
    assert not _is_ack(_exchange(client, half))
    assert _contents(client) == {"x": "1"}


# Removal


def test_sotw_absence_is_removal_under_a_wildcard() -> None:
    client = _client(SotwClient)
    _exchange(client, _sotw("1", "a", "x=1", "y=1"))
    proposal = client.receive(_sotw("2", "b", "y=1"))
    assert (proposal.changed, proposal.removed) == (frozenset(), {"x"})
    client.answer(proposal)
    assert _contents(client) == {"y": "1"}


def test_sotw_absence_is_not_removal_for_named_resources() -> None:
    client = _client(SotwClient, ("x", "y"))
    _exchange(client, _sotw("1", "a", "x=1", "y=1"))
    _exchange(client, _sotw("2", "b", "y=2"))
    assert _contents(client) == {"x": "1", "y": "2"}


def test_delta_absence_is_not_removal_and_removed_resources_are() -> None:
    client = _client(DeltaClient)
    _exchange(client, _delta("a", {"x": ("1", "x=1"), "y": ("1", "y=1")}))
    _exchange(client, _delta("b", {"y": ("2", "y=2")}))
    assert _contents(client) == {"x": "1", "y": "2"}
    assert _is_ack(_exchange(client, _delta("c", removed=("x", "never-there"))))
    assert _contents(client) == {"y": "2"}


# Reconnecting


def test_sotw_reconnect_tells_the_last_accepted_version() -> None:
    client = _client(SotwClient)
    _exchange(client, _sotw("1", "a", "x=1"))
    _exchange(client, _sotw("2", "b", "x=bad"))
    assert client.start_stream().version_info == "1"


def test_delta_reconnect_tells_what_is_in_use_so_that_a_refused_version_is_sent_again() -> None:
    client = _client(DeltaClient)
    _exchange(client, _delta("a", {"x": ("1", "x=1"), "y": ("1", "y=1")}))
    _exchange(client, _delta("b", {"x": ("2", "x=bad"), "y": ("2", "y=2")}))
    request = client.start_stream()
    assert dict(request.initial_resource_versions) == {"x": "1", "y": "2"}
    assert list(request.resource_names_subscribe) == ["*"]


def test_the_same_bytes_again_are_no_change_but_the_version_is_learnt() -> None:
    client = _client(DeltaClient)
    _exchange(client, _delta("a", {"x": ("1", "x=1")}))
    proposal = client.receive(_delta("b", {"x": ("2", "x=1")}))
    assert proposal.empty
    client.answer(proposal)
    assert dict(client.start_stream().initial_resource_versions) == {"x": "2"}


def test_versions_of_another_variant_are_not_claimed() -> None:
    client = DeltaClient(Subscription(TYPE, _decode), NODE)
    resources, problems = client.revive("sotw", [("x", "1", b"x=1"), ("y", "1", b"y=bad")])
    assert [problem.name for problem in problems] == ["y"]
    client.restore("", resources.values())
    assert not client.start_stream().initial_resource_versions
    assert _contents(client) == {"x": "1"}


# Any sequence of responses, however wrong: the client holds exactly what a simple model says it should.

NAMES = st.sampled_from(["a", "b", "c", "d"])
CONTENT = st.sampled_from(["1", "2", "3", "bad"])


class DeltaModel(RuleBasedStateMachine):
    """A server that adds, changes, removes, breaks, repeats and reconnects at random."""

    def __init__(self) -> None:
        super().__init__()
        self.client = _client(DeltaClient)
        self.good: dict[str, str] = {}
        self.count = 0

    @rule(changed=st.dictionaries(NAMES, CONTENT), removed=st.sets(NAMES), refused=st.sets(NAMES))
    def respond(self, changed: dict[str, str], removed: set[str], refused: set[str]) -> None:
        self.count += 1
        nonce = str(self.count)
        response = _delta(nonce, {n: (nonce, f"{n}={c}") for n, c in changed.items()}, tuple(removed))
        proposal = self.client.receive(response)
        assert proposal is not None
        unwanted = refused & proposal.changed
        if unwanted:
            proposal = self.client.without(proposal, [ResourceProblem(name, "refused") for name in sorted(unwanted)])
        request = self.client.answer(proposal)
        before = dict(self.good)
        for name in removed - changed.keys():
            self.good.pop(name, None)
        for name, content in changed.items():
            if content != "bad" and name not in removed and not (name in refused and before.get(name) != content):
                self.good[name] = content
        broken = any(c == "bad" for c in changed.values()) or bool(removed & changed.keys()) or bool(unwanted)
        assert _is_ack(request) is not broken
        assert request.response_nonce == nonce

    @rule()
    def reconnect(self) -> None:
        assert set(self.client.start_stream().initial_resource_versions) == set(self.good)

    @invariant()
    def holds_the_last_good(self) -> None:
        assert _contents(self.client) == self.good


class SotwModel(RuleBasedStateMachine):
    """The same for the state of the world, with duplicates and halves."""

    def __init__(self) -> None:
        super().__init__()
        self.client = _client(SotwClient)
        self.good: dict[str, str] = {}
        self.version = ""
        self.count = 0

    @rule(offered=st.lists(st.tuples(NAMES, CONTENT), max_size=6), half=st.booleans())
    def respond(self, offered: list[tuple[str, str]], half: bool) -> None:
        self.count += 1
        number = str(self.count)
        wires = [f"{name}={content}" for name, content in offered] + (["half"] if half else [])
        request = _exchange(self.client, _sotw(number, number, *wires))
        names = [name for name, _ in offered]
        bad = {name for name, content in offered if content == "bad" or names.count(name) > 1}
        kept = {name: content for name, content in self.good.items() if half or name in bad}
        self.good = kept | {name: content for name, content in offered if name not in bad}
        if not bad and not half:
            self.version = number
        assert _is_ack(request) is (not bad and not half)
        assert request.version_info == self.version
        assert request.response_nonce == number

    @rule()
    def reconnect(self) -> None:
        assert self.client.start_stream().version_info == self.version

    @invariant()
    def holds_the_last_good(self) -> None:
        assert _contents(self.client) == self.good


TestDeltaModel = DeltaModel.TestCase
TestSotwModel = SotwModel.TestCase
