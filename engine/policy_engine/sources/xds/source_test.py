"""The xDS client over real gRPC on loopback, against servers that behave and servers that do not."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from policy_engine.sources.xds.protocol import Variant
from policy_engine.worker.chains.spec import RouteSpec
from testsupport.xds_scripted_server import (
    PATIENCE,
    Engine,
    Script,
    Stream,
    delta,
    eventually,
    following,
    management_server,
    settings_for,
    sotw,
    unused_port,
    wire,
)


@pytest.mark.parametrize("variant", list(Variant))
def test_chains_are_applied_acknowledged_changed_and_removed(variant: Variant) -> None:
    make = sotw if variant is Variant.STATE_OF_THE_WORLD else delta
    answers: list[Any] = []

    async def script(stream: Stream, _: int) -> None:
        await stream.read()
        answers.append(await stream.exchange(make("n1", "a", "b", version="1")))
        if variant is Variant.DELTA:
            answers.append(await stream.exchange(delta("n2", "a", version="2", policy="q", removed=("b",))))
        else:
            answers.append(await stream.exchange(sotw("n2", "a", version="2", policy="q")))
        await stream.hold()

    async def run() -> None:
        engine = Engine()
        async with management_server(script) as address, following(settings_for(address, variant), engine) as source:
            await eventually(lambda: len(answers) == 2)
            assert engine.applied == [{"a": "p", "b": "p"}, {"a": "q"}]
            assert [answer.response_nonce for answer in answers] == ["n1", "n2"]
            assert not any(answer.HasField("error_detail") for answer in answers)
            status = source.status
            assert (status.connected, status.version, status.resources, status.acks) == (True, "2", 1, 2)
            json.dumps(status.as_document())

    asyncio.run(run())


def test_a_nack_tells_the_reason_and_the_rest_takes_effect() -> None:
    answers: list[Any] = []

    async def script(stream: Stream, _: int) -> None:
        await stream.read()
        answers.append(await stream.exchange(delta("n1", "a", "b", "c")))
        mixed = delta("n2", "a", "b", "c", version="2", policy="q")
        mixed.resources[0].resource.value = wire("a", "unknown")
        answers.append(await stream.exchange(mixed))
        await stream.hold()

    async def run() -> None:
        engine = Engine()
        engine.refuse = {("b", "q")}
        async with management_server(script) as address, following(settings_for(address), engine) as source:
            await eventually(lambda: len(answers) == 2)
            assert engine.applied[-1] == {"a": "p", "b": "p", "c": "q"}
            accepted, refused = engine.reports[-2:]
            assert accepted.chains is not None
            assert [route.policies[0].name for route in accepted.chains.routes] == ["p", "p", "q"]
            assert [found.file for found in refused.diagnostics] == ["xds:a", "xds:b"]
            message = answers[1].error_detail.message
            assert "policy 'unknown' is not in this engine" in message
            assert "b: could not be put into effect: RuntimeError: refused here" in message
            assert source.status.last_nack == message
            assert source.status.version == "1"

    asyncio.run(run())


def test_an_unforeseen_error_refuses_the_version_without_telling_secrets() -> None:
    answers: list[Any] = []

    async def script(stream: Stream, _: int) -> None:
        await stream.read()
        answers.append(await stream.exchange(delta("n1", "a")))
        await stream.hold()

    async def run() -> None:
        engine = Engine()
        engine.explode = True
        async with management_server(script) as address, following(settings_for(address), engine):
            await eventually(lambda: answers)
            assert "RuntimeError" in answers[0].error_detail.message
            assert "hunter2" not in answers[0].error_detail.message

    asyncio.run(run())


@pytest.mark.parametrize(
    "misdeed",
    [
        b"\xff\xff\xff not a message",
        delta("", "a"),
    ],
    ids=["bytes that are no message", "no nonce"],
)
def test_a_broken_server_is_left_and_tried_again_with_back_off(misdeed: Any) -> None:
    streams = 0

    async def script(stream: Stream, number: int) -> None:
        nonlocal streams
        streams += 1
        await stream.read()
        if number < 3:
            await stream.send(misdeed)
        else:
            await stream.exchange(delta("n1", "a"))
        await stream.hold()

    async def run() -> None:
        engine = Engine()
        async with management_server(script) as address, following(settings_for(address), engine) as source:
            await eventually(lambda: engine.applied)
            assert engine.applied == [{"a": "p"}]
            assert streams == 4
            assert source.status.disconnections == 3

    asyncio.run(run())


def test_a_fault_of_our_own_ends_the_stream_and_not_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(stream: Stream, _: int) -> None:
        await stream.read()
        await stream.exchange(delta("n1", "a"))
        await stream.hold()

    async def run() -> None:
        engine = Engine()
        async with management_server(script) as address, following(settings_for(address), engine) as source:
            faults = iter([ZeroDivisionError("ours"), RuntimeError("gRPC's")])
            answer = source._answer

            async def failing(call: Any, message: bytes) -> None:
                for fault in faults:
                    raise fault
                await answer(call, message)

            monkeypatch.setattr(source, "_answer", failing)
            await eventually(lambda: engine.applied)
            assert source.status.disconnections == 2
            assert "RuntimeError: gRPC's" in (source.status.last_error or "")

    asyncio.run(run())


def test_a_flapping_server_changes_nothing_and_is_told_what_the_client_has() -> None:
    firsts: list[dict[str, str]] = []

    async def script(stream: Stream, number: int) -> None:
        first = await stream.read()
        firsts.append(dict(first.initial_resource_versions))
        assert list(first.resource_names_subscribe) == ["*"]
        assert first.node.id == "engine-1"
        if number == 0:
            await stream.exchange(delta("n", "a", "b", version="7"))

    async def run() -> None:
        engine = Engine()
        async with management_server(script) as address, following(settings_for(address), engine) as source:
            await eventually(lambda: len(firsts) >= 5)
            assert firsts[0] == {}
            assert all(first == {"a": "7", "b": "7"} for first in firsts[1:])
            assert engine.applied == [{"a": "p", "b": "p"}]
            assert source.status.resources == 2

    asyncio.run(run())


def test_foreign_types_repeated_nonces_duplicates_and_halves_are_survived() -> None:
    answers: list[Any] = []

    async def script(stream: Stream, _: int) -> None:
        await stream.read()
        foreign = delta("n0", "x")
        foreign.type_url = "type.googleapis.com/other"
        await stream.send(foreign)
        answers.append(await stream.exchange(delta("n1", "a")))
        answers.append(await stream.exchange(delta("n1", "b")))
        answers.append(await stream.exchange(delta("n3", "c", "c")))
        half = delta("n4", "d")
        half.resources[0].resource.value = wire("d")[:-1]
        answers.append(await stream.exchange(half))
        await stream.hold()

    async def run() -> None:
        engine = Engine()
        async with management_server(script) as address, following(settings_for(address), engine) as source:
            await eventually(lambda: len(answers) == 4)
            assert [answer.response_nonce for answer in answers] == ["n1", "n1", "n3", "n4"]
            assert [answer.HasField("error_detail") for answer in answers] == [False, False, True, True]
            assert engine.applied[-1] == {"a": "p", "b": "p"}
            assert dict(source.status.oddities) == {"response_of_unsubscribed_type": 1, "nonce_used_twice": 1}

    asyncio.run(run())


def test_a_slow_server_is_waited_for() -> None:
    async def script(stream: Stream, _: int) -> None:
        await stream.read()
        await asyncio.sleep(1.0)
        await stream.exchange(delta("n1", "a"))
        await stream.hold()

    async def run() -> None:
        engine = Engine()
        async with management_server(script) as address, following(settings_for(address), engine) as source:
            await eventually(lambda: engine.applied)
            assert source.status.connections == 1

    asyncio.run(run())


def test_a_port_that_accepts_and_never_speaks_is_given_up() -> None:
    async def run() -> None:
        silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(PATIENCE), "127.0.0.1", 0)
        mute = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"

        async def script(stream: Stream, _: int) -> None:
            await stream.read()
            await stream.exchange(delta("n1", "a"))
            await stream.hold()

        engine = Engine()
        async with management_server(script) as address:
            settings = replace(settings_for(mute, connect_timeout=0.3), addresses=(mute, address))
            async with following(settings, engine) as source:
                await eventually(lambda: engine.applied)
                assert source.status.address == address
                assert "no connection within 0.3 s" in (source.status.last_error or "")
        silent.close()

    asyncio.run(run())


def test_the_last_known_good_survives_an_outage_and_the_client_comes_back() -> None:
    async def run() -> None:
        engine = Engine()
        port = unused_port()

        def serving(version: str, policy: str) -> Script:
            async def script(stream: Stream, _: int) -> None:
                await stream.read()
                await stream.exchange(delta("n1", "a", version=version, policy=policy))
                await stream.hold()

            return script

        async with following(settings_for(f"localhost:{port}"), engine) as source:
            async with management_server(serving("1", "p"), f"127.0.0.1:{port}"):
                await eventually(lambda: engine.applied == [{"a": "p"}])
            await eventually(lambda: not source.status.connected)
            await asyncio.sleep(0.3)
            assert source.status.resources == 1
            async with management_server(serving("2", "q"), f"127.0.0.1:{port}"):
                await eventually(lambda: engine.applied == [{"a": "p"}, {"a": "q"}])
                assert source.status.connected

    asyncio.run(run())


@pytest.mark.parametrize("variant", list(Variant))
def test_chains_that_did_not_change_are_not_validated_again(variant: Variant) -> None:
    make = sotw if variant is Variant.STATE_OF_THE_WORLD else delta
    read: list[str] = []

    class Counting(Engine):
        def read_route(self, document: Any) -> RouteSpec:  # type: ignore[override] # an instance's, not the class's
            read.append(document["route_key"])
            return super().read_route(document)

    async def script(stream: Stream, _: int) -> None:
        await stream.read()
        await stream.exchange(make("n1", "a", "b"))
        await stream.exchange(make("n2", "a", "b", "c", version="2"))
        await stream.hold()

    async def run() -> None:
        engine = Counting()
        async with management_server(script) as address, following(settings_for(address, variant), engine):
            await eventually(lambda: engine.applied[-1:] == [{"a": "p", "b": "p", "c": "p"}])
            assert read == ["a", "b", "c"]

    asyncio.run(run())
