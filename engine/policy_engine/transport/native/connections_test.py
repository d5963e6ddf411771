"""Connections of a server: counted from their first byte, at most so many, timed, and idle ones give way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import h2.connection
import h2.events
import pytest
from hyperframe.frame import Frame, GoAwayFrame, SettingsFrame

from policy_engine.kernel.stream import Replies
from policy_engine.sdk.repeated_lines import RepeatedLines
from policy_engine.transport.health import EXT_PROC_SERVICE
from policy_engine.transport.native import protocol
from policy_engine.transport.native.frames import PREFACE
from policy_engine.transport.native.server import NativeServer
from policy_engine.transport.options import Limits, ServerOptions, TlsOptions
from testsupport.certificates import Authority

CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


class Waiting:
    """A handler that never answers."""

    def receive(self, message: bytes) -> Replies:
        return None

    def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def served(limits: Limits, tls: TlsOptions | None = None) -> AsyncIterator[NativeServer]:
    options = ServerOptions(bind=("127.0.0.1:0",), tls=tls, limits=limits)
    server = NativeServer(lambda peer: Waiting(), options)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


class Client:
    """An HTTP/2 client of the `h2` library."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.h2 = h2.connection.H2Connection()
        self.events: list[h2.events.Event] = []

    @classmethod
    async def connect(cls, server: NativeServer, context: ssl.SSLContext | None = None) -> Client:
        host, _, port = server.address.rpartition(":")
        client = cls(*await asyncio.open_connection(host, int(port), ssl=context))
        client.h2.initiate_connection()
        client.flush()
        await client.until(h2.events.SettingsAcknowledged)
        return client

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    async def until(self, kind: type[h2.events.Event]) -> h2.events.Event:
        async with asyncio.timeout(10):
            while True:
                for event in self.events:
                    if isinstance(event, kind):
                        self.events.remove(event)
                        return event
                data = await self.reader.read(65536)
                if not data:
                    raise ConnectionError
                self.events += self.h2.receive_data(data)
                self.flush()

    def call(self, path: str = f"/{EXT_PROC_SERVICE}/Process") -> int:
        stream: int = self.h2.get_next_available_stream_id()
        pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", path)]
        self.h2.send_headers(stream, [*pseudo, ("content-type", "application/grpc"), ("te", "trailers")])
        self.flush()
        return stream


async def until(holds: object, what: str) -> None:
    for _ in range(400):
        if holds():  # type: ignore[operator] # a function
            return
        await asyncio.sleep(0.025)
    raise AssertionError(what)


@pytest.fixture(autouse=True)
def _no_lines_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "repeated", RepeatedLines(logging.getLogger("policy_engine.transport")))


@pytest.fixture
def tls(tmp_path: Path) -> TlsOptions:
    authority = Authority()
    return TlsOptions(*authority.issue(tmp_path, "server"))


def test_the_oldest_that_never_began_gives_way_to_a_new_one() -> None:
    async def test() -> None:
        async with served(Limits(max_connections=3)) as server:
            busy = await Client.connect(server)
            busy.call()
            host, _, port = server.address.rpartition(":")
            silent = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
            later = await Client.connect(server)
            later.call()
            await until(lambda: server.counters.streams_active == 2, "both served")
            assert server.counters.connections_active <= 3
            assert server.counters.connections_refused["made_place"] >= 18
            for _, writer in silent:
                writer.close()

    asyncio.run(test())


def test_an_idle_one_gives_way_and_is_told() -> None:
    async def test() -> None:
        async with served(Limits(max_connections=2)) as server:
            idle = await Client.connect(server)
            busy = await Client.connect(server)
            busy.call()
            await until(lambda: server.counters.streams_active == 1, "served")
            await Client.connect(server)
            ended = await idle.until(h2.events.ConnectionTerminated)
            assert isinstance(ended, h2.events.ConnectionTerminated)
            assert ended.error_code == 0
            assert server.counters.connections_refused == {"made_place": 1}

    asyncio.run(test())


def test_where_all_have_requests_a_new_one_is_refused_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with served(Limits(max_connections=2)) as server:
            busy = [await Client.connect(server) for _ in range(2)]
            for client in busy:
                client.call()
            await until(lambda: server.counters.streams_active == 2, "served")
            for _ in range(50):
                with pytest.raises(OSError):  # noqa: PT011 # closed, reset: as it comes
                    await Client.connect(server)
            assert server.counters.connections_refused == {"limit": 50}
            assert (server.counters.connections_active, server.counters.streams_active) == (2, 2)

    with caplog.at_level(logging.WARNING):
        asyncio.run(test())
    lines = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert 1 <= len(lines) <= 20
    assert "limits.connections" in lines[0]


