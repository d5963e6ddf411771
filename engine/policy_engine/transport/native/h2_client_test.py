"""The `h2` library as an independent client over real sockets; it raises on everything the server does wrong."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from policy_engine.limits import KIB, MIB
from policy_engine.transport.native.server import NativeServer
from policy_engine.transport.options import Limits, ServerOptions, TlsOptions
from testsupport.http2_peer import REQUEST, grpc_message
from testsupport.transport import Recorder, make_certificates, scripted, until


class H2Client:
    """Runs an `h2` connection; `pump` sends and receives until a condition holds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, window: int) -> None:
        self._reader, self._writer = reader, writer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.bodies: dict[int, bytes] = {}
        self.trailers: dict[int, dict[str, str]] = {}
        self.resets: dict[int, int] = {}
        self.uploads: dict[int, bytes] = {}

    def request(self, body: bytes = b"") -> int:
        """Start a stream that sends this and half-closes."""
        stream_id = int(self.h2.get_next_available_stream_id())
        self.h2.send_headers(stream_id, list(REQUEST))
        self.bodies[stream_id] = b""
        self.uploads[stream_id] = body
        return stream_id

    async def pump(self, done: Callable[[], bool], seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            while not done():
                while self._upload():
                    pass
                self._writer.write(self.h2.data_to_send())
                await self._writer.drain()
                with contextlib.suppress(TimeoutError):
                    data = await asyncio.wait_for(self._reader.read(65_536), 0.5)
                    if not data:
                        break
                    for event in self.h2.receive_data(data):
                        self._handle(event)
        self._writer.write(self.h2.data_to_send())

    def _upload(self) -> bool:
        """Send one frame of each stream; False when the windows allow nothing more."""
        sent = False
        for stream_id, body in tuple(self.uploads.items()):
            size = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size, len(body))
            if size > 0 or not body:
                sent = True
                self.uploads[stream_id] = body[size:]
                self.h2.send_data(stream_id, body[:size], end_stream=size == len(body))
                if size == len(body):
                    del self.uploads[stream_id]
        return sent

    def _handle(self, event: Any) -> None:
        match event:
            case h2.events.DataReceived():
                self.bodies[event.stream_id] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                self.trailers.setdefault(event.stream_id, {}).update(
                    (str(name), str(value)) for name, value in event.headers
                )
            case h2.events.StreamReset():
                self.resets[event.stream_id] = event.error_code
                self.uploads.pop(event.stream_id, None)

    def finished(self, stream_id: int) -> bool:
        return self.status(stream_id) is not None

    def status(self, stream_id: int) -> str | None:
        return self.trailers.get(stream_id, {}).get("grpc-status")


@contextlib.asynccontextmanager
async def connected(
    limits: Limits | None = None,
    tls: TlsOptions | None = None,
    client: ssl.SSLContext | None = None,
    window: int = 65_535,
) -> AsyncIterator[tuple[NativeServer, H2Client, Recorder]]:
    recorder = Recorder(scripted)
    server = NativeServer(recorder, ServerOptions(bind=("127.0.0.1:0",), limits=limits or Limits(), tls=tls))
    await server.start()
    host, port = server.address.split(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port), ssl=client)
        yield server, H2Client(reader, writer, window), recorder
        writer.close()
    finally:
        await server.close()
    await until(lambda: recorder.balanced)
    assert server.counters.streams_active == server.counters.connections_active == 0
    assert not server.counters.protocol_errors


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(limited())


def test_one_stream_after_the_other() -> None:
    async def test() -> None:
        async with connected() as (server, client, _):
            for body in (b"one", b"", b"x" * 50_000):
                stream = client.request(grpc_message(body))
                await client.pump(functools.partial(client.finished, stream))
                assert client.status(stream) == "0"
                assert client.bodies[stream] == grpc_message(body)
            assert server.counters.streams_total == 3

    run(test)


