"""Redis that moves, is demoted, or has dead addresses: the link finds the one that serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from policy_jwt.testing import dropping, resolving
from policy_redis import RedisLink, StoreUnavailable, redis_from
from policy_redis.testing import free_port, redis_server, sentinel

pytestmark = pytest.mark.asyncio
NAME = "redis.example.test"


async def put(link: RedisLink, value: str = "1") -> bool:
    return bool(await link.ask(lambda: link.client.set("a", value)))


async def command(client: Redis, *words: str) -> Any:
    return await client.execute_command(*words)  # type: ignore[no-untyped-call] # redis-py's own gap


@asynccontextmanager
async def scripted(*replies: bytes) -> AsyncIterator[tuple[int, list[int]]]:
    """Serve RESP on a port: each connection answers SET with the next of `replies`; counts the connections."""
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(connections)
        connections.append(0)
        while line := await reader.readline():
            count = int(line[1:])
            words = []
            for _ in range(count):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            if words[0].upper() == b"SET":
                connections[number] += 1
                writer.write(replies[min(number, len(replies) - 1)])
            else:
                writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n" if words[0].upper() == b"HELLO" else b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], connections
    finally:
        server.close()


CANNOT = [
    "READONLY You can't write against a read only replica.",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN The cluster is down",
    "NOREPLICAS Not enough good replicas to write.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "BUSY Redis is busy running a script.",
    "MOVED 866 127.0.0.1:6381",
    "ERR Error running script (call to f_1): @user_script:3: -READONLY You can't write against a read only replica.",
    "ERR max number of clients reached",
]


@pytest.mark.parametrize("reply", CANNOT)
async def test_a_connection_whose_server_cannot_serve_is_made_anew(reply: str) -> None:
    async with scripted(f"-{reply}\r\n".encode(), b"+OK\r\n") as (port, connections):
        link = redis_from({"url": f"redis://127.0.0.1:{port}", "timeout": "20s"})
        assert await put(link)
        assert await put(link)
        assert connections == [1, 2], "one try on the old connection, then all on the new one"
        await link.close()


@pytest.mark.parametrize("reply", CANNOT)
async def test_when_no_server_serves_the_store_is_unavailable(reply: str) -> None:
    async with scripted(f"-{reply}\r\n".encode()) as (port, connections):
        link = redis_from({"url": f"redis://127.0.0.1:{port}", "timeout": "20s"})
        with pytest.raises(StoreUnavailable):
            await put(link)
        assert connections == [1, 1]
        await link.close()


async def test_a_refusal_of_the_command_leaves_the_connection_alone() -> None:
    async with scripted(b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n") as (
        port,
        connections,
    ):
        link = redis_from({"url": f"redis://127.0.0.1:{port}", "timeout": "20s"})
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="ResponseError"):
                await put(link)
        assert connections == [2]
        await link.close()


async def test_a_demoted_server_is_left_for_the_one_that_the_name_has_now(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with redis_server("--protected-mode", "no", port=port) as old, redis_server() as new:
        resolving(monkeypatch, NAME, ["127.0.0.1"])
        link = redis_from({"url": f"redis://{NAME}:{port}", "timeout": "20s"})
        assert await put(link, "old")
        old_client = Redis(unix_socket_path=str(old.path))
        await command(old_client, "REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreUnavailable, match="ReadOnlyError"):
            await put(link, "lost")
        await command(old_client, "REPLICAOF", "NO", "ONE")
        assert await put(link, "new")
        await old_client.aclose()
        await link.close()
        assert new is not None


async def test_a_name_whose_first_address_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with redis_server(port=port), dropping("127.0.0.2", port):
        resolving(monkeypatch, NAME, ["127.0.0.2", "127.0.0.1"])
        link = redis_from({"url": f"redis://{NAME}:{port}", "timeout": "20s"})
        assert await put(link)
        await link.close()


async def test_sentinel_says_where_the_primary_is_at_each_connecting() -> None:
    ports, watch, dead = [free_port(), free_port()], free_port(), free_port()
    with (
        redis_server(port=ports[0]) as first,
        redis_server(port=ports[1]) as second,
        sentinel("orders", watch, ports[0]),
    ):
        link = redis_from({"url": f"redis+sentinel://127.0.0.1:{dead},127.0.0.1:{watch}/orders/0", "timeout": "20s"})
        assert await put(link, "first")
        guard, demoted = Redis(port=watch), Redis(unix_socket_path=str(first.path))
        await command(guard, "SENTINEL", "REMOVE", "orders")
        await command(guard, "SENTINEL", "MONITOR", "orders", "127.0.0.1", str(ports[1]), "1")
        await command(demoted, "REPLICAOF", "127.0.0.1", str(ports[1]))
        assert await put(link, "second")
        promoted = Redis(unix_socket_path=str(second.path))
        assert await promoted.get("a") == b"second"
        for client in (guard, demoted, promoted):
            await client.aclose()
        await link.close()


async def test_without_a_sentinel_that_answers_the_store_is_unavailable() -> None:
    link = redis_from({"url": f"redis+sentinel://127.0.0.1:{free_port()}/orders", "timeout": "5s"})
    with pytest.raises(StoreUnavailable):
        await put(link)
    await link.close()


async def test_a_cluster() -> None:
    port = free_port()
    with redis_server("--cluster-enabled", "yes", "--cluster-port", str(free_port()), port=port) as node:
        admin = Redis(unix_socket_path=str(node.path))
        await command(admin, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        async with asyncio.timeout(20):
            while "ok" not in str(await command(admin, "CLUSTER", "INFO")).partition("cluster_state")[2][:10]:  # noqa: ASYNC110 # of a server
                await asyncio.sleep(0.05)
        link = redis_from({"url": f"redis+cluster://127.0.0.1:{port}", "timeout": "20s"})
        assert await put(link)
        await link.close()
        await admin.aclose()


async def test_an_outage_is_told_at_once_and_not_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    link = redis_from({"url": f"redis://127.0.0.1:{free_port()}", "timeout": "5s", "retry_after": "10s"})
    with caplog.at_level(logging.WARNING, "policy_redis"):
        for _ in range(50):
            with pytest.raises(StoreUnavailable):
                await put(link)
    assert len(caplog.records) == 1
    assert "fails" in caplog.text
    await link.close()