def test_a_flood_of_half_hellos_is_counted_bounded_and_given_back(tls: TlsOptions) -> None:
    async def test() -> None:
        async with served(Limits(max_connections=64, handshake_seconds=1.5), tls) as server:
            host, _, port = server.address.rpartition(":")
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            opened = []
            for _ in range(400):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(CLIENT_HELLO)
                opened.append(writer)
                assert server.counters.connections_active <= 65
            await until(lambda: server.counters.connections_total == 400, "accepted")
            assert server.counters.connections_refused["made_place"] >= 300
            # A client that means it is served in the middle of it.
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            client = await Client.connect(server, context)
            client.call()
            await until(lambda: server.counters.streams_active == 1, "served")
            await until(lambda: server.counters.connections_active == 1, "given back")
            assert server.counters.connections_refused["handshake"] > 0
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert grown < 60_000, f"{grown} KB"
            for writer in opened:
                writer.close()

    asyncio.run(test())


def test_streams_are_counted_over_all_connections_and_health_is_always_told() -> None:
    async def test() -> None:
        async with served(Limits(max_concurrent_streams=10)) as server:
            clients = [await Client.connect(server) for _ in range(3)]
            for client in clients:
                for _ in range(6):
                    client.call()
            await until(lambda: server.counters.resets_sent == 8, "refused")
            assert server.counters.streams_active == 10
            assert server.counters.protocol_errors == {"REFUSED_STREAM": 8}
            checking = await Client.connect(server)
            checking.call("/grpc.health.v1.Health/Check")
            checking.h2.send_data(1, b"\0\0\0\0\0", end_stream=True)
            checking.flush()
            await checking.until(h2.events.StreamEnded)

    asyncio.run(test())


@pytest.mark.parametrize("offered", [None, ["http/1.1"]])
def test_a_client_without_h2_is_named_in_the_log_and_counted(
    tls: TlsOptions, offered: list[str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with served(Limits(), tls) as server:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if offered:
                context.set_alpn_protocols(offered)
            for _ in range(30):
                with pytest.raises(OSError):  # noqa: PT011
                    await Client.connect(server, context)
            assert server.counters.connections_refused in ({"alpn": 30}, {"tls": 30})

    with caplog.at_level(logging.WARNING):
        asyncio.run(test())
    lines = [record.getMessage() for record in caplog.records if record.name == "policy_engine.transport"]
    assert 1 <= len(lines) <= 20
    assert "127.0.0.1" in lines[0]


def test_what_is_no_tls_is_refused(tls: TlsOptions) -> None:
    async def test() -> None:
        async with served(Limits(), tls) as server:
            host, _, port = server.address.rpartition(":")
            for sent in (b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\xff\xff" * 3):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(sent)
                async with asyncio.timeout(10):
                    await reader.read()
                writer.close()
            await until(lambda: server.counters.connections_active == 0, "closed")
            assert server.counters.connections_refused == {"tls": 3}

    asyncio.run(test())


@pytest.mark.parametrize("over_tls", [False, True])
def test_a_client_that_is_let_in_as_the_drain_begins_is_told_and_not_cut_off(
    over_tls: bool, tls: TlsOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_DRAIN_PING_SECONDS", 0.2)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])

    async def test(turns: int) -> None:
        async with served(Limits(), tls if over_tls else None) as server:
            host, _, port = server.address.rpartition(":")
            connecting = asyncio.create_task(
                asyncio.open_connection(host, int(port), ssl=context if over_tls else None)
            )
            while not server._acceptors[0]._beginning:  # noqa: ASYNC110 - each turn of the loop is looked at
                await asyncio.sleep(0)
            for _ in range(turns):
                await asyncio.sleep(0)
            draining = asyncio.create_task(server.drain(10))
            reader, writer = await connecting
            writer.write(PREFACE + SettingsFrame(0).serialize())
            async with asyncio.timeout(10):
                assert goaways(await reader.read()) == [(2**31 - 1, 0), (0, 0)]
                writer.close()
                await draining

    for turns in range(6):
        asyncio.run(test(turns))


def goaways(data: bytes) -> list[tuple[int, int]]:
    """The last stream and the error code of each GOAWAY among these frames."""
    found = []
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        data = data[9 + length :]
        if isinstance(frame, GoAwayFrame):
            found.append((frame.last_stream_id, frame.error_code))
    return found


def test_a_client_that_never_begins_holds_up_no_drain(tls: TlsOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_DRAIN_PING_SECONDS", 0.1)

    async def test() -> None:
        async with served(Limits(handshake_seconds=60), tls) as server:
            host, _, port = server.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            await until(lambda: server.counters.connections_active == 1, "accepted")
            async with asyncio.timeout(10):
                await server.drain(60)
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()

    asyncio.run(test())
