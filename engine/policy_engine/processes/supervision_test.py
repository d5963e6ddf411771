"""Workers as real processes: all have a configuration or none has it, the dead come back, nothing in flight is lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import grpc
import pytest

from policy_engine.processes import child as worker_child
from policy_engine.processes.channel import Message
from policy_engine.processes.child import WorkerFailed
from policy_engine.telemetry.exposition import exposition
from policy_engine.telemetry.metrics import add_samples
from policy_engine.telemetry.samples import Samples
from testsupport.collector import Collector, collector_running
from testsupport.envoy_messages import request_headers, response_headers
from testsupport.worker_pool import ask, pool_of, spec, stream_to, tag_of, until


def test_every_worker_gets_the_configuration_and_a_refused_one_changes_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with pool_of(tmp_path) as pool:
            assert not pool.complete
            await pool.apply(spec("one"))
            assert pool.complete
            assert [(await ask(tmp_path, worker))["x-tag"] for worker in (0, 1)] == ["one", "one"]
            with pytest.raises(WorkerFailed, match="not this one"):
                await pool.apply(spec("refuse"))
            assert [(await ask(tmp_path, worker))["x-tag"] for worker in (0, 1)] == ["one", "one"]

    asyncio.run(run())


def test_a_stream_in_flight_keeps_its_chain_over_a_change(tmp_path: Path) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, 1) as pool:
            await pool.apply(spec("one"))
            async with stream_to(tmp_path, 0) as stream:
                await stream.write(request_headers())
                await stream.read()
                await pool.apply(spec("two"))
                await stream.write(response_headers())
                assert tag_of(await stream.read(), "response_headers")["x-tag"] == "one"
            assert (await ask(tmp_path, 0))["x-tag"] == "two"

    asyncio.run(run())


def test_a_killed_worker_comes_back_with_the_configuration_and_spares_the_others(tmp_path: Path) -> None:
    async def run() -> None:
        changes = 0

        def changed() -> None:
            nonlocal changes
            changes += 1

        async with pool_of(tmp_path, 2, changed) as pool:
            await pool.apply(spec("one"))
            victim = int((await ask(tmp_path, 0))["x-pid"])
            async with stream_to(tmp_path, 1) as stream:
                await stream.write(request_headers())
                await stream.read()
                before = await pool.samples()
                os.kill(victim, signal.SIGKILL)
                await until(lambda: not pool.complete)
                await stream.write(response_headers())
                assert tag_of(await stream.read(), "response_headers")["x-tag"] == "one"
            await until(lambda: pool.complete)
            assert pool.restarts == 1
            answer = await ask(tmp_path, 0)
            assert answer["x-tag"] == "one"
            assert int(answer["x-pid"]) != victim
            # Counters of the dead worker are not lost.
            after = await pool.samples()
            assert total(after) == total(before) + 1
        assert changes >= 3

    asyncio.run(run())


def test_a_constructor_that_hangs_refuses_the_configuration_and_holds_up_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with pool_of(tmp_path) as pool:
            await pool.apply(spec("one"))
            applying = asyncio.ensure_future(pool.apply(spec("hang")))
            await asyncio.sleep(0.2)
            # Requests and metrics do not wait for it.
            async with asyncio.timeout(1.5):
                assert (await ask(tmp_path, 0))["x-tag"] == "one"
                assert total(await pool.samples()) >= 1
            assert not applying.done()
            with pytest.raises(WorkerFailed, match="its constructor did not return within 2 s"):
                await applying
            assert pool.complete
            await pool.apply(spec("two"))
            assert (await ask(tmp_path, 0))["x-tag"] == "two"
            # Nor does the end of the process.
            applying = asyncio.ensure_future(pool.apply(spec("hang")))
            await asyncio.sleep(0.2)
            async with asyncio.timeout(1.5):
                await pool.drain(5.0)
            with pytest.raises(WorkerFailed):
                await applying

    asyncio.run(run())


def test_a_worker_that_dies_over_its_configuration_is_started_one_at_a_time(tmp_path: Path) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, 1) as pool:
            await pool.apply(spec("one"))
            deadly = tmp_path / "policies" / "tag" / "v1_0_0" / "deadly"
            deadly.touch()
            os.kill(int((await ask(tmp_path, 0))["x-pid"]), signal.SIGKILL)
            most = 0
            async with asyncio.timeout(60):
                while pool.restarts < 5:
                    await asyncio.sleep(0.01)
                    most = max(most, len(children()))
            assert most == 1
            assert not pool.complete
            deadly.unlink()
            await until(lambda: pool.complete)
            await asyncio.sleep(1.0)
            assert len(children()) == 1
            assert (await ask(tmp_path, 0))["x-tag"] == "one"

    asyncio.run(run())


def test_a_worker_that_does_not_take_the_configuration_over_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_child, "COMMIT_SECONDS", 0.5)

    async def run() -> None:
        async with pool_of(tmp_path, 2) as pool:
            await pool.apply(spec("one"))
            worker = pool._children[0]
            commit = worker.commit

            async def stopped(turn: int, spec: Message) -> None:
                worker.process.send_signal(signal.SIGSTOP)
                await commit(turn, spec)

            worker.commit = stopped  # type: ignore[method-assign] # from outside, the moment would be a matter of luck
            await pool.apply(spec("two"))
            # What one worker has, all have: the silent one goes, and its successor begins with the new chains.
            assert not pool.complete
            await until(lambda: pool.complete)
            assert [(await ask(tmp_path, one))["x-tag"] for one in (0, 1)] == ["two", "two"]

    asyncio.run(run())


def children() -> list[str]:
    """Return the processes that this one started and that have not ended."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [one for one in listed if "State:\tZ" not in Path(f"/proc/{one}/status").read_text()]


