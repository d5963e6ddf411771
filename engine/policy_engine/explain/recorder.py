"""Records streams for whoever watches: a session that is recorded, and the one decision per stream whether it is."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from google.protobuf.message import DecodeError

from policy_engine.explain.hooks import RecordedKernel, RecordedRoutes
from policy_engine.explain.masking import Masking
from policy_engine.explain.record import ExchangeRecord
from policy_engine.explain.recording import Recording
from policy_engine.kernel.envoy_facts import EnvoyFacts
from policy_engine.kernel.header_view import headers_of
from policy_engine.kernel.kernel import Kernel
from policy_engine.kernel.session import Session
from policy_engine.kernel.stream import Peer, Replies, StreamError, StreamHandler
from policy_engine.sdk import Request, Response
from policy_engine.sdk.attributes import ATTRIBUTES
from policy_engine.worker.chains.needs import Asked

MOST_STREAMS = 1000
"""Streams that are recorded at once; others are counted as dropped."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A stream that is over: its record, and what conditions ask about, unmasked.

    `request` is the request as it came, with the metadata of the end; `response` what goes to the client, None when
    that was not seen.
    """

    record: ExchangeRecord
    request: Request
    response: Response | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be done with the record of one stream; `body_limit` is how many characters of bodies it shows.

    `publish`: the times of its policies go to Envoy as dynamic metadata.
    """

    ended: Callable[[Ended], None]
    body_limit: int = 0
    publish: bool = False


class Watcher(Protocol):
    """Somebody who may want records."""

    @property
    def watching(self) -> bool:
        """Whether any stream may be wanted at all."""
        ...

    def wants(self, request: Request) -> Wanted | None:
        """Return what to do with the record of this request, None when it is not wanted."""
        ...

    def dropped(self) -> None:
        """A stream that may have been wanted is not recorded, as there are too many."""
        ...


class Recorder:
    """Makes the sessions of streams that may be recorded, all on one kernel. `open` counts those that are."""

    def __init__(self, kernel: Kernel, watchers: tuple[Watcher, ...] = ()) -> None:
        self._kernel = kernel
        self._watchers = watchers
        self._routes: RecordedRoutes | None = None
        self._maskings: dict[int, Masking] = {}
        self.open = 0
        self.active = False
        """Whether anybody watches."""

    def refresh(self) -> None:
        """Look anew whether anybody watches."""
        self.active = any(one.watching for one in self._watchers)
        if not self.active:
            self._routes = None
            self._maskings.clear()

    def handler(self, peer: Peer) -> StreamHandler:
        """Return the handler of a stream: one that records if somebody wants it, or the plain session."""
        return RecordingSession(self, self._kernel, peer) if self.active else Session(self._kernel, peer)

    def begin(self, request: Request) -> tuple[Recording, RecordedKernel, list[Wanted]] | None:
        """Return what records this request, None when nobody wants it."""
        if self.open >= MOST_STREAMS:
            for one in self._watchers:
                if one.watching:
                    one.dropped()
            return None
        wanted = [found for one in self._watchers if one.watching and (found := one.wants(request)) is not None]
        if not wanted:
            return None
        routes = self._recorded_routes()
        route = None if routes is None else routes.get(request.route)
        masking = Masking() if route is None else self._masking(route.chain)
        digest = "" if route is None else route.chain.content_hash[:12]
        recording = Recording(request, masking, digest, body_limit=max(one.body_limit for one in wanted))
        self.open += 1
        return recording, RecordedKernel(self._kernel, routes, recording), wanted

    def _recorded_routes(self) -> RecordedRoutes | None:
        source = self._kernel.routes
        if source is None:
            return None
        if self._routes is None or self._routes.source is not source:
            self._routes = RecordedRoutes(source)
            self._maskings.clear()
        return self._routes

    def _masking(self, chain: Any) -> Masking:
        known = self._maskings.get(id(chain))
        if known is None:
            known = self._maskings[id(chain)] = Masking.of(chain)
        return known


def _all_sent(first: Any) -> Asked:
    """Return what whoever watches may ask of Envoy: all that it sent, whether the chain has asked for it or not."""
    return Asked(frozenset(ATTRIBUTES), frozenset(first.metadata_context.filter_metadata))


class RecordingSession:
    """One stream that is recorded when somebody wants it; else the session alone."""

    __slots__ = ("_kernel", "_peer", "_recorder", "_recording", "_session", "_wanted")

    def __init__(self, recorder: Recorder, kernel: Kernel, peer: Peer) -> None:
        self._recorder = recorder
        self._kernel = kernel
        self._peer = peer
        self._session: Session | None = None
        self._recording: Recording | None = None
        self._wanted: list[Wanted] = []

    def receive(self, message: bytes) -> Replies | Coroutine[Any, Any, Replies]:
        """Take one serialised `ProcessingRequest`."""
        session = self._session
        if session is None:
            session = self._session = self._begin(message)
        recording = self._recording
        if recording is None:
            return session.receive(message)
        try:
            recording.came(ext_proc.ProcessingRequest.FromString(message))
            replies = session.receive(message)
        except StreamError as error:
            recording.broke(f"the stream ends with an error: {error.message}")
            raise
        except DecodeError:
            return session.receive(message)
        if isinstance(replies, Coroutine):
            return self._later(recording, replies)
        return self._went(recording, replies)

    def close(self) -> None:
        """The stream is over."""
        if self._session is not None:
            self._session.close()
        recording, self._recording = self._recording, None
        if recording is None:
            return
        self._recorder.open -= 1
        record = recording.finish()
        ended = Ended(record, recording.request, recording.response())
        for one in self._wanted:
            one.ended(ended)

    def _begin(self, message: bytes) -> Session:
        try:
            first = ext_proc.ProcessingRequest.FromString(message)
        except DecodeError:
            return Session(self._kernel, self._peer)
        if first.WhichOneof("request") != "request_headers":
            return Session(self._kernel, self._peer)
        key = self._kernel.options.route_key.find(first)
        headers = headers_of(first.request_headers.headers)
        found = self._recorder.begin(Request(headers, route=key, facts=lambda: EnvoyFacts(first, _all_sent(first))))
        if found is None:
            return Session(self._kernel, self._peer)
        self._recording, kernel, self._wanted = found
        return Session(kernel, self._peer)

    def _went(self, recording: Recording, replies: Replies) -> Replies:
        recording.went(replies)
        if not any(one.publish for one in self._wanted) or replies is None:
            return replies
        # Serialised fields of a message may be concatenated.
        metadata = recording.times()
        return replies + metadata if isinstance(replies, bytes) else (*replies[:-1], replies[-1] + metadata)

    async def _later(self, recording: Recording, pending: Coroutine[Any, Any, Replies]) -> Replies:
        try:
            replies = await pending
        except StreamError as error:
            recording.broke(f"the stream ends with an error: {error.message}")
            raise
        return self._went(recording, replies)
