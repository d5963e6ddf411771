"""Who is connected, what each of them is to have, and how far they have got.

A separate module because the server (which moves messages), the roll-out (which decides what comes next) and the
status page all look at the same clients, and must not know each other.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import MappingProxyType

from policy_control_plane.ads_stream import AdsStream, Verdict
from policy_control_plane.resources import CHAIN, CLUSTER, LISTENER, ROUTES, Snapshot

ENVOY_TYPES = (CLUSTER, LISTENER, ROUTES)
REMEMBERED = 30.0
"""Seconds for which a client that went away is expected back."""


@dataclass(slots=True)
class Client:
    """One connected stream."""

    stream: AdsStream
    peer: str
    since: float = field(default_factory=time.time)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self.stream.node.id or self.peer

    def subscribes(self, *type_urls: str) -> bool:
        """Whether it subscribed to one of the types."""
        return any(type_url in self.stream.subscriptions for type_url in type_urls)


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a group of clients stands: settled when neither list has entries."""

    waiting: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        """Whether it makes sense to wait longer."""
        return bool(self.waiting) and not self.refusals


class Fleet:
    """All clients and their common target; nothing is sent before there is one."""

    def __init__(self) -> None:
        self._clients: dict[int, Client] = {}
        self._numbers = itertools.count()
        self._departed: dict[tuple[str, bool], float] = {}
        self._target: Snapshot | None = None
        self._keep_chains = True
        self._news = asyncio.Event()

    def __iter__(self) -> Iterator[Client]:
        return iter(tuple(self._clients.values()))

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def target(self) -> Snapshot | None:
        """What all clients shall have, None before the first configuration."""
        return self._target

    def connect(self, stream: AdsStream, peer: str) -> tuple[int, Client]:
        """Add a client; returns the number to disconnect it by."""
        number, client = next(self._numbers), Client(stream, peer)
        self._clients[number] = client
        self._aim(client)
        return number, client

    def disconnect(self, number: int) -> None:
        """Remove a client, which is expected back for a while."""
        client = self._clients.pop(number)
        for is_engine in (True, False):
            if client.stream.node.id and client.subscribes(*((CHAIN,) if is_engine else ENVOY_TYPES)):
                self._departed[client.stream.node.id, is_engine] = time.monotonic()
        self.notify()

    def set_target(self, target: Snapshot) -> None:
        """Give every client a new target; types that it lacks are left with the clients as they are."""
        self._target = MappingProxyType(dict(target))
        for client in self:
            self._aim(client)
            client.wake.set()

    def drop_unknown_chains(self) -> None:
        """From now on, take from engines the chains that the target does not have."""
        self._keep_chains = False
        for client in self:
            self._aim(client)
            client.wake.set()

    def notify(self) -> None:
        """Say that some client's standing may have changed."""
        self._news.set()

    def engines(self) -> Judgement:
        """Return how the engines stand with their chains."""
        return self._judge(is_engine=True, type_urls=(CHAIN,))

    def envoys(self) -> Judgement:
        """Return how the Envoys stand with everything that is theirs."""
        return self._judge(is_engine=False, type_urls=ENVOY_TYPES)

    def count_engines(self) -> int:
        """Return how many connected clients take chains."""
        return sum(client.subscribes(CHAIN) for client in self)

    async def wait(self, judge: Callable[[], Judgement], at_most: float) -> Judgement:
        """Return the judgement once it is not open any more, or after `at_most` seconds as it is then."""
        deadline = time.monotonic() + at_most
        while (judgement := judge()).open:
            self._news.clear()
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            try:
                await asyncio.wait_for(self._news.wait(), remaining)
            except TimeoutError:
                return judge()
        return judgement

    def _aim(self, client: Client) -> None:
        if self._target is not None:
            client.stream.target = self._target
            client.stream.lenient = False
        client.stream.keep_chains = self._keep_chains

    def _judge(self, *, is_engine: bool, type_urls: tuple[str, ...]) -> Judgement:
        waiting, refusals, present = [], [], set()
        for client in self:
            if not client.subscribes(*type_urls):
                continue
            present.add(client.stream.node.id)
            for type_url in type_urls:
                verdict = client.stream.verdict(type_url)
                if verdict is Verdict.PENDING:
                    waiting.append(client.name)
                elif verdict is Verdict.REFUSED:
                    refusal = client.stream.subscriptions[type_url].refusal
                    refusals.append(f"{client.name}: {refusal.message if refusal else ''}")
        now = time.monotonic()
        for (node_id, was_engine), since in tuple(self._departed.items()):
            if now - since > REMEMBERED or (node_id in present and was_engine is is_engine):
                del self._departed[node_id, was_engine]
            elif was_engine is is_engine:
                waiting.append(f"{node_id} (disconnected)")
        return Judgement(tuple(dict.fromkeys(waiting)), tuple(refusals))
