"""Our client against our server: whatever happens between them, they agree in the end."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controlplane_testing.ads_peer import NODE, snapshot
from policy_control_plane.ads_stream import AdsStream, DeltaStream, SotwStream, Verdict
from policy_control_plane.resources import (
    CHAIN,
)
from policy_engine.sources.xds.protocol import Client, DeltaClient, InvalidResource, SotwClient
from policy_engine.sources.xds.protocol import Subscription as ClientSubscription

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
