"""The server around the connections: sockets, limits, time limits, back pressure, the end of tasks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
import uvloop
from hyperframe.frame import HeadersFrame, RstStreamFrame, SettingsFrame

from policy_engine.kernel.stream import Replies
from policy_engine.transport import listen
from policy_engine.transport.native import accepting
from policy_engine.transport.native.frames import PREFACE
from policy_engine.transport.native.server import NativeServer
from policy_engine.transport.options import Limits, ServerOptions
from testsupport import http2_peer as raw
from testsupport.transport import Recorder, process_call, scripted, until


@contextlib.asynccontextmanager
async def serving(
    recorder: Recorder, sockets: tuple[socket.socket, ...] = (), **options: Any
) -> AsyncIterator[NativeServer]:
    options.setdefault("bind", ("127.0.0.1:0",))
    server = NativeServer(recorder, ServerOptions(**options), sockets=sockets)
    await server.start()
    try:
        yield server
    finally:
        await server.close()
    await until(lambda: recorder.balanced)
    assert server.counters.streams_active == server.counters.connections_active == 0


def run(test: Callable[[], Awaitable[None]], factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await test()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(limited())


def test_without_file_descriptors_it_says_so_once_and_goes_on_when_there_are_some(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "PAUSE_SECONDS", 0.1)
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        async with serving(Recorder()) as server:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            host, port = server.address.rsplit(":", 1)
            clients = [socket.socket() for _ in range(20)]
            used = max(one.fileno() for one in clients)
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 6, hard))
            try:
                for one in clients:
                    one.setblocking(False)
                    await asyncio.get_running_loop().sock_connect(one, (host, int(port)))
                await asyncio.sleep(0.5)
                assert 0 < server.counters.connections_active < len(clients)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await until(lambda: server.counters.connections_active == len(clients))
            for one in clients:
                one.close()
            assert await hello(server.address)

    run(scenario)
    told = [one.getMessage() for one in caplog.records if "accept" in one.getMessage()]
    assert len(told) == 1, told
    assert "Too many open files" in told[0]
    assert "LimitNOFILE" in told[0]


async def connect(server: NativeServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = server.address.rsplit(":", 1)
    return await asyncio.open_connection(host, int(port))


async def hello(address: str) -> list[bytes]:
    async def requests() -> AsyncIterator[bytes]:
        yield b"hello"

    async with grpc.aio.insecure_channel(address) as channel:
        return [reply async for reply in process_call(channel, request_iterator=requests())]


HELLO = (
    PREFACE
    + SettingsFrame(0).serialize()
    + SettingsFrame(0, flags=["ACK"]).serialize()
    + HeadersFrame(1, b"\x20" + raw.block(raw.REQUEST), flags=["END_HEADERS"]).serialize()
)


@pytest.mark.parametrize("factory", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_several_addresses_at_once(tmp_path: Path, factory: Any) -> None:
    async def test() -> None:
        bind = ("127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/one.sock")
        async with serving(Recorder(), bind=bind) as server:
            assert len(server.addresses) == 3
            for address in server.addresses:
                assert await hello(address) == [b"hello"]
        assert not (tmp_path / "one.sock").exists()

    run(test, factory)


def test_passed_on_sockets_are_served_and_their_files_stay(tmp_path: Path) -> None:
    async def test() -> None:
        path = tmp_path / "shared.sock"
        sockets = (listen.bind("127.0.0.1:0"), listen.bind(f"unix:{path}"))
        async with serving(Recorder(), sockets) as server:
            assert server.addresses[1] == f"unix:{path}"
            for address in server.addresses:
                assert await hello(address) == [b"hello"]
        assert path.exists()

    run(test)


def test_two_servers_share_a_port() -> None:
    async def test() -> None:
        async with (
            serving(Recorder(), reuse_port=True) as first,
            serving(Recorder(), bind=(first.address,), reuse_port=True) as second,
        ):
            assert second.address == first.address
            for _ in range(20):
                _, writer = await connect(first)
                writer.close()
            await until(lambda: first.counters.connections_total + second.counters.connections_total == 20)
            assert first.counters.connections_total > 0 < second.counters.connections_total

    run(test)


def test_failure_of_one_address_frees_the_others(tmp_path: Path) -> None:
    async def test() -> None:
        good = f"unix:{tmp_path}/good.sock"
        server = NativeServer(Recorder(), ServerOptions(bind=(good, "unix:/no/such/directory/x.sock")))
        with pytest.raises(OSError, match="/no/such/directory"):
            await server.start()
        assert not (tmp_path / "good.sock").exists()
        await server.close()

    run(test)


@pytest.mark.parametrize("sent", [b"", PREFACE[:10], PREFACE + SettingsFrame(0).serialize()])
def test_slow_handshakes_are_ended(sent: bytes) -> None:
    async def test() -> None:
        async with serving(Recorder(), limits=Limits(handshake_seconds=0.2)) as server:
            reader, writer = await connect(server)
            writer.write(sent)
            frames = raw.parse_frames(await asyncio.wait_for(reader.read(), 5))
            assert raw.goaway_code(frames) == 4
            writer.close()

    run(test)


def test_goaway_reaches_a_client_that_still_sends() -> None:
    async def test() -> None:
        async with serving(Recorder()) as server:
            reader, writer = await connect(server)
            writer.write(b"GET / HTTP/1.1\r\n" + b"x" * 100_000)
            frames = raw.parse_frames(await asyncio.wait_for(reader.read(), 5))
            assert raw.goaway_code(frames) == 1
            writer.close()

    run(test)


def test_lost_connection_cancels_coroutines() -> None:
    async def test() -> None:
        recorder = Recorder(scripted)
        async with serving(recorder) as server:
            _, writer = await connect(server)
            writer.write(HELLO + raw.data_frame(1, raw.grpc_message(b"sleep:30")).serialize())
            await until(lambda: bool(recorder.messages))
            writer.transport.abort()
            await until(lambda: recorder.balanced)
            assert recorder.cancelled == 1
            await until(lambda: server.counters.connections_active == 0)

    run(test)


def test_coroutine_that_resists_cancellation_is_closed_late_and_counts_as_a_stream() -> None:
    async def test() -> None:
        release = asyncio.Event()

        async def stubborn() -> Replies:
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()
            return b"too late"

        recorder = Recorder(lambda message: stubborn())
        async with serving(recorder, limits=Limits(max_concurrent_streams=1)) as server:
            reader, writer = await connect(server)
            writer.write(HELLO + raw.data_frame(1, raw.grpc_message(b"x")).serialize())
            await until(lambda: recorder.opened == 1 and bool(recorder.messages))
            writer.write(RstStreamFrame(1).serialize())
            await until(lambda: server.counters.streams_active == 0)
            assert recorder.closed == 0
            block = raw.block(raw.REQUEST)
            writer.write(HeadersFrame(3, block, flags=["END_HEADERS"]).serialize())
            await until(lambda: server.counters.resets_sent == 1)
            release.set()
            await until(lambda: recorder.closed == 1)
            writer.write(HeadersFrame(5, block, flags=["END_HEADERS"]).serialize())
            await until(lambda: recorder.opened == 2)
            frames = raw.parse_frames(await reader.read(65_536))
            assert raw.reset_code(frames, 3) == 7
            writer.close()

    run(test)


def test_coroutine_that_need_not_wait_is_answered_in_the_same_write() -> None:
    async def test() -> None:
        async def at_once() -> Replies:
            return b"done"

        recorder = Recorder(lambda message: at_once())
        async with serving(recorder) as server:
            assert await hello(server.address) == [b"done"]

    run(test)


def test_client_that_does_not_read_stops_being_read() -> None:
    """Back pressure through the socket: replies do not pile up, and go on when the client reads again."""

    async def test() -> None:
        recorder = Recorder(scripted)
        async with serving(recorder) as server:
            reader, writer = await connect(server)
            open_windows = raw.window_update(0, 2**31 - 1 - 65_535).serialize()
            settings = SettingsFrame(0, settings={4: 2**31 - 1}).serialize()
            writer.write(HELLO + settings + open_windows)
            message = raw.data_frame(1, raw.grpc_message(b"big:200000")).serialize()
            cast(asyncio.Transport, writer.transport).pause_reading()
            for _ in range(300):
                writer.write(message)
                await asyncio.sleep(0.001)
            handled = len(recorder.messages)
            assert handled < 300
            cast(asyncio.Transport, writer.transport).resume_reading()
            received = 0
            while received < 300 * 200_000:
                received += len(await reader.read(1 << 20))
            assert len(recorder.messages) == 300
            writer.close()

    run(test)


def test_replies_in_turn_with_window_updates_from_a_slow_reader() -> None:
    async def test() -> None:
        recorder = Recorder(scripted)
        async with serving(recorder) as server:
            reader, writer = await connect(server)
            writer.write(HELLO + raw.data_frame(1, raw.grpc_message(b"big:1000000"), end=True).serialize())
            data, received = b"", 0
            while b"grpc-status" not in data:
                chunk = await reader.read(65_536)
                assert chunk
                data += chunk
                received += len(chunk)
                writer.write(
                    raw.window_update(0, len(chunk)).serialize() + raw.window_update(1, len(chunk)).serialize()
                )
            assert raw.payload_of(raw.parse_frames(data), 1) == raw.grpc_message(b"b" * 1_000_000)
            writer.close()

    run(test)


def test_counters_before_start_and_close_before_start() -> None:
    async def test() -> None:
        server = NativeServer(Recorder())
        await server.close()
        with pytest.raises(RuntimeError):
            _ = server.counters

    run(test)
