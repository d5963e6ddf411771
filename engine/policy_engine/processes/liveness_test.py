"""Worker processes that hang, die or cannot listen: they are replaced or tried again, and no configuration pays for it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from policy_engine.processes import pool as worker_pool
from policy_engine.processes.child import WorkerFailed
from policy_engine.sources.chain_file import load_chain_paths
from policy_engine.sources.validate import chain_reader
from policy_engine.worker.chains.spec import ChainsSpec
from policy_engine.worker.policies.loader import load_policies
from testsupport.envoy_messages import request_headers
from testsupport.worker_pool import ask, pool_of, spec, stream_to, until

TIMEOUT = 1.0
"""Seconds of silence after which these tests' worker processes are replaced."""


@pytest.fixture(params=["native", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def test_a_stopped_worker_process_is_not_serving_and_then_replaced(
    tmp_path: Path, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, transport=transport, worker_timeout=TIMEOUT) as pool:
            await pool.apply(spec("one"))
            victim = int((await ask(tmp_path, 0))["x-pid"])
            os.kill(victim, signal.SIGSTOP)
            await until(lambda: pool.serving == 1)
            assert "worker process 0 has given no sign of life" in pool.trouble
            assert (await ask(tmp_path, 1))["x-tag"] == "one"
            await pool.samples()
            await until(lambda: pool.complete)
            assert (pool.hangs, pool.restarts, pool.trouble) == (1, 1, "")
            answer = await ask(tmp_path, 0)
            assert (answer["x-tag"], answer["x-pid"] != str(victim)) == ("one", True)

    asyncio.run(run())
    assert "stopped from outside" in caplog.text


def test_one_that_hangs_in_c_code_is_named_with_its_policy_and_route(
    tmp_path: Path, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, transport=transport, worker_timeout=TIMEOUT) as pool:
            await pool.apply(spec("hold"))
            async with stream_to(tmp_path, 1) as stream:
                await stream.write(request_headers())
                await until(lambda: pool.hangs == 1)
            await until(lambda: pool.complete)

    asyncio.run(run())
    assert re.search(r"in \S+/tag/v1_0_0/policy\.py, line \d+, in on_request_headers", caplog.text)
    assert "the chain that ran last is that of route 'r'" in caplog.text


def test_one_that_goes_on_in_time_is_left_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, worker_timeout=8.0) as pool:
            await pool.apply(spec("one"))
            victim = int((await ask(tmp_path, 0))["x-pid"])
            os.kill(victim, signal.SIGSTOP)
            await until(lambda: not pool.complete)
            os.kill(victim, signal.SIGCONT)
            await until(lambda: pool.complete)
            assert int((await ask(tmp_path, 0))["x-pid"]) == victim
            assert (pool.hangs, pool.restarts) == (0, 0)

    asyncio.run(run())


def test_time_in_which_the_supervisor_itself_does_not_run_is_no_silence(tmp_path: Path) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, worker_timeout=TIMEOUT) as pool:
            await pool.apply(spec("one"))
            # As a stopped supervisor, or one on a machine that was suspended: no look and no message for a while.
            _hold_this_loop(3 * TIMEOUT)
            await asyncio.sleep(TIMEOUT / 2)
            assert (pool.hangs, pool.complete) == (0, True)

    asyncio.run(run())


def _hold_this_loop(seconds: float) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.settimeout(seconds)
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(TimeoutError):
            nobody.recv(1)


def test_a_change_is_applied_by_those_that_live_and_by_the_successor(tmp_path: Path, transport: str) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, transport=transport, worker_timeout=TIMEOUT) as pool:
            await pool.apply(spec("one"))
            os.kill(int((await ask(tmp_path, 0))["x-pid"]), signal.SIGSTOP)
            await pool.apply(spec("two"))
            assert (await ask(tmp_path, 1))["x-tag"] == "two"
            await until(lambda: pool.complete)
            assert (await ask(tmp_path, 0))["x-tag"] == "two"

    asyncio.run(run())


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("wait", [0.0, 0.01, 0.03, 0.06, 0.09])
def test_a_death_meanwhile_does_not_speak_against_a_change(tmp_path: Path, count: int, wait: float) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, count) as pool:
            await pool.apply(spec("one"))
            pids = [int((await ask(tmp_path, number))["x-pid"]) for number in range(count)]
            applying = asyncio.ensure_future(pool.apply(spec("two")))
            await asyncio.sleep(wait)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            await applying
            await until(lambda: pool.complete)
            assert [(await ask(tmp_path, number))["x-tag"] for number in range(count)] == ["two"] * count

    asyncio.run(run())