@pytest.mark.parametrize("window", [1000, 65_535, 1_000_000])
def test_bodies_in_many_streams_with_small_windows_both_ways(window: int) -> None:
    async def test() -> None:
        limits = Limits(
            stream_window_bytes=64 * KIB,
            connection_window_bytes=256 * KIB,
            max_message_bytes=MIB,
            receive_buffer_bytes=4 * MIB,
        )
        async with connected(limits, window=window) as (_, client, _recorder):
            bodies = {client.request(grpc_message(b"%03d" % n * 40_000)): b"%03d" % n * 40_000 for n in range(60)}
            await client.pump(lambda: all(client.status(stream) is not None for stream in bodies))
            assert all(client.bodies[stream] == grpc_message(body) for stream, body in bodies.items())

    run(test)


def test_coroutines_and_early_status_among_many_streams() -> None:
    async def test() -> None:
        async with connected() as (_, client, recorder):
            slow = [client.request(grpc_message(b"sleep:0.2")) for _ in range(50)]
            refused = [client.request(grpc_message(b"status:7:no") + grpc_message(b"z" * 100_000)) for _ in range(20)]
            await client.pump(lambda: all(client.status(stream) for stream in (*slow, *refused)))
            assert {client.bodies[stream] for stream in slow} == {grpc_message(b"slept")}
            assert {client.status(stream) for stream in refused} == {"7"}
            assert recorder.messages.count(b"sleep:0.2") == 50

    run(test)


def tls_files(tmp_path: Path, *, mutual: bool) -> tuple[TlsOptions, ssl.SSLContext]:
    files = make_certificates(tmp_path)
    client = ssl.create_default_context(cafile=str(files.ca))
    client.check_hostname = False
    if mutual:
        client.load_cert_chain(files.client, files.client_key)
    return TlsOptions(files.server, files.server_key, files.ca if mutual else None), client


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_with_alpn(tmp_path: Path, mutual: bool) -> None:
    async def test() -> None:
        tls, context = tls_files(tmp_path, mutual=mutual)
        context.set_alpn_protocols(["h2"])
        async with connected(tls=tls, client=context) as (_, client, _recorder):
            stream = client.request(grpc_message(b"x" * 200_000))
            await client.pump(lambda: client.status(stream) is not None)
            assert client.bodies[stream] == grpc_message(b"x" * 200_000)

    run(test)


@pytest.mark.parametrize("protocols", [[], ["http/1.1"]])
def test_tls_without_h2_is_refused(tmp_path: Path, protocols: list[str]) -> None:
    async def test() -> None:
        tls, context = tls_files(tmp_path, mutual=False)
        if protocols:
            context.set_alpn_protocols(protocols)
        server = NativeServer(Recorder(), ServerOptions(bind=("127.0.0.1:0",), tls=tls))
        await server.start()
        host, port = server.address.split(":")
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            assert await reader.read(100) == b""
            writer.close()
        await server.close()
        assert server.counters.streams_total == 0

    run(test)


def test_tls_refuses_old_versions(tmp_path: Path) -> None:
    async def test() -> None:
        tls, context = tls_files(tmp_path, mutual=False)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AES128-SHA256:@SECLEVEL=0")
        server = NativeServer(Recorder(), ServerOptions(bind=("127.0.0.1:0",), tls=tls))
        await server.start()
        host, port = server.address.split(":")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(host, int(port), ssl=context)
        await server.close()

    run(test)


def test_certificate_is_read_again(tmp_path: Path) -> None:
    async def test() -> None:
        tls, context = tls_files(tmp_path, mutual=False)
        context.set_alpn_protocols(["h2"])
        server = NativeServer(Recorder(), ServerOptions(bind=("127.0.0.1:0",), tls=tls))
        await server.start()
        host, port = server.address.split(":")

        async def serial(client: ssl.SSLContext) -> str:
            _, writer = await asyncio.open_connection(host, int(port), ssl=client)
            certificate = writer.get_extra_info("peercert")
            writer.close()
            return str(certificate["serialNumber"])

        before = await serial(context)
        old = tls.certificate_file.read_bytes()
        tls.certificate_file.write_text("broken")
        with pytest.raises(ValueError, match=r"server\.pem"):
            server.reload_tls()
        tls.certificate_file.write_bytes(old)
        assert await serial(context) == before
        _, renewed = tls_files(tmp_path, mutual=False)
        renewed.set_alpn_protocols(["h2"])
        server.reload_tls()
        assert await serial(renewed) != before
        await server.close()

    run(test)