@pytest.mark.parametrize(("detail", "expected"), [("policy", {"__other__"}), ("route", {"__other__"}), ("total", {""})])
def test_metrics_name_no_more_routes_than_they_are_to(tmp_path: Path, detail: str, expected: set[str]) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, 2, metrics=(detail, 0)) as pool:
            await pool.apply(spec("one"))
            for turn in (1, 2):
                for worker in (0, 1):
                    await ask(tmp_path, worker)
                samples = await pool.samples()
                named = {labels.get("route", "") for labels, _ in samples["policy_engine_requests"]}
                assert (named, total(samples)) == (expected, 2 * turn)

    asyncio.run(run())


def total(samples: Samples) -> float:
    return samples["policy_engine_requests"][0][1]


def test_draining_finishes_the_streams_in_flight(tmp_path: Path) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, 1) as pool:
            await pool.apply(spec("one"))
            async with stream_to(tmp_path, 0) as stream:
                await stream.write(request_headers())
                await stream.read()
                drained = asyncio.ensure_future(pool.drain(5.0))
                await asyncio.sleep(0.2)
                await stream.write(response_headers())
                assert tag_of(await stream.read(), "response_headers")["x-tag"] == "one"
                await stream.done_writing()
                assert await stream.code() == grpc.StatusCode.OK
            await drained

    asyncio.run(run())


def test_workers_share_a_unix_socket_that_the_supervisor_bound(tmp_path: Path) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, socket="w0.sock") as pool:
            await pool.apply(spec("one"))
            # All connections are answered, whichever worker takes them.
            answers = [await ask(tmp_path, 0) for _ in range(10)]
            assert {answer["x-tag"] for answer in answers} == {"one"}
        assert not (tmp_path / "w0.sock").exists()

    asyncio.run(run())


def test_grpcio_workers_cannot_share_a_unix_socket(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(OSError, match=re.escape("{worker}")):
            async with pool_of(tmp_path, transport="grpcio", socket="w0.sock"):
                pass
        async with pool_of(tmp_path / "own", transport="grpcio") as pool:
            await pool.apply(spec("one"))
            assert [(await ask(tmp_path / "own", worker))["x-tag"] for worker in (0, 1)] == ["one", "one"]

    asyncio.run(run())


def test_workers_send_their_spans_before_they_end(tmp_path: Path) -> None:
    async def scenario(collector: Collector) -> None:
        async with pool_of(tmp_path, tracing=f"http://127.0.0.1:{collector.port}") as pool:
            await pool.apply(spec("one"))
            for worker in (0, 1):
                await ask(tmp_path, worker)

    with collector_running() as collector:
        asyncio.run(scenario(collector))
        assert sorted(span.name for span in collector.spans) == ["policies r"] * 2 + ["policy tag"] * 2
        assert {one["service.instance.id"].rpartition("/")[2] for one in collector.resources} == {"0", "1"}


def test_samples_add_up_by_label_set() -> None:
    samples: Samples = {"policy_engine_requests": [({"route": "a"}, 1)], "policy_engine_workers": [({}, 1)]}
    add_samples(samples, {"policy_engine_requests": [({"route": "a"}, 2), ({"route": "b"}, 3)]})
    add_samples(samples, {"policy_engine_workers": [({}, 1)]}, keep_gauges=False)
    text = exposition(samples).decode()
    assert 'policy_engine_requests_total{route="a"} 3.0' in text
    assert 'policy_engine_requests_total{route="b"} 3.0' in text
    assert "policy_engine_workers 1.0" in text
