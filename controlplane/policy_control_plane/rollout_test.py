"""The order in which a change reaches engines and Envoys, over real gRPC with scripted clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2

from policy_control_plane.ads_server import SERVICE, AdsServer
from policy_control_plane.fleet import Fleet
from policy_control_plane.resources import CHAIN, CLUSTER, LISTENER, ROUTES, SHORT_NAMES, Snapshot, by_name, resource
from policy_control_plane.rollout import Rollout, Stage, Waits

PATIENCE = 20.0


def snapshot(chains: dict[str, str], routes: str = "r", cluster: str = "c") -> Snapshot:
    content: dict[str, dict[str, str]] = {
        "chains": chains,
        "clusters": {cluster: cluster},
        "listeners": {"l": "l"},
        "routes": {"l": routes},
    }
    return {
        type_url: by_name(resource(name, text.encode()) for name, text in content.get(short, {}).items())
        for type_url, short in SHORT_NAMES.items()
    }


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 # conditions here are of any kind; few of them could set an event
            await asyncio.sleep(0.005)


class ScriptedClient:
    """A delta client that tells `log` what it is sent, and accepts it unless `refuse` says otherwise."""

    def __init__(self, name: str, channel: Any, log: list[str]) -> None:
        self.name = name
        self.log = log
        self.refuse: Callable[[str], bool] = lambda _: False
        self.silent = False
        self.held: dict[str, dict[str, str]] = {}
        self._call = channel.stream_stream(
            f"/{SERVICE}/DeltaAggregatedResources",
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )()

    async def follow(self, *subscriptions: tuple[str, list[str]], known: dict[str, str] | None = None) -> None:
        for type_url, names in subscriptions:
            await self._call.write(
                discovery_pb2.DeltaDiscoveryRequest(
                    node=base_pb2.Node(id=self.name),
                    type_url=type_url,
                    resource_names_subscribe=names,
                    initial_resource_versions=known or {},
                )
            )
        while (response := await self._call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined] # the stubs lack it
            await self._take(response)

    async def _take(self, response: Any) -> None:
        short = SHORT_NAMES[response.type_url]
        contents = {one.name: one.resource.value.decode() for one in response.resources}
        changes = [f"{name}={content}" for name, content in contents.items()]
        self.log.append(f"{self.name} {short} {' '.join(changes + [f'-{one}' for one in response.removed_resources])}")
        if self.silent:
            return
        answer = discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        if any(self.refuse(content) for content in contents.values()):
            answer.error_detail.CopyFrom(status_pb2.Status(code=3, message="cannot use this"))
        else:
            held = self.held.setdefault(short, {})
            held.update(contents)
            for name in response.removed_resources:
                held.pop(name, None)
        await self._call.write(answer)


class House:
    """A server with its roll-out and clients."""

    def __init__(self, waits: Waits) -> None:
        self.fleet = Fleet()
        self.rollout = Rollout(self.fleet, waits)
        self.server = AdsServer(self.fleet, "127.0.0.1:0")
        self.log: list[str] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._stack = contextlib.AsyncExitStack()

    async def client(self, name: str) -> ScriptedClient:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}", options=options)
        await self._stack.enter_async_context(channel)
        return ScriptedClient(name, channel, self.log)

    async def engine(self, name: str, known: dict[str, str] | None = None) -> ScriptedClient:
        client = await self.client(name)
        self.run(client.follow((CHAIN, ["*"]), known=known))
        await eventually(lambda: any(one.name == name for one in self.fleet))
        return client

    async def envoy(self, name: str) -> ScriptedClient:
        client = await self.client(name)
        self.run(client.follow((CLUSTER, ["*"]), (LISTENER, ["*"]), (ROUTES, ["l"])))
        await eventually(lambda: any(one.name == name for one in self.fleet))
        return client

    def run(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self._tasks.append(task)
        return task

    async def offer(self, new: Snapshot, stage: Stage = Stage.IN_USE) -> None:
        self.log.clear()
        before = self.rollout.progress
        self.rollout.offer(new)
        await eventually(lambda: self.rollout.progress is not before and self.rollout.progress.stage is stage)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()
        await self.server.stop()


@contextlib.asynccontextmanager
async def house(**waits: Any) -> AsyncIterator[House]:
    fast: dict[str, Any] = {"engines": 5.0, "envoys": 5.0, "after_start": 0.0, "before_removal": 0.1}
    made = House(Waits(**(fast | waits)))
    await made.server.start()
    made.run(made.rollout.run())
    try:
        yield made
    finally:
        await made.close()


def test_nothing_is_sent_before_there_is_a_configuration() -> None:
    async def run() -> None:
        async with house() as here:
            await here.engine("engine")
            await here.envoy("envoy")
            await asyncio.sleep(0.2)
            assert here.log == []

    asyncio.run(run())


def test_engines_first_then_envoys_then_what_is_gone_leaves_the_engines() -> None:
    async def run() -> None:
        async with house() as here:
            for name in ("engine-1", "engine-2"):
                await here.engine(name)
            await here.envoy("envoy")
            await here.offer(snapshot({"old": "1", "same": "1"}))
            await here.offer(snapshot({"new": "1", "same": "1"}, routes="to new"))
            await eventually(lambda: len(here.log) == 5)
            made, routed, broken = here.log[:2], here.log[2], here.log[3:]
            assert set(made) == {"engine-1 chains new=1", "engine-2 chains new=1"}
            assert routed == "envoy routes l=to new"
            assert set(broken) == {"engine-1 chains -old", "engine-2 chains -old"}

    asyncio.run(run())


def test_a_cluster_goes_a_while_after_the_routes_to_it() -> None:
    async def run() -> None:
        async with house(before_removal=0.5) as here:
            envoy = await here.envoy("envoy")
            await here.offer(snapshot({}, routes="to old", cluster="old"))
            await here.offer(snapshot({}, routes="to new", cluster="new"))
            assert here.log == ["envoy clusters new=new", "envoy routes l=to new"]
            assert set(envoy.held["clusters"]) == {"old", "new"}
            await eventually(lambda: here.log[-1] == "envoy clusters -old")

    asyncio.run(run())


def test_changes_that_never_stop_do_not_keep_what_is_gone_for_ever() -> None:
    async def run() -> None:
        async with house(before_removal=0.3) as here:
            engine = await here.engine("engine")
            await here.offer(snapshot({"old": "1", "a": "0"}))
            for number in range(1, 200):
                await here.offer(snapshot({"a": str(number)}))
                if "old" not in engine.held["chains"]:
                    break
                await asyncio.sleep(0.05)
            assert set(engine.held["chains"]) == {"a"}

    asyncio.run(run())


def test_what_comes_back_before_it_was_removed_stays() -> None:
    async def run() -> None:
        async with house(before_removal=0.3) as here:
            engine = await here.engine("engine")
            await here.offer(snapshot({"a": "1", "b": "1"}))
            await here.offer(snapshot({"a": "1"}))
            await here.offer(snapshot({"a": "1", "b": "2"}))
            await asyncio.sleep(0.6)
            assert engine.held["chains"] == {"a": "1", "b": "2"}

    asyncio.run(run())


def test_what_one_engine_refuses_reaches_no_envoy_and_is_taken_back_from_the_other() -> None:
    async def run() -> None:
        async with house() as here:
            engines = [await here.engine(name) for name in ("engine-1", "engine-2")]
            envoy = await here.envoy("envoy")
            await here.offer(snapshot({"a": "1"}))
            engines[1].refuse = lambda content: content == "bad"
            await here.offer(snapshot({"a": "bad", "b": "1"}, routes="changed"), Stage.REFUSED_BY_ENGINE)
            assert here.rollout.progress.refusals == ("engine-2: cannot use this",)
            await eventually(lambda: all(engine.held["chains"] == {"a": "1"} for engine in engines))
            assert envoy.held["routes"] == {"l": "r"}
            await here.offer(snapshot({"a": "2", "b": "1"}, routes="mended"))
            await eventually(lambda: all(engine.held["chains"] == {"a": "2", "b": "1"} for engine in engines))
            assert envoy.held["routes"] == {"l": "mended"}

    asyncio.run(run())


def test_a_silent_engine_is_waited_for_no_longer_than_promised() -> None:
    async def run() -> None:
        async with house(engines=0.3) as here:
            engine, envoy = await here.engine("engine"), await here.envoy("envoy")
            await here.offer(snapshot({"a": "1"}))
            engine.silent = True
            await here.offer(snapshot({"a": "2"}, routes="changed"))
            assert envoy.held["routes"] == {"l": "changed"}

    asyncio.run(run())


def test_engines_keep_a_chain_while_an_envoy_refuses_the_routes_without_it() -> None:
    async def run() -> None:
        async with house() as here:
            engine, envoy = await here.engine("engine"), await here.envoy("envoy")
            await here.offer(snapshot({"a": "1", "b": "1"}))
            envoy.refuse = lambda content: content == "bad"
            await here.offer(snapshot({"a": "1"}, routes="bad"), Stage.REFUSED_BY_ENVOY)
            assert engine.held["chains"] == {"a": "1", "b": "1"}
            await here.offer(snapshot({"a": "1"}, routes="good"))
            await eventually(lambda: engine.held["chains"] == {"a": "1"})

    asyncio.run(run())


def test_a_newer_snapshot_overtakes_one_that_waits() -> None:
    async def run() -> None:
        async with house(engines=PATIENCE) as here:
            engine, envoy = await here.engine("engine"), await here.envoy("envoy")
            await here.offer(snapshot({"a": "1"}))
            engine.silent = True
            await here.offer(snapshot({"a": "2"}, routes="two"), Stage.ENGINES)
            await eventually(lambda: "engine chains a=2" in here.log)
            engine.silent = False
            # The engine restarts, with the newest configuration on its way.
            here.rollout.offer(snapshot({"a": "3"}, routes="three"))
            here._tasks[1].cancel()
            engine = await here.engine("engine")
            await eventually(lambda: envoy.held["routes"] == {"l": "three"})
            assert engine.held["chains"] == {"a": "3"}

    asyncio.run(run())


def test_after_a_start_envoys_wait_for_the_engines_that_are_expected() -> None:
    async def run() -> None:
        async with house(expected_engines=2, engines=PATIENCE) as here:
            envoy = await here.envoy("envoy")
            await here.engine("engine-1")
            await here.offer(snapshot({"a": "1"}), Stage.ENGINES)
            await asyncio.sleep(0.2)
            assert envoy.held == {}
            await here.engine("engine-2")
            await eventually(lambda: envoy.held.get("routes") == {"l": "r"})

    asyncio.run(run())


def test_after_a_start_engines_keep_for_a_while_what_they_had() -> None:
    async def run() -> None:
        async with house(after_start=1.0) as here:
            await here.engine("engine", known={"old": "some version"})
            await here.offer(snapshot({"a": "1"}))
            await eventually(lambda: here.log)
            assert here.log == ["engine chains a=1"]
            await eventually(lambda: here.log[-1] == "engine chains -old")

    asyncio.run(run())


def test_an_engine_that_just_left_is_expected_back() -> None:
    async def run() -> None:
        async with house(engines=PATIENCE) as here:
            await here.engine("engine")
            envoy = await here.envoy("envoy")
            await here.offer(snapshot({"a": "1"}))
            here._tasks[1].cancel()
            await eventually(lambda: len(here.fleet) == 1)
            await here.offer(snapshot({"a": "2"}, routes="changed"), Stage.ENGINES)
            await asyncio.sleep(0.2)
            assert envoy.held["routes"] == {"l": "r"}
            await here.engine("engine")
            await eventually(lambda: envoy.held["routes"] == {"l": "changed"})

    asyncio.run(run())
