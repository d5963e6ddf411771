"""Test support: a management server that follows a script, however wrong, and an engine that records what it is given.

A separate module because the tests of the driver, of the file on disk and of TLS all need it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from policy_engine.sources.source import LoadReport
from policy_engine.sources.xds import chain as xds_chain
from policy_engine.sources.xds.channel import XdsConnection
from policy_engine.sources.xds.protocol import DeltaClient, SotwClient, Variant
from policy_engine.sources.xds.source import XdsSource
from policy_engine.worker.chains.spec import ChainsSpec, PolicySpec, RouteSpec

PATIENCE = 20.0


async def eventually(condition: Callable[[], Any]) -> None:
    """Wait until `condition` holds; raises TimeoutError when it never does."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 # conditions here are of any kind; few of them could set an event
            await asyncio.sleep(0.01)


def wire(name: str, policy: str = "p") -> bytes:
    """Return the bytes of a chain with one policy."""
    return xds_chain.encode({"route_key": name, "policies": [{"name": policy, "version": "v1"}]})


def packed(content: bytes) -> any_pb2.Any:
    """Return `content` as a resource of our type."""
    return any_pb2.Any(type_url=xds_chain.TYPE_URL, value=content)


def delta(nonce: str, *names: str, version: str = "1", policy: str = "p", removed: tuple[str, ...] = ()) -> Any:
    """Return a delta response with the chains `names`."""
    return discovery_pb2.DeltaDiscoveryResponse(
        type_url=xds_chain.TYPE_URL,
        nonce=nonce,
        system_version_info=version,
        resources=[
            discovery_pb2.Resource(name=name, version=version, resource=packed(wire(name, policy))) for name in names
        ],
        removed_resources=removed,
    )


def sotw(nonce: str, *names: str, version: str = "1", policy: str = "p") -> Any:
    """Return a state-of-the-world response with the chains `names`."""
    return discovery_pb2.DiscoveryResponse(
        type_url=xds_chain.TYPE_URL,
        nonce=nonce,
        version_info=version,
        resources=[packed(wire(name, policy)) for name in names],
    )


class Stream:
    """One stream as the scripted server sees it."""

    def __init__(self, requests: AsyncIterator[bytes], context: Any, request_class: Any) -> None:
        self._requests = requests
        self._context = context
        self._class = request_class

    async def read(self) -> Any:
        """Return the client's next request."""
        async with asyncio.timeout(PATIENCE):
            return self._class.FromString(await anext(self._requests))

    async def send(self, message: Any) -> None:
        """Send a message, or bytes that may be none."""
        await self._context.write(message if isinstance(message, bytes) else message.SerializeToString())

    async def exchange(self, message: Any) -> Any:
        """Send a message and return the client's answer."""
        await self.send(message)
        return await self.read()

    async def hold(self) -> None:
        """Stay open until the client goes."""
        async for _ in self._requests:
            pass


Script = Callable[[Stream, int], Awaitable[None]]


@contextlib.asynccontextmanager
async def management_server(
    script: Script, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[str]:
    """Serve both variants; `script` gets each stream and its number, and the stream ends when it returns."""
    count = 0

    def behaviour(request_class: Any) -> Any:
        async def run(requests: AsyncIterator[bytes], context: Any) -> None:
            nonlocal count
            count += 1
            await script(Stream(requests, context, request_class), count - 1)

        return grpc.stream_stream_rpc_method_handler(run)

    handlers = {
        SotwClient.method.rpartition("/")[2]: behaviour(discovery_pb2.DiscoveryRequest),
        DeltaClient.method.rpartition("/")[2]: behaviour(discovery_pb2.DeltaDiscoveryRequest),
    }
    service = SotwClient.method.split("/")[1]
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield address if address.startswith("unix:") else f"localhost:{port}"
    finally:
        await server.stop(None)


class Engine:
    """Stands for the supervisor: keeps what was applied; refuses policies named `unknown` and what is in `refuse`.

    `refuse` holds pairs of route and policy.
    """

    def __init__(self) -> None:
        self.applied: list[dict[str, str]] = []
        self.refuse: set[tuple[str, str]] = set()
        self.explode = False
        self.reports: list[LoadReport] = []

    async def apply(self, chains: ChainsSpec) -> None:
        """Record the configuration, or refuse it."""
        if self.explode:
            raise RuntimeError("cannot log in with hunter2")
        wanted = {route.route_key: route.policies[0].name for route in chains.routes}
        if self.refuse & wanted.items():
            raise RuntimeError("refused here")
        self.applied.append(wanted)

    @staticmethod
    def read_route(document: Any) -> RouteSpec:
        """Validate a chain about as much as the tests need."""
        for policy in document["policies"]:
            if policy["name"] == "unknown":
                raise ValueError("policy 'unknown' is not in this engine")
        secret: dict[str, Any] = {"parameters": {"keys": ["hunter2"]}, "secrets": frozenset({"/keys/0"})}
        policies = tuple(PolicySpec(policy["name"], policy["version"], **secret) for policy in document["policies"])
        return RouteSpec(document["route_key"], policies)


def settings_for(address: str, variant: Variant = Variant.DELTA, **more: Any) -> XdsConnection:
    """Return settings with short waits."""
    fast: dict[str, Any] = {"connect_timeout": 2.0, "backoff_first": 0.02, "backoff_longest": 0.1, "saved_after": 0.1}
    return XdsConnection((address,), "engine-1", variant=variant, **(fast | more))


@contextlib.asynccontextmanager
async def following(settings: XdsConnection, engine: Engine) -> AsyncIterator[XdsSource]:
    """Run a client; fail when a server could end it."""
    source = XdsSource(settings, engine.read_route, engine.apply, engine.reports.append)
    task = asyncio.create_task(source.run())
    try:
        yield source
        if task.done():
            raise AssertionError("no behaviour of a server may end the client")
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def unused_port() -> int:
    """Return a TCP port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
