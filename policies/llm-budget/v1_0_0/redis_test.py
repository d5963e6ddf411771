"""llm-budget with a real Redis: engines share what there is, and what was used is charged through outages."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from policy_engine.sdk import Chunk, ChunkMutation, Policy, Request
from policy_engine.sdk.testing import Outcome, load_policy, request, response, run_async
from policy_redis.testing import RedisServer, redis_server

pytestmark = pytest.mark.asyncio
EVENTS = {"content-type": "text/event-stream"}


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def policy(server: RedisServer, amount: int = 1000, **parameters: Any) -> Policy:
    # A generous timeout: the machine that runs the tests may stall.
    redis = {"url": server.url, "timeout": "5s", "retry_after": "100ms", **parameters.pop("redis", {})}
    budgets = [{"name": "b", "amount": amount, "window": "month", "unit": "completion_tokens"}]
    given = {"budgets": budgets, "answer_reserve": 50, "stream_reserve": 10, "characters_per_token": 1}
    return load_policy(__file__, {**given, "redis": redis, **parameters})


def ask(*, stream: bool = True, model: str = "m") -> Request:
    document = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    return request("POST", "/v1/chat/completions", body=json.dumps(document).encode())


def event(text: str, finish: str | None = None, used: int = 0) -> bytes:
    document: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}
    if used:
        document["usage"] = {"prompt_tokens": 1, "completion_tokens": used}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


async def streamed(subject: Policy, pieces: list[bytes]) -> Outcome:
    return await run_async(subject, ask(), response(headers=EVENTS), response_chunks=pieces)


async def taken(server: RedisServer) -> int:
    client = Redis(unix_socket_path=str(server.path), decode_responses=True)
    names = [name for name in await client.keys("*") if ":exchange:" not in name]
    found = [int(await client.get(name) or 0) for name in names]
    await client.aclose()
    return sum(found)


async def close(*subjects: Policy) -> None:
    for subject in subjects:
        closing = subject.close()
        if closing is not None:
            await closing


async def settled(server: RedisServer, wanted: int) -> None:
    async with asyncio.timeout(10):
        while await taken(server) != wanted:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)


async def test_engines_never_take_more_than_there_is_and_charge_what_was_used(server: RedisServer) -> None:
    engines = [policy(server, 300) for _ in range(3)]
    most = 0
    stopped = asyncio.Event()

    async def watch() -> None:
        nonlocal most
        while not stopped.is_set():
            most = max(most, await taken(server))
            await asyncio.sleep(0.001)

    watching = asyncio.create_task(watch())
    pieces = [event("a" * 5) for _ in range(12)]
    outcomes = await asyncio.gather(*(streamed(engines[number % 3], pieces) for number in range(24)))
    stopped.set()
    await watching
    delivered = sum(b"".join(one.response_chunks).count(b"aaaaa") for one in outcomes) * 5
    stopped_midway = sum(b'"length"' in b"".join(one.response_chunks) for one in outcomes)
    # Each stream that was stopped was counted with the one event that it was stopped at.
    assert await taken(server) == delivered + 5 * stopped_midway
    assert 300 - 5 < delivered <= 300
    assert stopped_midway
    assert most <= 300 + 5 * stopped_midway
    await close(*engines)


async def test_reservations_alone_never_exceed_the_budget(server: RedisServer) -> None:
    engines = [policy(server, 500) for _ in range(2)]
    asked = [ask(stream=False) for _ in range(40)]
    answers = await asyncio.gather(*(_admit(engines[at % 2], one) for at, one in enumerate(asked)))
    assert answers.count(True) == 10, "fifty each"
    assert await taken(server) == 500
    for at, one in enumerate(asked):
        engines[at % 2].on_stream_end(one)
    await close(*engines)


async def _admit(subject: Policy, asked: Request) -> bool:
    found = subject.on_request_body(asked)
    action: Any = await found if asyncio.iscoroutine(found) else found
    return not hasattr(action, "status")


async def test_what_is_used_is_charged_for_streams_that_end_are_cut_and_fail(server: RedisServer) -> None:
    subject = policy(server)
    await streamed(subject, [event("a" * 30), event("", "stop"), event("", used=25)])
    assert await taken(server) == 25
    await streamed(subject, [event("a" * 30)])  # the upstream was cut
    assert await taken(server) == 55
    await run_async(subject, ask(), response(503, EVENTS), response_chunks=[b"data: {}\n\n"])
    assert await taken(server) == 55
    asked = ask()
    assert await _admit(subject, asked)
    assert await taken(server) == 65
    subject.on_stream_end(asked)  # nobody knows what the upstream did
    await settled(server, 65)
    await close(subject)


async def test_a_client_that_leaves_midway_is_charged_for_what_was_written(server: RedisServer) -> None:
    subject, asked = policy(server), ask()
    answer = response(headers=EVENTS)
    assert await _admit(subject, asked)
    assert subject.on_response_headers(asked, answer) is None

    found = subject.on_response_chunk(asked, answer, Chunk(event("a" * 7) + event("b" * 40)[:30]))
    assert not asyncio.iscoroutine(found)
    subject.on_stream_end(asked)
    await settled(server, 7)
    await close(subject)


@pytest.mark.parametrize(("choice", "status"), [("deny", 503), ("allow", 200)])
async def test_while_redis_is_away_requests_are_refused_or_charged_later(
    server: RedisServer, choice: str, status: int
) -> None:
    subject = policy(server, on_store_error=choice)
    server.stop()
    outcome = await streamed(subject, [event("a" * 30), event("", "stop"), event("", used=25)])
    assert outcome.status == status
    assert outcome.metric("requests", outcome="store_unavailable") == 1
    server.start()
    await settled(server, 25 if choice == "allow" else 0)
    await close(subject)


@pytest.mark.parametrize("choice", ["deny", "allow"])
async def test_redis_that_goes_away_in_the_middle_of_a_stream(server: RedisServer, choice: str) -> None:
    subject, asked = policy(server, on_store_error=choice), ask()
    answer = response(headers=EVENTS)

    assert await _admit(subject, asked)
    subject.on_response_headers(asked, answer)
    assert subject.on_response_chunk(asked, answer, Chunk(event("a" * 8))) is None
    server.stop()
    found: Any = subject.on_response_chunk(asked, answer, Chunk(event("b" * 8), end=True))
    action = await found
    if choice == "deny":
        assert isinstance(action, ChunkMutation)
        assert action.end
        assert b"bbbb" not in action.data
        assert b'"finish_reason":"length"' in action.data
    else:
        assert action is None
    server.start()
    await settled(server, 16)  # an empty Redis: all of the exchange, once
    await close(subject)


async def test_what_comes_twice_or_late_is_counted_once(server: RedisServer) -> None:
    subject, asked = policy(server), ask()
    assert await _admit(subject, asked)
    ledger: Any = subject._ledger  # type: ignore[attr-defined]
    hold = subject.state(asked, _kept_of(subject)).exchange.hold
    late = hold.turn
    await ledger.settle(hold, [33])
    await ledger.settle(hold, [33])
    assert await taken(server) == 33
    hold.turn = late
    await ledger._run(hold, [900], [900], checked=True)
    await ledger._run(hold, [900], [900], checked=False)
    assert await taken(server) == 33
    await close(subject)


def _kept_of(subject: Policy) -> Any:
    return sys.modules[type(subject).__module__].__dict__["_Kept"]


async def test_a_redis_that_hangs_holds_a_request_no_longer_than_the_timeout(server: RedisServer) -> None:
    subject = policy(server, redis={"timeout": "300ms"})
    server.freeze()
    outcomes = await asyncio.wait_for(asyncio.gather(*(streamed(subject, []) for _ in range(20))), 10)
    assert {one.status for one in outcomes} == {503}
    server.thaw()
    await asyncio.sleep(0.5)
    await settled(server, 0)
    await streamed(subject, [event("abc", "stop")])
    assert await taken(server) == 3
    await close(subject)


@pytest.mark.parametrize("kind", ["a text", "a list", "a float"])
async def test_a_redis_that_holds_something_else_is_no_answer(server: RedisServer, kind: str) -> None:
    subject = policy(server)
    await streamed(subject, [event("abc", "stop")])
    client = Redis(unix_socket_path=str(server.path), decode_responses=True)
    (name,) = [name for name in await client.keys("*") if ":exchange:" not in name]
    await client.delete(name)
    if kind == "a list":
        await client.rpush(name, "1")
    else:
        await client.set(name, "abc" if kind == "a text" else "1.5")
    assert (await streamed(subject, [event("abc")])).status == 503
    await client.delete(name)
    await client.aclose()
    await settled(server, 0)
    await close(subject)


async def test_a_demoted_redis_is_no_answer(server: RedisServer) -> None:
    subject = policy(server)
    assert (await streamed(subject, [event("abc", "stop")])).status == 200
    client: Any = Redis(unix_socket_path=str(server.path))
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")
    assert (await streamed(subject, [event("abc", "stop")])).status == 503
    await client.execute_command("REPLICAOF", "NO", "ONE")
    await client.aclose()
    await settled(server, 3)
    await close(subject)


async def test_nothing_of_a_client_is_in_redis_and_nothing_stays_for_ever(server: RedisServer) -> None:
    budget = {"name": "b", "amount": 9999, "window": "hour", "key": 'request.headers["x-api-key"]', "per_model": True}
    subject = policy(server, budgets=[budget])
    asked = ask(model="a-model")
    asked = request("POST", "/", headers={"x-api-key": "very-secret-key"}, body=asked.body)
    await run_async(subject, asked, response(headers=EVENTS), response_chunks=[event("abc")])
    client = Redis(unix_socket_path=str(server.path), decode_responses=True)
    names = [str(name) for name in await client.keys("*")]
    assert len(names) == 2
    for name in names:
        assert name.startswith("{llm-budget}:")
        assert 0 < await client.ttl(name) <= 100_000
    assert "secret" not in str(names)
    assert "a-model" not in str(names)
    await client.aclose()
    await close(subject)
