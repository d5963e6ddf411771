"""Follows a management server over gRPC and applies what it sends (R-21).

A separate module because it is the only part of the xDS client that waits: connections, back-off, the disk. What the
messages mean is decided in `protocol`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

import grpc
from envoy.config.core.v3 import base_pb2
from google.protobuf.message import DecodeError

from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.documents.error_text import error_text
from policy_engine.sources.source import Apply, LoadReport, Report, why_not_applied
from policy_engine.sources.xds.backoff import Backoff
from policy_engine.sources.xds.chain import TYPE_URL, ChainError, decode
from policy_engine.sources.xds.channel import XdsConnection, open_channel
from policy_engine.sources.xds.protocol import (
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
    refusal_message,
)
from policy_engine.sources.xds.saved import Saved, SavedError, SavedResource, load, save
from policy_engine.worker.chains.spec import ChainsSpec, RouteSpec
from policy_engine.worker.policies.construction import off_loop

_aio: Any = grpc.aio  # its stubs know neither EOF nor calls that are written to
_MOST_ONE_BY_ONE = 64
"""Changed chains of one response that are tried one by one when they cannot be applied together."""

logger = logging.getLogger(__name__)

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
    """A configuration source like FileSource: `run` it for as long as the configuration should be followed.

    `apply` puts chains into effect everywhere, or raises and leaves everywhere what was there; `report` gets what came
    into effect, and what was refused, as two reports when one response brings both.
    """

    def __init__(
        self, settings: XdsConnection, read_route: ReadRoute, apply: Apply, report: Report = lambda _: None
    ) -> None:
        self._settings = settings
        self._apply = apply
        self._report = report
        self._client = _client(settings, lambda wire: _read_resource(wire, read_route))
        self._backoff = Backoff(settings.backoff_first, settings.backoff_longest, settings.stable_after)
        self._taking = asyncio.Lock()
        self._told = False
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
                except Exception as error:
                    # A fault of our own, or of gRPC's: the chains in use are good, and the next attempt may be.
                    self.status.last_error = error_text(error)
                    logger.exception("management server %s: unforeseen", address)
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
                raise StreamEnded(self._unreachable()) from None
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

    def _unreachable(self) -> str:
        mine = "TLS, as xds.tls.ca is set" if self._settings.tls is not None else "plain text, as xds.tls.ca is not set"
        hint = f"nothing listens there, its certificate is not trusted, or it does not speak {mine}"
        return f"no connection within {self._settings.connect_timeout} s ({hint})"

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
            proposal = await off_loop(self._client.receive, response)
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
        if proposal.empty and (self._client.established or proposal.problems):
            return proposal
        problem = await self._try_to_apply(proposal.resources)
        if problem is None:
            return proposal
        if not 1 < len(proposal.changed) <= _MOST_ONE_BY_ONE:
            names = proposal.changed or {""}
            return self._client.without(proposal, [ResourceProblem(name, problem) for name in sorted(names)])
        return await self._settle_one_by_one(proposal)

    async def _settle_one_by_one(self, proposal: Proposal[RouteSpec]) -> Proposal[RouteSpec]:
        """Find out which chain it is that cannot be applied; the others take effect."""
        in_use, problems = dict(self._client.resources), []
        for name in sorted(proposal.changed):
            wanted = {**in_use, name: proposal.resources[name]}
            problem = await self._try_to_apply(wanted)
            if problem is None:
                in_use = wanted
            else:
                problems.append(ResourceProblem(name, problem))
        settled = self._client.without(proposal, problems)
        if settled.removed and (problem := await self._try_to_apply(settled.resources)) is not None:
            settled = self._client.without(settled, [ResourceProblem("", problem)])
            await self._try_to_apply(settled.resources)
        return settled

    async def _try_to_apply(self, resources: Mapping[str, Resource[RouteSpec]]) -> str | None:
        """Return None when the chains are in effect, or why they are not."""
        chains = _chains(resources)
        try:
            await self._apply(chains)
        except Exception as error:
            return why_not_applied(error, chains)
        return None

    def _note(self, proposal: Proposal[RouteSpec]) -> None:
        status = self.status
        status.version, status.resources = self._client.version, len(self._client.resources)
        if not (proposal.problems and proposal.empty):
            status.from_disk = False
        if not proposal.empty:
            status.last_update = time.time()
        self._tell(proposal)
        if proposal.problems:
            status.nacks += 1
            status.last_nack, status.last_nack_time = refusal_message(proposal), time.time()
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

    def _tell(self, proposal: Proposal[RouteSpec]) -> None:
        if not proposal.empty or not (proposal.problems or self._told):
            self._told = True
            self._report(LoadReport(True, proposal.version, (), _chains(proposal.resources)))
        if proposal.problems:
            found = tuple(Diagnostic(f"xds:{one.name}", one.message, rule=Rule.APPLY) for one in proposal.problems)
            self._report(LoadReport(False, proposal.version, found, None))

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
            await off_loop(save, self._settings.saved, saved)
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
                saved = await off_loop(load, self._settings.saved, TYPE_URL)
            except SavedError as error:
                logger.error("last known good configuration not used: %s", error)
                return
            if saved is not None:
                try:
                    await self._use(saved)
                except Exception:
                    # Nobody waits for this task, so that nobody else would tell.
                    logger.exception("last known good configuration not used: unforeseen")

    async def _use(self, saved: Saved) -> None:
        kept = ((one.name, one.version, one.wire) for one in saved.resources)
        resources, problems = await off_loop(self._client.revive, saved.variant, kept)
        if (failure := await self._try_to_apply(resources)) is not None:
            logger.error("last known good configuration not used: %s", failure)
            return
        for problem in problems:
            logger.error("left out of the saved configuration: %s", problem)
        comparable = saved.variant == self._client.variant and not problems
        self._client.restore(saved.version if comparable else "", resources.values())
        self.status.version, self.status.resources = saved.version, len(resources)
        self.status.from_disk, self.status.last_update = True, time.time()
        self._told = True
        self._report(LoadReport(True, saved.version, (), _chains(resources)))
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


def _chains(resources: Mapping[str, Resource[RouteSpec]]) -> ChainsSpec:
    return ChainsSpec(tuple(resources[name].content for name in sorted(resources)))


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {(error.details() or '')[:500]}"
    return str(error)
