"""Whatever a policy does, its stream gets an answer and the process lives (R-11, R-12)."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from policy_engine.sdk import ImmediateResponse, Policy, Request, RequestMutation
from policy_engine.worker.chains.loop_watch import LoopWatch
from policy_engine.worker.chains.statistics import FailureKind
from policy_engine.worker.offload.blocking import BlockingPool, PoolFull
from testsupport.chains import Engine, engine, entry
from testsupport.envoy_messages import parse, request_headers


@pytest.fixture
def watch() -> Iterator[None]:
    looking = LoopWatch()
    looking.start()
    yield
    looking.stop()


class After(Policy):
    """Shows that the chain went on."""

    def on_request_headers(self, request: Request) -> RequestMutation:
        return RequestMutation(set_headers={"x-after": "1"})


class Raises(Policy):
    failure_status = 401

    def on_request_headers(self, request: Request) -> None:
        raise KeyError("x")


class RaisesLater(Policy):
    async def on_request_headers(self, request: Request) -> None:
        await asyncio.sleep(0)
        raise KeyError("x")


class WrongType(Policy):
    def on_request_headers(self, request: Request) -> Any:
        return {"status": 200}


class BadName(Policy):
    def on_request_headers(self, request: Request) -> RequestMutation:
        return RequestMutation(set_headers={"x bad": "1"})


class BadValue(Policy):
    def on_request_headers(self, request: Request) -> RequestMutation:
        return RequestMutation(set_headers={"x-bad": "1\r\nx-forged: 1"})


class ContentLength(Policy):
    def on_request_headers(self, request: Request) -> RequestMutation:
        return RequestMutation(set_headers={"content-length": "1"})


class BadStatus(Policy):
    def on_request_headers(self, request: Request) -> ImmediateResponse:
        return ImmediateResponse(99)


class SlowAsync(Policy):
    async def on_request_headers(self, request: Request) -> None:
        await asyncio.sleep(5)


class SwallowsCancel(Policy):
    async def on_request_headers(self, request: Request) -> None:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue


class SlowBlocking(Policy):
    blocking = True

    def on_request_headers(self, request: Request) -> None:
        time.sleep(0.5)


class HoldsTheLoop(Policy):
    def on_request_headers(self, request: Request) -> None:
        time.sleep(5)


class SpinsTheLoop(Policy):
    def on_request_headers(self, request: Request) -> None:
        while True:
            pass


class SpinsInACoroutine(Policy):
    async def on_request_headers(self, request: Request) -> None:
        await asyncio.sleep(0)
        while True:
            pass


class HoldsInAPattern(Policy):
    """C code that lets signal handlers run, and no other thread."""

    def on_request_headers(self, request: Request) -> None:
        re.match(r"(a+)+$", "a" * 60 + "b")


class HoldsInAPatternLater(Policy):
    async def on_request_headers(self, request: Request) -> None:
        await asyncio.sleep(0)
        re.search(r"(\w+\s?)*$", "word " * 40 + "!")


class Exits(Policy):
    def on_request_headers(self, request: Request) -> None:
        sys.exit(3)


class ExitsLater(Policy):
    async def on_request_headers(self, request: Request) -> None:
        await asyncio.sleep(0)
        sys.exit(3)


class ExitsInAThread(Policy):
    blocking = True

    def on_request_headers(self, request: Request) -> None:
        sys.exit(3)


class CancelsItself(Policy):
    async def on_request_headers(self, request: Request) -> None:
        raise asyncio.CancelledError


FAILURES = [
    (Exits, FailureKind.EXCEPTION),
    (ExitsLater, FailureKind.EXCEPTION),
    (ExitsInAThread, FailureKind.EXCEPTION),
    (CancelsItself, FailureKind.EXCEPTION),
    (Raises, FailureKind.EXCEPTION),
    (RaisesLater, FailureKind.EXCEPTION),
    (WrongType, FailureKind.INVALID_ACTION),
    (BadName, FailureKind.INVALID_ACTION),
    (BadValue, FailureKind.INVALID_ACTION),
    (ContentLength, FailureKind.INVALID_ACTION),
    (BadStatus, FailureKind.INVALID_ACTION),
    (SlowAsync, FailureKind.TIMEOUT),
    (SwallowsCancel, FailureKind.TIMEOUT),
    (SlowBlocking, FailureKind.TIMEOUT),
    (HoldsTheLoop, FailureKind.TIMEOUT),
    (SpinsTheLoop, FailureKind.TIMEOUT),
    (SpinsInACoroutine, FailureKind.TIMEOUT),
    (HoldsInAPattern, FailureKind.TIMEOUT),
    (HoldsInAPatternLater, FailureKind.TIMEOUT),
]


async def ask(made: Engine) -> Any:
    replies = made.session().receive(request_headers())
    return parse(replies if isinstance(replies, bytes) else await replies)  # type: ignore[misc] # a coroutine then


@pytest.mark.usefixtures("watch")
@pytest.mark.parametrize("mode", ["closed", "open"])
@pytest.mark.parametrize(("policy", "kind"), FAILURES, ids=[one.__name__ for one, _ in FAILURES])
def test_every_failure_follows_the_failure_mode(
    policy: type[Policy], kind: FailureKind, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = engine(entry(policy, failure_mode=mode, timeout=0.1), After, classes=[policy])
    reply = asyncio.run(ask(made))
    if mode == "closed":
        assert reply.immediate_response.status.code == policy.failure_status
    else:
        assert reply.request_headers.response.header_mutation.set_headers[0].header.key == "x-after"
    statistics = made.compiler.statistics[("r", policy.__name__.lower(), "v1.0.0")]
    assert statistics.failures[kind] == 1
    assert policy.__name__.lower() in caplog.text
    assert "x-forged" not in caplog.text


@pytest.mark.usefixtures("watch")
def test_a_policy_that_holds_the_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(ask(engine(entry(HoldsTheLoop, timeout=0.1), classes=[HoldsTheLoop])))
    assert "holdstheloop v1.0.0" in caplog.text
    assert "held the event loop" in caplog.text


@pytest.mark.usefixtures("watch")
def test_a_pattern_may_take_all_of_its_time(caplog: pytest.LogCaptureFixture) -> None:
    """Longer than the alarm waits, and not longer than its timeout."""
    asyncio.run(ask(engine(entry(HoldsInAPattern, timeout=1.0), classes=[HoldsInAPattern])))
    (held,) = re.findall(r"held the event loop for ([\d.]+) s", caplog.text)
    assert float(held) >= 1.0


@pytest.mark.usefixtures("watch")
def test_the_watch_hits_no_policy_that_keeps_its_time() -> None:
    class Short(Policy):
        def on_request_headers(self, request: Request) -> RequestMutation:
            time.sleep(0.002)
            return RequestMutation(set_headers={"x-after": "1"})

    made = engine(entry(Short, timeout=0.5), classes=[Short])

    async def many() -> list[Any]:
        return [await ask(made) for _ in range(100)]

    assert all(reply.HasField("request_headers") for reply in asyncio.run(many()))


def test_a_hung_pool_refuses_at_once_and_stalls_nobody_else() -> None:
    release = threading.Event()
    pool, other = BlockingPool("hung", threads=1, queue=1), BlockingPool("other", threads=1, queue=1)

    async def run() -> None:
        hung = [asyncio.ensure_future(pool.wrap(release.wait)()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(PoolFull):
            await pool.wrap(release.wait)()
        assert await other.wrap(lambda: 7)() == 7
        release.set()
        assert await asyncio.gather(*hung) == [True, True]
        assert await pool.wrap(lambda: 8)() == 8

    asyncio.run(run())
    pool.close()
    other.close()


def test_a_condition_is_decided_once_per_stream_and_entry() -> None:
    class Both(Policy):
        def on_request_headers(self, request: Request) -> RequestMutation:
            return RequestMutation(path="/changed")

        def on_response_headers(self, request: Request, response: Any) -> Any:
            from policy_engine.sdk import ResponseMutation

            return ResponseMutation(set_headers={"x-both": "1"})

    from testsupport.envoy_messages import response_headers

    made = engine(entry(Both, condition='request.path == "/"'), classes=[Both])
    session = made.session()
    session.receive(request_headers(path="/"))
    reply = parse(session.receive(response_headers()))
    assert reply.response_headers.response.header_mutation.set_headers[0].header.key == "x-both"
    skipped = made.session()
    assert parse(skipped.receive(request_headers(path="/other"))).request_headers.response.ByteSize() == 0


@pytest.mark.parametrize(("mode", "field"), [("closed", "immediate_response"), ("open", "request_headers")])
def test_a_condition_that_fails_is_a_failure_of_its_policy(mode: str, field: str) -> None:
    made = engine(entry(After, condition='request.headers["x"] == "1"', failure_mode=mode), classes=[After])
    reply = parse(made.session().receive(request_headers()))
    assert reply.WhichOneof("response") == field
    assert made.compiler.statistics[("r", "after", "v1.0.0")].failures[FailureKind.CONDITION] == 1
