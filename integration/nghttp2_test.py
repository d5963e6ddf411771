"""The native transport with `h2load` and `nghttp` of nghttp2: 100 MB of bodies in 10,000 streams, bounded memory.

Needs nghttp2-client on the machine, so that it is run by name: `bazelw test //integration:nghttp2_test`.
"""

from __future__ import annotations

import asyncio
import re
import resource
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from policy_engine.kernel.stream import Peer, Replies
from policy_engine.limits import MIB
from policy_engine.transport.native.flow_control import TIGHT_WINDOW
from policy_engine.transport.native.server import NativeServer
from policy_engine.transport.options import Limits, ServerOptions, TlsOptions
from testsupport.http2_peer import grpc_message
from testsupport.transport import PROCESS, Recorder, make_certificates, scripted


class Sizes:
    """A handler factory that keeps nothing but the sizes it saw."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}
        self.open = 0

    def __call__(self, peer: Peer) -> Sizes:
        self.open += 1
        return self

    def receive(self, message: bytes) -> Replies:
        self.seen[len(message)] = self.seen.get(len(message), 0) + 1
        return b"seen"

    def close(self) -> None:
        self.open -= 1


async def run_tool(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def h2load(server: NativeServer, body: Path, *arguments: str, scheme: str = "http") -> tuple[int, int]:
    """Return the numbers of succeeded and of all requests."""
    url = f"{scheme}://{server.address}{PROCESS}"
    output = await run_tool("h2load", "-d", str(body), "-H", "content-type: application/grpc", *arguments, url)
    match = re.search(r"requests: (\d+) total, .* (\d+) succeeded, 0 failed, 0 errored, 0 timeout", output)
    assert match, output
    return int(match[2]), int(match[1])


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(300):
            await test()

    asyncio.run(limited())


@pytest.mark.parametrize(
    ("requests", "size", "connections", "concurrency"),
    [(10_000, 10_000, 1, 10_000), (1_000, 100_000, 4, 250), (40, 5 * MIB // 2, 1, 40), (10_000, 100_000, 2, 5_000)],
    ids=["10,000 of 10 KB at once", "100 KB on 4 connections", "2.5 MB at once", "10,000 of 100 KB at once"],
)
def test_bodies(tmp_path: Path, requests: int, size: int, connections: int, concurrency: int) -> None:
    async def test() -> None:
        body = tmp_path / "body"
        body.write_bytes(grpc_message(b"x" * size))
        sizes = Sizes()
        limits = Limits(receive_buffer_bytes=64 * MIB)
        server = NativeServer(sizes, ServerOptions(bind=("127.0.0.1:0",), limits=limits))
        await server.start()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answered = await h2load(server, body, "-n", str(requests), "-c", str(connections), "-m", str(concurrency))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"{requests} x {size}: process grew by {grown:.0f} MiB")
        await server.close()
        assert answered == (requests, requests)
        assert sizes.seen == {size: requests}
        assert sizes.open == server.counters.streams_active == 0
        assert not server.counters.protocol_errors
        windows = connections * limits.connection_window_bytes + requests * TIGHT_WINDOW
        assert grown * MIB < 2 * (limits.receive_buffer_bytes + windows)

    run(test)


def test_tls(tmp_path: Path) -> None:
    async def test() -> None:
        files = make_certificates(tmp_path)
        body = tmp_path / "body"
        body.write_bytes(grpc_message(b"x" * 1000))
        options = ServerOptions(bind=("127.0.0.1:0",), tls=TlsOptions(files.server, files.server_key))
        server = NativeServer(Recorder(scripted), options)
        await server.start()
        assert await h2load(server, body, "-n", "2000", "-c", "10", "-m", "100", scheme="https") == (2000, 2000)
        await server.close()

    run(test)


def test_nghttp(tmp_path: Path) -> None:
    async def test() -> None:
        body = tmp_path / "body"
        body.write_bytes(grpc_message(b"hello"))
        server = NativeServer(Recorder(scripted), ServerOptions(bind=("127.0.0.1:0",)))
        await server.start()
        url = f"http://{server.address}{PROCESS}"
        output = await run_tool(
            "nghttp", "-nv", "-b", "100", "-w", "16", "-d", str(body), "-H", "content-type: application/grpc", url
        )
        assert "grpc-status: 0" in output
        output = await run_tool("nghttp", "-nv", url)
        assert ":status: 405" in output
        await server.close()

    run(test)
