"""cache with a real Redis: engines share responses, nothing stays for ever, and an outage is only a miss."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from policy_engine.sdk import Policy
from policy_engine.sdk.testing import Outcome, load_policy, request, response, run_async
from policy_redis.testing import RedisServer, redis_server

pytestmark = pytest.mark.asyncio


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def policy(server: RedisServer, redis: dict[str, Any] | None = None, **parameters: Any) -> Policy:
    # A generous timeout: the machine that runs the tests may stall.
    return load_policy(__file__, {"redis": {"url": server.url, "timeout": "5s", **(redis or {})}, **parameters})


async def fetch(
    subject: Policy,
    target: str = "/a",
    *,
    method: str = "GET",
    asks: dict[str, Any] | None = None,
    says: dict[str, str] | None = None,
    body: bytes = b"one",
) -> Outcome:
    headers = {"content-type": "text/plain", "cache-control": "max-age=60", **(says or {})}
    return await run_async(subject, request(method, target, asks), response(200, headers, body))


async def hit(subject: Policy, target: str = "/a", **values: Any) -> bool:
    return not (await fetch(subject, target, **values)).reached_upstream


async def close(*subjects: Policy) -> None:
    for subject in subjects:
        closing = subject.close()
        if closing is not None:
            await closing


async def test_two_engines_share_responses_and_forget_together(server: RedisServer) -> None:
    one, two = policy(server), policy(server)
    body = bytes(range(256)) * 100
    await fetch(one, body=body, says={"etag": '"v1"', "x-odd": "caf\u00e9"})
    shared = await fetch(two)
    assert (shared.reached_upstream, shared.body) == (False, body)
    assert shared.response.headers["x-odd"] == "caf\u00e9"
    assert (await fetch(two, asks={"if-none-match": '"v1"'})).status == 304
    await fetch(two, method="POST")
    assert not await hit(one)
    await close(one, two)


async def test_variants_are_found_and_bounded(server: RedisServer) -> None:
    subject = policy(server, max_variants=3)
    for number in range(10):
        await fetch(subject, asks={"a": str(number)}, says={"vary": "a"}, body=str(number).encode())
    assert (await fetch(subject, asks={"a": "9"})).body == b"9"
    client = Redis(unix_socket_path=str(server.path))
    (name,) = await client.keys("*")
    assert await client.hlen(name) <= 4, "the names of Vary and three variants"
    await client.aclose()
    await close(subject)


async def test_another_vary_forgets_the_variants_before(server: RedisServer) -> None:
    subject = policy(server)
    await fetch(subject, says={"vary": "a"})
    await fetch(subject, asks={"a": "1"}, says={"vary": "b"})
    assert await hit(subject, asks={"a": "2"})
    await close(subject)


async def test_what_is_stored_expires_and_names_no_url(server: RedisServer) -> None:
    subject = policy(server, redis={"prefix": "shop"})
    await fetch(subject, "/secret-path?token=1", says={"cache-control": "max-age=3"})
    client = Redis(unix_socket_path=str(server.path), decode_responses=True)
    (name,) = [str(one) for one in await client.keys("*")]
    assert name.startswith("shop:")
    assert "secret" not in name + str(await client.hgetall(name))
    assert 0 < await client.pttl(name) <= 3000
    assert await hit(subject, "/secret-path?token=1")
    await asyncio.sleep(3.1)
    assert await client.keys("*") == []
    assert not await hit(subject, "/secret-path?token=1")
    await client.aclose()
    await close(subject)


async def test_an_outage_is_a_miss_and_costs_few_requests_time(server: RedisServer) -> None:
    subject = policy(server, redis={"timeout": "1s", "retry_after": "2s"})
    await fetch(subject)
    assert await hit(subject)
    server.freeze()
    began = time.monotonic()
    for _ in range(100):
        assert (await fetch(subject, body=b"two")).body == b"two"
    assert time.monotonic() - began < 100 * 1 / 3
    server.thaw()
    server.stop()
    assert not await hit(subject)
    server.start()
    await asyncio.sleep(2.1)
    await fetch(subject)
    assert await hit(subject)
    await close(subject)


async def test_garbage_in_redis_is_a_miss(server: RedisServer) -> None:
    subject = policy(server)
    await fetch(subject)
    client = Redis(unix_socket_path=str(server.path))
    (name,) = await client.keys("*")
    for field in await client.hkeys(name):
        if field != b"vary":
            await client.hset(name, field, b"\xff\x00 no entry")
    assert not await hit(subject, says={"cache-control": "no-store"})
    await client.delete(name)
    await client.set(name, "not even a hash")
    assert not await hit(subject)
    await client.aclose()
    await close(subject)
