"""rate-limit with a real Redis: several engines count as one, and outages cost little and are decided by a parameter."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from policy_engine.sdk import Policy
from policy_engine.sdk.testing import load_policy, request, run_async
from policy_redis.testing import RedisServer, redis_server

pytestmark = pytest.mark.asyncio
STRATEGIES = ["moving-window", "sliding-window-counter", "fixed-window"]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def policy(server: RedisServer, *limits: str, redis: dict[str, Any] | None = None, **parameters: Any) -> Policy:
    # A generous timeout: the machine that runs the tests may stall.
    link = {"url": server.url, "timeout": "5s", **(redis or {})}
    return load_policy(__file__, {"limits": list(limits), "redis": link, **parameters})


async def status(subject: Policy, **values: Any) -> int:
    return (await run_async(subject, request(**values))).status


async def close(*subjects: Policy) -> None:
    for subject in subjects:
        closing = subject.close()
        if closing is not None:
            await closing


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_two_engines_count_as_one(server: RedisServer, strategy: str) -> None:
    engines = [policy(server, "20/hour", strategy=strategy) for _ in range(2)]
    answers = await asyncio.gather(*(status(engines[number % 2]) for number in range(60)))
    assert sorted(answers) == [200] * 20 + [429] * 40
    await close(*engines)


async def test_two_engines_never_exceed_any_of_several_limits(server: RedisServer) -> None:
    engines = [policy(server, "15/hour", "10/minute") for _ in range(2)]
    answers = await asyncio.gather(*(status(engines[number % 2]) for number in range(40)))
    assert answers.count(200) <= 10
    assert await status(engines[0]) == 429
    await close(*engines)


async def test_a_refused_request_is_not_charged_to_the_other_limit(server: RedisServer) -> None:
    subject = policy(server, "3/day", "2/hour")
    assert [await status(subject) for _ in range(6)] == [200] * 2 + [429] * 4
    client = Redis(unix_socket_path=str(server.path), decode_responses=True)
    assert [await client.llen(name) for name in await client.keys("*/day")] == [2]
    await client.aclose()
    await close(subject)


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_retry_after_and_headers(server: RedisServer, strategy: str) -> None:
    subject = policy(server, "2/minute", strategy=strategy, headers_on_allowed=True)
    first = await run_async(subject, request())
    assert first.response.headers["ratelimit"].startswith('"2-in-60s";r=1;t=')
    await status(subject)
    refused = await run_async(subject, request())
    assert refused.response.headers["ratelimit"].startswith('"2-in-60s";r=0;t=')
    assert 1 <= int(refused.response.headers["retry-after"]) <= 60
    await close(subject)


async def test_moving_window_in_real_time(server: RedisServer) -> None:
    subject = policy(server, "3/second")
    accepted = []
    end = time.monotonic() + 3
    while time.monotonic() < end:
        before = time.time()
        if await status(subject) == 200:
            accepted.append((before, time.time()))
        await asyncio.sleep(0.03)
    assert len(accepted) >= 4
    for first, fourth in zip(accepted, accepted[3:], strict=False):
        assert fourth[1] - first[0] >= 1, "the fourth comes a second after the first"
    await close(subject)


async def test_no_key_of_a_client_is_in_redis(server: RedisServer) -> None:
    subject = policy(server, "5/minute", key=[{"source": "header", "name": "x-api-key"}])
    await status(subject, headers={"x-api-key": "very-secret-key"})
    client = Redis(unix_socket_path=str(server.path), decode_responses=True)
    names = [str(name) for name in await client.keys("*")]
    assert [name.startswith("rate-limit:moving-window:") for name in names] == [True]
    assert "very-secret-key" not in names[0] + str(await client.lrange(names[0], 0, -1))
    assert 0 < await client.ttl(names[0]) <= 60, "nothing stays for ever"
    await client.aclose()
    await close(subject)


@pytest.mark.parametrize(
    ("choice", "expected"), [("deny", [503] * 4), ("allow", [200] * 4), ("local", [200, 200, 429, 429])]
)
async def test_what_happens_while_redis_is_away_and_after(
    server: RedisServer, choice: str, expected: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    subject = policy(server, "2/hour", redis={"retry_after": "100ms"}, on_store_error=choice)
    assert [await status(subject) for _ in range(3)] == [200, 200, 429]
    server.stop()
    with caplog.at_level(logging.INFO):
        assert [await status(subject) for _ in range(4)] == expected
        assert len([one for one in caplog.records if "fails" in one.message]) == 1, "said once"
        server.start()
        await asyncio.sleep(0.2)
        assert [await status(subject) for _ in range(3)] == [200, 200, 429], "an empty Redis counts from zero"
        assert "answers again" in caplog.text
    await close(subject)


async def test_redis_started_again_between_requests_costs_no_request(server: RedisServer) -> None:
    subject = policy(server, "5/hour")
    assert await status(subject) == 200
    server.stop()
    server.start()
    assert await status(subject) == 200
    await close(subject)


async def test_an_outage_does_not_cost_every_request_a_timeout(server: RedisServer) -> None:
    subject = policy(server, "1000/hour", redis={"timeout": "1s", "retry_after": "1h"}, on_store_error="allow")
    assert await status(subject) == 200
    server.freeze()
    began = time.monotonic()
    assert [await status(subject) for _ in range(200)] == [200] * 200
    taken = time.monotonic() - began
    server.thaw()
    assert taken >= 2.5, "three waited"
    assert taken < 200 * 1 / 4, "the others did not"
    await close(subject)


async def test_a_redis_that_hangs_holds_a_request_no_longer_than_the_timeout_and_leaves_no_mix_up(
    server: RedisServer,
) -> None:
    subject = policy(server, "1000/hour", redis={"timeout": "1s", "max_connections": 2}, on_store_error="deny")
    server.freeze()
    answers = await asyncio.wait_for(asyncio.gather(*(status(subject) for _ in range(50))), 10)
    assert answers == [503] * 50
    server.thaw()
    await asyncio.sleep(1.1)
    seen = [await run_async(subject, request()) for _ in range(5)]
    assert [one.status for one in seen] == [200] * 5
    await close(subject)


async def test_a_wrong_password_is_a_store_error_and_shows_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    with redis_server("--requirepass", "the-right-one") as guarded:
        right = policy(guarded, "5/hour", redis={"password": "the-right-one"})
        wrong = policy(guarded, "5/hour", redis={"password": "the-wrong-one"})
        assert await status(right) == 200
        with caplog.at_level(logging.DEBUG):
            assert [await status(wrong) for _ in range(4)] == [503] * 4
        assert "AuthenticationError" in caplog.text
        assert "the-wrong-one" not in caplog.text + repr(vars(wrong))
        await close(right, wrong)


async def test_the_loop_is_not_blocked_while_redis_hangs(server: RedisServer) -> None:
    subject = policy(server, "5/hour", redis={"timeout": "1s"})
    server.freeze()
    waiting = asyncio.create_task(status(subject))
    turns = 0
    while not waiting.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert turns > 5
    server.thaw()
    await close(subject)
