"""Offloaded work leaves the event loop free, is bounded in time, number and memory, and its processes go away."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from policy_engine.sdk import Policy
from policy_engine.worker.offload.binding import Away
from policy_engine.worker.offload.helpers import Ending, HelperLost, Helpers, HelpersFull, Outcome, Statistics
from policy_engine.worker.offload.job import CannotOffload, Recipe
from policy_engine.worker.policies.importing import import_policy_module

LARGE = b"x" * 100_000

CODE = """
import json, logging, os, re, signal, sys, time
from policy_engine.sdk import Policy
from . import words

_log = logging.getLogger("policy.sample")

class Odd(Exception):
    def __init__(self, place, text):
        super().__init__(text)
        self.place = place

def length(body):
    return len(body)

class Sample(Policy):
    def __init__(self, parameters):
        self.prefix = parameters["prefix"]
        self.calls = 0
        if parameters.get("fails"):
            raise ValueError("no such prefix")

    def who(self, body):
        self.calls += 1
        return os.getpid(), self.prefix, self.calls, words.WORD, len(body)

    def sleep(self, body, seconds):
        time.sleep(seconds)
        return os.getpid()

    def hang(self, body):
        re.match(r"(a+)+$", "a" * 60 + "b")

    def parse(self, body):
        return len(json.loads(body))

    def echo(self, body):
        return body

    def odd(self, body):
        raise Odd(3, "odd")

    def wrong(self, body):
        raise ValueError("wrong body")

    def exits(self, body):
        sys.exit("bye")

    def dies(self, body):
        os.kill(os.getpid(), signal.SIGSEGV)

    def grows(self, body, size):
        self.kept = bytearray(os.urandom(1)) * size
        return os.getpid()

    def too_much(self, body):
        return len(bytearray(b"x") * (4 << 30))

    def logs(self, body):
        _log.warning("found %d", 3, extra={"event": "found", "fields": {"a": 1}})

    def unsendable(self, body):
        return lambda: 1
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "policy.py").write_text(CODE)
    (tmp_path / "words.py").write_text("WORD = 'word'\n")
    return tmp_path


class Bound:
    """A sample policy bound to helpers, as the compiler binds one."""

    def __init__(self, directory: Path, helpers: Helpers) -> None:
        self.directory, self.helpers = directory, helpers

    def policy(self, seconds: float = 20.0, **parameters: Any) -> Any:
        module = import_policy_module(self.directory, "policy", "sample_v1.0.0")
        policy: Policy = module.Sample({"prefix": "p", **{k: v for k, v in parameters.items() if k != "fails"}})
        recipe = Recipe.of(str(self.directory), "policy:Sample", "sample_v1.0.0", {"prefix": "p", **parameters})
        policy._away = Away(self.helpers, recipe, policy, seconds)
        return policy


def run(directory: Path, test: Callable[[Bound], Awaitable[None]], **options: Any) -> Helpers:
    helpers = Helpers(**options)

    async def main() -> None:
        try:
            await test(Bound(directory, helpers))
        finally:
            helpers.close()
            await asyncio.sleep(0.1)

    asyncio.run(main())
    return helpers


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def gone(pid: int, seconds: float = 5.0) -> bool:
    """Whether the process ended and was reaped, within `seconds`."""
    return await asyncio.to_thread(_gone, Path(f"/proc/{pid}"), seconds)