@pytest.mark.parametrize("deadly", ["die", "stop"])
def test_chains_that_every_worker_process_dies_of_are_refused_and_the_old_ones_serve(
    tmp_path: Path, deadly: str
) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, worker_timeout=TIMEOUT) as pool:
            await pool.apply(spec("one"))
            with pytest.raises(WorkerFailed, match="every worker process ended while it took them, 3 times"):
                await pool.apply(spec(deadly))
            await until(lambda: pool.complete)
            assert [(await ask(tmp_path, one))["x-tag"] for one in (0, 1)] == ["one", "one"]
            await pool.apply(spec("two"))

    asyncio.run(run())


@pytest.mark.parametrize("count", [1, 2])
def test_an_address_in_use_is_tried_again_and_is_no_fault_of_the_chains(
    tmp_path: Path, transport: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (transport, count) == ("grpcio", 2):
        pytest.skip("its processes share ports by SO_REUSEPORT, which a listener without it does not allow either")
    monkeypatch.setattr(worker_pool, "LONGEST_RETRY_SECONDS", 0.2)

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"127.0.0.1:{other.getsockname()[1]}"
            opening = pool_of(tmp_path, count, transport=transport, listen=address)
            entering = asyncio.ensure_future(opening.__aenter__())
            if count == 1:
                pool = await entering
                await pool.apply(spec("one"))
                assert (pool.serving, address in pool.trouble) == (0, True)
            await asyncio.sleep(0.5)
        pool = await entering
        if count > 1:
            await pool.apply(spec("one"))
        await until(lambda: pool.complete)
        assert pool.trouble == ""
        await opening.__aexit__(None, None, None)

    asyncio.run(run())


def test_a_live_engines_unix_socket_is_not_taken_from_it(tmp_path: Path, transport: str) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, 1, transport=transport) as first:
            await first.apply(spec("one"))
            async with pool_of(tmp_path, 1, transport=transport) as second:
                await second.apply(spec("two"))
                assert second.serving == 0
                assert (await ask(tmp_path, 0))["x-tag"] == "one"

    asyncio.run(run())


def test_draining_does_not_wait_for_one_that_hangs(tmp_path: Path, transport: str) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, transport=transport, worker_timeout=TIMEOUT) as pool:
            await pool.apply(spec("one"))
            os.kill(int((await ask(tmp_path, 0))["x-pid"]), signal.SIGSTOP)
            async with asyncio.timeout(15):
                await pool.drain(30.0)

    asyncio.run(run())


def test_a_version_stays_what_it_was_when_a_newer_one_lies_there(tmp_path: Path) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, 1) as pool:
            chains = _read(tmp_path / "policies", tmp_path)
            await pool.apply(chains)
            newer = tmp_path / "policies" / "tag" / "v1_1_0"
            older = newer.with_name("v1_0_0")
            newer.mkdir()
            (newer / "policy.yaml").write_text((older / "policy.yaml").read_text().replace("v1.0.0", "v1.1.0"))
            (newer / "policy.py").write_text((older / "policy.py").read_text().replace("self.value,", "'newer',"))
            os.kill(int((await ask(tmp_path, 0))["x-pid"]), signal.SIGKILL)
            await until(lambda: not pool.complete)
            await until(lambda: pool.complete)
            assert (await ask(tmp_path, 0))["x-tag"] == "one"
            assert _versions(await pool.samples()) == {"v1.0.0"}

    asyncio.run(run())


def _read(policies: Path, directory: Path) -> ChainsSpec:
    file = directory / "chains.yaml"
    file.write_text(
        "version: v1\nroutes: [{route_key: r, policies: [{name: tag, version: v1, parameters: {value: one}}]}]\n"
    )
    loaded = load_chain_paths([file], chain_reader(load_policies(policies)))
    assert loaded.chains is not None, loaded.diagnostics
    return loaded.chains


def _versions(samples: object) -> set[str]:
    assert isinstance(samples, dict)
    return {labels["version"] for labels, _ in samples["policy_engine_policy_short_circuits"]}


def test_pool_documents_say_what_each_worker_process_does(tmp_path: Path) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, 2) as pool:
            assert [one["state"] for one in pool.as_documents()] == ["not listening"] * 2
            await pool.apply(spec("one"))
            assert [one["state"] for one in pool.as_documents()] == ["serving"] * 2

    asyncio.run(run())
