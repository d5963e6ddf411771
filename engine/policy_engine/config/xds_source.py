"""Follows a management server over gRPC and applies what it sends (R-21).

It is its own room because it is the only part of the xDS client that waits: connections, back-off, the disk. What the
messages mean is decided in `xds_protocol`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

import grpc
from envoy.config.core.v3 import base_pb2
from google.protobuf.message import DecodeError

from policy_engine.config.xds_backoff import Backoff
from policy_engine.config.xds_chain import TYPE_URL, ChainError, decode
from policy_engine.config.xds_channel import XdsConnection, open_channel
from policy_engine.config.xds_protocol import (
    Client,
    DeltaClient,
    InvalidResource,
    Proposal,
    ProtocolError,
    Resource,
    ResourceProblem,
    SotwClient,
    Subscription,
    Variant,
    describe,
)
from policy_engine.config.xds_saved import Saved, SavedError, SavedResource, load, save
from policy_engine.worker.spec import ChainsSpec, RouteSpec

_aio: Any = grpc.aio  # its stubs know neither EOF nor calls that are written to
logger = logging.getLogger(__name__)

Apply = Callable[[ChainsSpec], Awaitable[Sequence[ResourceProblem]]]
"""Activate a whole configuration everywhere. With problems in the result nothing of it was activated."""

ReadRoute = Callable[[Mapping[str, Any]], RouteSpec]
"""Validate one route as a chain file would hold it; raises ValueError with everything that is wrong with it."""


class StreamEnded(Exception):
    """The stream to the management server is over; the message says why."""


@dataclass(slots=True)
class XdsStatus:
    """What an operator wants to know about the connection (admin page, metrics). Times are seconds since the epoch."""

    variant: Variant
    connected: bool = False
    address: str = ""
    version: str = ""
    resources: int = 0
    from_disk: bool = False
    last_update: float | None = None
    last_nack: str | None = None
    last_nack_time: float | None = None
    last_error: str | None = None
    connections: int = 0
    disconnections: int = 0
    responses: int = 0
    acks: int = 0
    nacks: int = 0
    oddities: Mapping[str, int] = field(default_factory=dict)

    def as_document(self) -> dict[str, Any]:
        """Return the status as plain JSON-able data."""
        return asdict(self)


class XdsSource:
    """A configuration source: `run` it for as long as the configuration should be followed."""

    def __init__(self, settings: XdsConnection, apply: Apply, read_route: ReadRoute) -> None:
        self._settings = settings
        self._apply = apply
        self._client = _client(settings, lambda wire: _read_resource(wire, read_route))
        self._backoff = Backoff(settings.backoff_first, settings.backoff_longest, settings.stable_after)
        self._taking = asyncio.Lock()
        self.status = XdsStatus(self._client.variant, oddities=self._client.oddities)

    async def run(self) -> NoReturn:
        """Keep the configuration up to date until cancelled; no error of the server ends it."""
        fallback = asyncio.create_task(self._fall_back())
        try:
            for address in itertools.cycle(self._settings.addresses):
                try:
                    await self._follow(address)
                except (StreamEnded, ProtocolError, grpc.RpcError, OSError) as error:
                    self.status.last_error = _reason(error)
                delay = self._backoff.next_delay()
                logger.warning(
                    "management server %s: %s; next attempt in %.1f s, %s",
                    address,
                    self.status.last_error,
                    delay,
                    "keeping the configuration in use" if self._client.established else "no configuration yet",
                )
                await asyncio.sleep(delay)
        finally:
            fallback.cancel()
        raise AssertionError("unreachable: the addresses are cycled for ever")

    async def _follow(self, address: str) -> None:
        async with open_channel(self._settings, address) as channel:
            try:
                await asyncio.wait_for(channel.channel_ready(), self._settings.connect_timeout)
            except TimeoutError:
                raise StreamEnded(f"no connection within {self._settings.connect_timeout} s") from None
            began = time.monotonic()
            self.status.connected, self.status.address = True, address
            self.status.connections += 1
            logger.info("management server %s: connected", address)
            try:
                await self._converse(channel)
            finally:
                self.status.connected = False
                self.status.disconnections += 1
                self._backoff.connection_ended(time.monotonic() - began)

    async def _converse(self, channel: Any) -> None:
        call = channel.stream_stream(
            self._client.method, request_serializer=lambda message: message.SerializeToString()
        )()
        try:
            await call.write(self._client.start_stream())
            while (message := await call.read()) is not _aio.EOF:
                await self._answer(call, message)
            raise StreamEnded(f"the server ended the stream: {(await call.code()).name} {await call.details()}")
        except asyncio.InvalidStateError:  # grpc.aio's way to say that a write came after the end of the call
            raise StreamEnded(f"the stream ended: {(await call.code()).name} {await call.details()}") from None
        finally:
            call.cancel()

    async def _answer(self, call: Any, message: bytes) -> None:
        self.status.responses += 1
        try:
            response = self._client.response_class.FromString(message)
        except DecodeError:
            raise ProtocolError(f"{len(message)} bytes from the server are not a discovery response") from None
        async with self._taking:
            # In a thread: validation runs code of policies, and may read secrets from files.
            proposal = await asyncio.to_thread(self._client.receive, response)
            if proposal is None:
                logger.warning("ignored a response of type %r, which was not asked for", response.type_url[:200])
                return
            settled = await self._settle(proposal)
            request = self._client.answer(settled)
        self._note(settled)
        await call.write(request)
        if not settled.empty:
            await self._save()

    async def _settle(self, proposal: Proposal[RouteSpec]) -> Proposal[RouteSpec]:
        """Apply as much of `proposal` as can be applied; return it narrowed to that."""
        while not proposal.empty or not (self._client.established or proposal.problems):
            problems = await self._try_to_apply(proposal.resources)
            if not problems:
                break
            proposal = self._client.without(proposal, problems)
        return proposal

    async def _try_to_apply(self, resources: Mapping[str, Resource[RouteSpec]]) -> Sequence[ResourceProblem]:
        chains = ChainsSpec(tuple(resources[name].content for name in sorted(resources)))
        try:
            return await self._apply(chains)
        except Exception as error:
            logger.exception("a configuration from the management server could not be applied")
            return [ResourceProblem("", f"could not be applied ({type(error).__name__}); the engine's log says more")]

    def _note(self, proposal: Proposal[RouteSpec]) -> None:
        status = self.status
        status.version, status.resources = self._client.version, len(self._client.resources)
        if not (proposal.problems and proposal.empty):
            status.from_disk = False
        if not proposal.empty:
            status.last_update = time.time()
        if proposal.problems:
            status.nacks += 1
            status.last_nack, status.last_nack_time = describe(proposal), time.time()
            logger.error("refused by NACK: %s", status.last_nack)
        else:
            status.acks += 1
            logger.info(
                "accepted version %s: %d changed, %d removed, %d in all",
                proposal.version,
                len(proposal.changed),
                len(proposal.removed),
                len(proposal.resources),
            )

    async def _save(self) -> None:
        if self._settings.saved is None:
            return
        saved = Saved(
            TYPE_URL,
            self._client.variant.value,
            self._client.version,
            tuple(SavedResource(one.name, one.version, one.wire) for one in self._client.resources.values()),
        )
        try:
            await asyncio.to_thread(save, self._settings.saved, saved)
        except OSError as error:
            self.status.last_error = f"{self._settings.saved}: cannot be written: {error.strerror}"
            logger.error("last known good configuration not saved: %s", self.status.last_error)

    async def _fall_back(self) -> None:
        """Use the configuration saved by an earlier run when no server gives one in time."""
        if self._settings.saved is None:
            return
        await asyncio.sleep(self._settings.saved_after)
        async with self._taking:
            if self._client.established:
                return
            try:
                saved = await asyncio.to_thread(load, self._settings.saved, TYPE_URL)
            except SavedError as error:
                logger.error("last known good configuration not used: %s", error)
                return
            if saved is not None:
                await self._use(saved)

    async def _use(self, saved: Saved) -> None:
        kept = ((one.name, one.version, one.wire) for one in saved.resources)
        resources, problems = await asyncio.to_thread(self._client.revive, saved.variant, kept)
        while still := await self._try_to_apply(resources):
            problems += still
            refused = {problem.name for problem in still} & resources.keys()
            if not refused:
                logger.error("last known good configuration not used: %s", "; ".join(map(str, still)))
                return
            resources = {name: resource for name, resource in resources.items() if name not in refused}
        for problem in problems:
            logger.error("left out of the saved configuration: %s", problem)
        comparable = saved.variant == self._client.variant and not problems
        self._client.restore(saved.version if comparable else "", resources.values())
        self.status.version, self.status.resources = saved.version, len(resources)
        self.status.from_disk, self.status.last_update = True, time.time()
        logger.warning("no management server yet: using %d saved chains, version %s", len(resources), saved.version)


def _client(settings: XdsConnection, read: Callable[[bytes], tuple[str, RouteSpec]]) -> Client[RouteSpec]:
    node = base_pb2.Node(id=settings.node_id, cluster=settings.node_cluster, user_agent_name="policy-engine")
    subscription = Subscription(TYPE_URL, read, settings.resource_names)
    make = DeltaClient if settings.variant is Variant.DELTA else SotwClient
    return make(subscription, node)


def _read_resource(wire: bytes, read_route: ReadRoute) -> tuple[str, RouteSpec]:
    try:
        document = decode(wire)
    except ChainError as error:
        raise InvalidResource(error.route_key, str(error)) from None
    name = document["route_key"]
    try:
        return name, read_route(document)
    except ValueError as error:
        raise InvalidResource(name, str(error)) from None


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {(error.details() or '')[:500]}"
    return str(error)