def _gone(entry: Path, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while entry.exists() and time.monotonic() < until:
        time.sleep(0.02)
    return not entry.exists()


def test_large_arguments_go_to_a_copy_of_the_policy_in_another_process(directory: Path) -> None:
    async def test(bound: Bound) -> None:
        first, second = bound.policy(), bound.policy(prefix="q")
        pid, *rest = await first.offload(first.who, LARGE)
        assert pid != os.getpid()
        assert rest == ["p", 1, "word", len(LARGE)]
        assert (await first.offload(first.who, LARGE))[:3] == (pid, "p", 2)
        assert (await second.offload(second.who, LARGE))[:3] == (pid, "q", 1)
        assert first.calls == 0
        assert await first.offload_large(first.echo, LARGE) == LARGE
        function = import_policy_module(directory, "policy", "sample_v1.0.0").length
        assert await first.offload(function, LARGE) == len(LARGE)
        assert bound.helpers.running == 1

    run(directory, test)


def test_small_arguments_stay(directory: Path) -> None:
    async def test(bound: Bound) -> None:
        policy = bound.policy()
        assert (await policy.offload(policy.who, b"x"))[0] == os.getpid()
        assert policy.offload_large(policy.who, b"x" * policy.offload_above)[0] == os.getpid()
        assert bound.helpers.running == 0

    run(directory, test)


def test_a_policy_without_an_engine_does_its_work_itself(directory: Path) -> None:
    policy = import_policy_module(directory, "policy", "sample_v1.0.0").Sample({"prefix": "p"})
    assert policy.offload_large(policy.who, LARGE)[0] == os.getpid()
    assert asyncio.run(policy.offload(policy.who, LARGE))[0] == os.getpid()


async def longest_gap(work: Awaitable[Any]) -> float:
    """Return for how long the loop was held at most while `work` went on."""
    longest, last, task = 0.0, time.perf_counter(), asyncio.ensure_future(work)
    while not task.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    await task
    return longest


def test_the_loop_is_free_while_a_large_body_is_parsed(directory: Path) -> None:
    body = b"[" + b",".join([b'{"a":0}'] * 1_000_000) + b"]"

    async def test(bound: Bound) -> None:
        policy = bound.policy()
        await policy.offload(policy.parse, b"[" + b" " * 100_000 + b"]")
        held = time.perf_counter()
        policy.parse(body)
        held = time.perf_counter() - held
        gc.collect()
        gap = await longest_gap(policy.offload(policy.parse, body))
        assert gap < max(0.1, held / 4), f"held for {gap:.3f} s, done here it takes {held:.3f} s"

    run(directory, test)


def test_what_hangs_in_c_is_killed_with_its_helper_and_the_next_call_gets_another(directory: Path) -> None:
    async def test(bound: Bound) -> None:
        policy, patient = bound.policy(seconds=0.5), bound.policy()
        pid = (await patient.offload(patient.who, LARGE))[0]
        with pytest.raises(TimeoutError):
            await policy.offload(policy.hang, LARGE)
        assert await gone(pid)
        assert (await patient.offload(patient.who, LARGE))[0] != pid
        assert bound.helpers.statistics.calls[Outcome.LATE] == bound.helpers.statistics.ended[Ending.LATE] == 1

    run(directory, test)


def test_a_caller_that_leaves_costs_no_process(directory: Path) -> None:
    async def test(bound: Bound) -> None:
        policy = bound.policy()
        pid = (await policy.offload(policy.who, LARGE))[0]
        leaving = asyncio.ensure_future(policy.offload(policy.sleep, LARGE, 0.3))
        await asyncio.sleep(0.1)
        leaving.cancel()
        await asyncio.sleep(0.4)
        assert (await policy.offload(policy.who, LARGE))[0] == pid

    run(directory, test, processes=1)


def test_more_calls_than_may_wait_are_refused_at_once(directory: Path) -> None:
    async def test(bound: Bound) -> None:
        policy = bound.policy()
        calls = [asyncio.ensure_future(policy.offload(policy.sleep, LARGE, 0.2)) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(HelpersFull):
            await policy.offload(policy.who, LARGE)
        assert len(set(await asyncio.gather(*calls))) == 2
        assert bound.helpers.running == 2

    run(directory, test, processes=2, waiting=3)


def test_callers_that_leave_while_they_wait_leave_nothing(directory: Path) -> None:
    async def test(bound: Bound) -> None:
        policy = bound.policy()
        calls = [asyncio.ensure_future(policy.offload(policy.sleep, LARGE, 0.2)) for _ in range(4)]
        await asyncio.sleep(0.05)
        for call in calls[1:]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert not bound.helpers._queue
        assert (await policy.offload(policy.who, LARGE))[2] == 1

    run(directory, test, processes=1)


def test_large_calls_leave_a_helper_to_smaller_ones(directory: Path) -> None:
    async def test(bound: Bound) -> None:
        policy, large = bound.policy(), b"x" * 1_000_000
        await asyncio.gather(*(policy.offload(policy.sleep, LARGE, 0.1) for _ in range(2)))
        calls = [asyncio.ensure_future(policy.offload(policy.sleep, large, 1.0)) for _ in range(3)]
        await asyncio.sleep(0.05)
        began = time.perf_counter()
        await policy.offload(policy.who, LARGE)
        assert time.perf_counter() - began < 0.7
        assert len(set(await asyncio.gather(*calls))) == 1

    run(directory, test, processes=2)


def test_errors_come_back_as_they_are_and_the_helper_goes_on(directory: Path) -> None:
    async def test(bound: Bound) -> None:
        policy = bound.policy()
        pid = (await policy.offload(policy.who, LARGE))[0]
        with pytest.raises(ValueError, match="wrong body") as caught:
            await policy.offload(policy.wrong, LARGE)
        assert "raise ValueError" in caught.value.__notes__[0]
        with pytest.raises(RuntimeError, match="Odd: odd"):
            await policy.offload(policy.odd, LARGE)
        with pytest.raises(RuntimeError, match="SystemExit: bye"):
            await policy.offload(policy.exits, LARGE)
        with pytest.raises((TypeError, AttributeError, RuntimeError), match="lambda"):
            await policy.offload(policy.unsendable, LARGE)
        broken = bound.policy(fails=True)
        with pytest.raises(ValueError, match="no such prefix"):
            await broken.offload(broken.who, LARGE)
        with pytest.raises(MemoryError):
            await policy.offload(policy.too_much, LARGE)
        assert (await policy.offload(policy.who, LARGE))[0] == pid

    run(directory, test)


def test_what_cannot_be_sent_is_named(directory: Path) -> None:
    async def test(bound: Bound) -> None:
        policy = bound.policy()
        with pytest.raises(CannotOffload, match="plain containers"):
            await policy.offload(policy.who, LARGE, lambda: 1)
        with pytest.raises(CannotOffload, match="<lambda>"):
            await policy.offload(lambda body: 1, LARGE)

    run(directory, test)


def test_a_helper_that_crashes_fails_its_call_only(directory: Path) -> None:
    async def test(bound: Bound) -> None:
        policy = bound.policy()
        with pytest.raises(HelperLost):
            await policy.offload(policy.dies, LARGE)
        assert await policy.offload(policy.parse, b"[" + b" " * 100_000 + b"]") == 0

    run(directory, test)


def test_memory_of_large_work_goes_back(directory: Path) -> None:
    async def test(bound: Bound) -> None:
        policy = bound.policy()
        assert await gone(await policy.offload(policy.grows, LARGE, 300 << 20))
        assert bound.helpers.statistics.ended[Ending.GROWN] == 1

    run(directory, test)


def test_idle_helpers_end(directory: Path) -> None:
    async def test(bound: Bound) -> None:
        policy = bound.policy()
        assert await gone((await policy.offload(policy.who, LARGE))[0])
        assert bound.helpers.running == 0
        await policy.offload(policy.who, LARGE)

    run(directory, test, idle_seconds=0.2)


def test_helpers_ignore_signals_to_the_group_and_end_when_closed(directory: Path) -> None:
    pids = []

    async def test(bound: Bound) -> None:
        policy = bound.policy()
        pids.append((await policy.offload(policy.who, LARGE))[0])
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            os.kill(pids[0], number)
        await asyncio.sleep(0.1)
        assert (await policy.offload(policy.who, LARGE))[0] == pids[0]
        waiting = [asyncio.ensure_future(policy.offload(policy.sleep, LARGE, 5)) for _ in range(4)]
        await asyncio.sleep(0.1)
        bound.helpers.close()
        failures = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(one, HelperLost) for one in failures), failures

    run(directory, test)
    assert not alive(pids[0])


def test_logs_of_a_helper_are_written_by_the_worker_process(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(bound: Bound) -> None:
        policy = bound.policy()
        await policy.offload(policy.logs, LARGE)

    with caplog.at_level(logging.WARNING):
        run(directory, test)
    (record,) = [one for one in caplog.records if one.name == "policy.sample"]
    assert record.getMessage() == "found 3"
    assert record.event == "found"  # type: ignore[attr-defined] # an extra


def test_a_helper_ends_with_its_worker_process_even_in_c_code(directory: Path, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        textwrap.dedent(f"""
        import asyncio
        from pathlib import Path
        from policy_engine.worker.offload.offload_test import Bound, LARGE, Helpers
        async def main():
            policy = Bound(Path({str(directory)!r}), Helpers()).policy()
            print((await policy.offload(policy.who, LARGE))[0], flush=True)
            await policy.offload(policy.hang, LARGE)
        asyncio.run(main())
        """)
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=env) as worker:
        assert worker.stdout is not None
        pid = int(worker.stdout.readline())
        time.sleep(0.2)
        assert alive(pid)
        worker.kill()
    until = time.monotonic() + 5
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(pid)


def test_another_event_loop_begins_with_helpers_of_its_own(directory: Path) -> None:
    helpers = Helpers()
    pids = []

    async def main() -> None:
        policy = Bound(directory, helpers).policy()
        pids.append((await policy.offload(policy.who, LARGE))[0])

    asyncio.run(main())
    asyncio.run(main())
    helpers.close()
    assert pids[0] != pids[1]


def test_every_call_is_counted_once_by_how_it_ended(directory: Path) -> None:
    async def test(bound: Bound) -> None:
        policy, hasty = bound.policy(), bound.policy(seconds=0.2)
        await policy.offload(policy.who, LARGE)
        for wrong in (policy.wrong, policy.dies):
            with pytest.raises((ValueError, HelperLost)):
                await policy.offload(wrong, LARGE)
        await policy.offload(policy.who, LARGE)
        with pytest.raises(TimeoutError):
            await hasty.offload(hasty.sleep, LARGE, 5)
        busy = asyncio.ensure_future(policy.offload(policy.sleep, LARGE, 0.3))
        await asyncio.sleep(0.05)
        leaving = asyncio.ensure_future(policy.offload(policy.who, LARGE))
        await asyncio.sleep(0)
        assert bound.helpers.queued == 1
        with pytest.raises(HelpersFull):
            await policy.offload(policy.who, LARGE)
        leaving.cancel()
        await asyncio.gather(busy, leaving, return_exceptions=True)
        assert bound.helpers.queued == 0

    statistics = run(directory, test, processes=1, waiting=1).statistics
    assert statistics.calls == {
        Outcome.DONE: 3,
        Outcome.RAISED: 1,
        Outcome.REFUSED: 1,
        Outcome.LATE: 1,
        Outcome.LOST: 1,
        Outcome.LEFT: 1,
    }
    endings = {Ending.IDLE: 0, Ending.GROWN: 0, Ending.LATE: 1, Ending.LOST: 1, Ending.CLOSED: 1}
    assert statistics == Statistics(statistics.calls, 3, endings)
