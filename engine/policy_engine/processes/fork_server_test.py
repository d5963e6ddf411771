"""Worker processes are forked: what they share with each other, what they must not, and what an end of their server does."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from policy_engine.processes.fork_server import fork_here
from policy_engine.processes.forked import ForkServer, ForkServerLost
from testsupport.worker_pool import ask, pool_of, spec, until

_PROGRAM = """
import asyncio, sys
from policy_engine.processes import fork_server_test
server = fork_server_test.ForkServer.forked(fork_server_test.tell)
asyncio.run(fork_server_test.told_by_two(server))
"""


def tell(descriptors: Sequence[int]) -> int:
    """Tell, through the descriptor given, what this process would draw and what it has open."""
    from ssl import RAND_bytes

    (descriptor,) = descriptors
    drawn = [random.random(), str(uuid.uuid4()), RAND_bytes(8).hex(), os.urandom(8).hex()]
    sockets = [one.name for one in Path("/proc/self/fd").iterdir() if one.is_socket()]
    blocked = [int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
    os.write(
        descriptor, json.dumps({"drawn": drawn, "sockets": sockets, "own": descriptor, "blocked": blocked}).encode()
    )
    return 7


async def told_by_two(server: ForkServer) -> None:
    """Print what two processes forked one after the other tell, and how they end."""
    for _ in range(2):
        ours, theirs = socket.socketpair()
        process = await server.fork([theirs.fileno()])
        theirs.close()
        status = await process.wait()
        print(json.dumps(json.loads(ours.recv(1 << 16)) | {"status": status}))


def test_forked_processes_draw_other_numbers_and_hold_nothing_of_each_other(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )
    first, second = map(json.loads, done.stdout.splitlines())
    assert done.stderr == ""
    for one in (first, second):
        assert one["status"] == 7
        assert one["sockets"] == [str(one["own"])]
        assert one["blocked"] == []
    assert not set(first["drawn"]) & set(second["drawn"])


def test_nothing_is_forked_from_a_process_with_threads() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="threads"):
            fork_here(tell)
    finally:
        stop.set()
        thread.join()


def test_worker_processes_outlive_what_they_were_forked_from_and_are_replaced_all_the_same(tmp_path: Path) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, 2) as pool:
            await pool.apply(spec("one"))
            before = [int((await ask(tmp_path, worker))["x-pid"]) for worker in (0, 1)]
            server = pool.fork_servers.pid
            assert server is not None
            assert {_parent(pid) for pid in before} == {server}
            os.kill(server, signal.SIGKILL)
            await until(lambda: pool.fork_servers.pid is None)
            assert [int((await ask(tmp_path, worker))["x-pid"]) for worker in (0, 1)] == before
            os.kill(before[0], signal.SIGKILL)
            await until(lambda: not pool.complete)
            await until(lambda: pool.complete)
            answer = await ask(tmp_path, 0)
            assert answer["x-tag"] == "one"
            assert _parent(int(answer["x-pid"])) == pool.fork_servers.pid != server
            assert int((await ask(tmp_path, 1))["x-pid"]) == before[1]

    asyncio.run(run())


def test_the_process_to_fork_from_has_one_thread_and_ends_with_its_supervisor(tmp_path: Path) -> None:
    async def run() -> None:
        async with pool_of(tmp_path, 1) as pool:
            await pool.apply(spec("one"))
            pid = pool.fork_servers.pid
            assert pid is not None
            assert _status(pid)["Threads"] == "1"
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(pid, number)
            os.kill(int((await ask(tmp_path, 0))["x-pid"]), signal.SIGKILL)
            await until(lambda: not pool.complete)
            await until(lambda: pool.complete)
            assert pool.fork_servers.pid == pid
        await until(lambda: not _runs(pid))

    asyncio.run(run())


def test_policies_that_cannot_be_loaded_leave_nothing_to_fork_from(tmp_path: Path) -> None:
    (tmp_path / "registry.json").write_text("{")

    async def run() -> None:
        with pytest.raises(ForkServerLost):
            await ForkServer.started(str(tmp_path / "registry.json"), strict=False, level="warning", form="text")

    asyncio.run(run())


def _parent(pid: int) -> int:
    return int(_status(pid)["PPid"])


def _runs(pid: int) -> bool:
    try:
        return not _status(pid)["State"].startswith("Z")
    except FileNotFoundError:
        return False


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
