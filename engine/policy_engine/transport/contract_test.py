"""What both transports promise, tested through a grpcio client that sends raw bytes as Envoy does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from policy_engine.transport.grpc_server import GrpcServer
from policy_engine.transport.health import EXT_PROC_SERVICE, Health
from policy_engine.transport.native.server import NativeServer
from policy_engine.transport.options import Limits, ServerOptions, TlsOptions
from testsupport.transport import Recorder, make_certificates, process_call, scripted, until

Server = NativeServer | GrpcServer


@pytest.fixture(params=[NativeServer, GrpcServer], ids=["native", "grpcio"])
def server_class(request: pytest.FixtureRequest) -> type[Server]:
    server_class: type[Server] = request.param
    return server_class


@contextlib.asynccontextmanager
async def serving(
    server_class: type[Server], recorder: Recorder, health: Health | None = None, **options: Any
) -> AsyncIterator[tuple[Server, grpc.aio.Channel]]:
    options.setdefault("bind", ("127.0.0.1:0",))
    server = server_class(recorder, ServerOptions(**options), health)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield server, channel
    finally:
        await server.close()
    await until(lambda: recorder.balanced)
    assert server.counters.streams_active == 0


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(limited())


async def exchange(channel: grpc.aio.Channel, *messages: bytes) -> list[bytes]:
    async def requests() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    return [reply async for reply in process_call(channel, request_iterator=requests())]


async def status_of(channel: grpc.aio.Channel, *messages: bytes, **options: Any) -> tuple[grpc.StatusCode, str]:
    call = process_call(channel, **options)
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        for message in messages:
            await call.write(message)
        async for _ in call:
            pass
    return await call.code(), await call.details()


def test_messages_are_answered_in_turn(server_class: type[Server]) -> None:
    async def test() -> None:
        recorder = Recorder(scripted)
        async with serving(server_class, recorder) as (server, channel):
            call = process_call(channel)
            for message in (b"request headers", b"response headers", b""):
                await call.write(message)
                assert await call.read() == message
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF  # type: ignore[attr-defined] # the stubs lack it
            assert await call.code() is grpc.StatusCode.OK
            assert recorder.messages == [b"request headers", b"response headers", b""]
            await until(lambda: server.counters.streams_active == 0)
            assert (server.counters.messages_in, server.counters.messages_out) == (3, 3)

    run(test)


def test_no_reply_and_several_replies(server_class: type[Server]) -> None:
    async def test() -> None:
        async with serving(server_class, Recorder(scripted)) as (_, channel):
            assert await exchange(channel, b"none", b"two", b"last") == [b"first", b"second", b"last"]

    run(test)


def test_a_coroutine_holds_back_the_next_message_of_its_stream_only(server_class: type[Server]) -> None:
    async def test() -> None:
        recorder = Recorder(scripted)
        async with serving(server_class, recorder) as (_, channel):
            slow = asyncio.create_task(exchange(channel, b"sleep:0.3", b"after"))
            await until(lambda: recorder.messages == [b"sleep:0.3"])
            assert await exchange(channel, b"other") == [b"other"]
            assert recorder.messages == [b"sleep:0.3", b"other"]
            assert await slow == [b"slept", b"after"]

    run(test)


def test_half_close_waits_for_the_answers(server_class: type[Server]) -> None:
    async def test() -> None:
        async with serving(server_class, Recorder(scripted)) as (_, channel):
            assert await exchange(channel, b"sleep:0.1", b"sleep:0.1") == [b"slept", b"slept"]

    run(test)


def test_stream_without_messages_ends_ok(server_class: type[Server]) -> None:
    async def test() -> None:
        async with serving(server_class, Recorder(scripted)) as (_, channel):
            assert await exchange(channel) == []

    run(test)


@pytest.mark.parametrize("text", ["no such route", "100 % naïve\nüber"])
@pytest.mark.parametrize("before", [(), (b"first",)])
def test_stream_error_becomes_status(server_class: type[Server], text: str, before: tuple[bytes, ...]) -> None:
    async def test() -> None:
        async with serving(server_class, Recorder(scripted)) as (_, channel):
            message = f"status:9:{text}".encode()
            assert await status_of(channel, *before, message) == (grpc.StatusCode.FAILED_PRECONDITION, text)

    run(test)


def test_handler_exception_is_internal_and_tells_nothing(server_class: type[Server]) -> None:
    async def test() -> None:
        async with serving(server_class, Recorder(scripted)) as (server, channel):
            assert await status_of(channel, b"raise") == (grpc.StatusCode.INTERNAL, "internal error")
            assert server.counters.handler_errors == 1
            assert await exchange(channel, b"still there") == [b"still there"]

    run(test)


def test_cancellation_by_the_client_cancels_the_coroutine(server_class: type[Server]) -> None:
    async def test() -> None:
        recorder = Recorder(scripted)
        async with serving(server_class, recorder) as (server, channel):
            call = process_call(channel)
            await call.write(b"sleep:30")
            await until(lambda: bool(recorder.messages))
            call.cancel()
            await until(lambda: recorder.balanced)
            assert recorder.cancelled == 1
            await until(lambda: server.counters.streams_active == 0)

    run(test)


def test_deadline_of_the_client(server_class: type[Server]) -> None:
    async def test() -> None:
        recorder = Recorder(scripted)
        async with serving(server_class, recorder) as (_, channel):
            status, _ = await status_of(channel, b"sleep:30", timeout=0.2)
            assert status is grpc.StatusCode.DEADLINE_EXCEEDED
            await until(lambda: recorder.cancelled == 1)

    run(test)


def test_unknown_methods_are_unimplemented(server_class: type[Server]) -> None:
    async def test() -> None:
        async with serving(server_class, Recorder(scripted)) as (_, channel):
            for method in ("/no.such.Service/Method", f"/{EXT_PROC_SERVICE}/NoSuchMethod"):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await channel.unary_unary(method, None, None)(b"")
                assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED

    run(test)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_nothing_is_told_by_reflection(server_class: type[Server], version: str) -> None:
    """docs/operator.md says what to do instead; a client that asks is told the standard way, and can go on."""

    async def test() -> None:
        async with serving(server_class, Recorder(scripted)) as (_, channel):
            path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            # In one piece, as grpc.aio calls it an internal error of its own when an answer overtakes its next message.
            ask = channel.unary_stream(path, request_serializer=None, response_deserializer=None)
            call = ask(b"\x3a\x00")  # list_services
            assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
            assert (await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())).status

    run(test)


def test_large_messages_both_ways(server_class: type[Server]) -> None:
    async def test() -> None:
        recorder = Recorder(scripted)
        limits = Limits()
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        server = server_class(recorder, ServerOptions(bind=("127.0.0.1:0",), limits=limits))
        await server.start()
        async with grpc.aio.insecure_channel(server.address, options=options) as channel:
            body = bytes(range(256)) * 4096 * 10
            replies = await exchange(channel, body, b"small", body)
            assert replies == [body, b"small", body]
            too_large = b"x" * (limits.max_message_bytes + 1)
            status, _ = await status_of(channel, too_large)
            assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
        await server.close()
        await until(lambda: recorder.balanced)

    run(test)


def test_gzip_messages(server_class: type[Server]) -> None:
    async def test() -> None:
        recorder = Recorder(scripted)
        async with serving(server_class, recorder, limits=Limits(max_message_bytes=100_000)) as (_, channel):
            call = process_call(channel, compression=grpc.Compression.Gzip)
            await call.write(b"a" * 50_000)
            assert await call.read() == b"a" * 50_000
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK
            status, _ = await status_of(channel, b"a" * 200_000, compression=grpc.Compression.Gzip)
            assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert recorder.messages == [b"a" * 50_000]

    run(test)


def test_many_streams_at_once(server_class: type[Server]) -> None:
    async def test() -> None:
        recorder = Recorder(scripted)
        async with serving(server_class, recorder) as (server, channel):
            results = await asyncio.gather(
                *(exchange(channel, b"sleep:0.05" if n % 3 else b"two", b"%d" % n) for n in range(500))
            )
            assert all(result[-1] == b"%d" % n for n, result in enumerate(results))
            await until(lambda: recorder.balanced)
            assert server.counters.streams_total == 500

    run(test)


def test_health_check_and_watch(server_class: type[Server]) -> None:
    async def test() -> None:
        health = Health()
        async with serving(server_class, Recorder(scripted), health) as (_, channel):
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", EXT_PROC_SERVICE):
                reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
                assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Check(health_pb2.HealthCheckRequest(service="nothing"))
            assert raised.value.code() is grpc.StatusCode.NOT_FOUND
            watch = stub.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            health.set_serving(True)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            health.set_serving(False)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
            unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nothing"))
            assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            unknown.cancel()

    run(test)


def test_drain_finishes_what_is_in_flight(server_class: type[Server]) -> None:
    async def test() -> None:
        recorder = Recorder(scripted)
        health = Health(serving=True)
        async with serving(server_class, recorder, health) as (server, channel):
            in_flight = asyncio.create_task(exchange(channel, b"sleep:0.5"))
            await until(lambda: bool(recorder.messages))
            drained = asyncio.create_task(server.drain(10))
            await asyncio.sleep(0.1)
            assert not health.serving
            assert await in_flight == [b"slept"]
            await asyncio.wait_for(drained, 5)

    run(test)


def test_drain_cuts_off_at_its_deadline(server_class: type[Server]) -> None:
    async def test() -> None:
        recorder = Recorder(scripted)
        async with serving(server_class, recorder) as (server, channel):
            call = process_call(channel)
            await call.write(b"sleep:30")
            await until(lambda: bool(recorder.messages))
            await asyncio.wait_for(server.drain(0.3), 10)
            assert await call.code() is not grpc.StatusCode.OK
            await until(lambda: recorder.balanced)
            assert recorder.cancelled == 1

    run(test)


def test_unix_socket(server_class: type[Server], tmp_path: Path) -> None:
    async def test() -> None:
        path = f"unix:{tmp_path}/engine.sock"
        async with serving(server_class, Recorder(scripted), bind=(path,)) as (server, channel):
            assert server.address == path
            assert await exchange(channel, b"hello") == [b"hello"]

    run(test)


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mtls"])
def test_tls(server_class: type[Server], tmp_path: Path, mutual: bool) -> None:
    async def test() -> None:
        files = make_certificates(tmp_path)
        tls = TlsOptions(files.server, files.server_key, files.ca if mutual else None)
        recorder = Recorder(scripted)
        server = server_class(recorder, ServerOptions(bind=("127.0.0.1:0",), tls=tls))
        await server.start()
        target = server.address.replace("127.0.0.1", "localhost")
        ca = files.ca.read_bytes()
        with_certificate = grpc.ssl_channel_credentials(ca, files.client_key.read_bytes(), files.client.read_bytes())
        async with grpc.aio.secure_channel(target, with_certificate) as channel:
            assert await exchange(channel, b"hello", b"x" * 1_000_000) == [b"hello", b"x" * 1_000_000]
        async with grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(ca)) as channel:
            status, _ = await status_of(channel, b"hello", timeout=3)
            # Without `mutual` the stream stays open until its deadline: nobody closes it.
            expected = grpc.StatusCode.UNAVAILABLE if mutual else grpc.StatusCode.DEADLINE_EXCEEDED
            assert status is expected
        async with grpc.aio.insecure_channel(server.address) as channel:
            status, _ = await status_of(channel, b"plain", timeout=3)
            assert status is not grpc.StatusCode.OK
        await server.close()
        await until(lambda: recorder.balanced)

    run(test)


def test_address_in_use_is_named(server_class: type[Server]) -> None:
    async def test() -> None:
        async with serving(server_class, Recorder(scripted)) as (server, _):
            second = server_class(Recorder(scripted), ServerOptions(bind=(server.address,)))
            with pytest.raises(OSError, match=server.address):
                await second.start()
            await second.close()

    run(test)
