"""Which socket goes to which worker process, what is bound anew, and what is left behind."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from policy_engine.processes.listening import Given, Listening, PoolSockets
from policy_engine.processes.pool import WorkerPool
from policy_engine.processes.worker_options import worker_options
from policy_engine.settings.loading import Settings
from policy_engine.transport.listen import bind, bound_address, is_bound_to
from testsupport.worker_pool import pool_of, spec, until


@pytest.fixture
def place() -> Iterator[Path]:
    """Not pytest's directory: the path of a Unix socket must be short (108 bytes, unix(7))."""
    with tempfile.TemporaryDirectory(prefix="ls-", dir="/tmp") as name:
        yield Path(name)


async def never(reason: str, delay: float) -> float:
    raise AssertionError(reason)


def test_what_was_given_is_used_and_everything_else_is_bound(place: Path) -> None:
    own = [f"unix:{place}/w{number}.sock" for number in range(3)]
    given = Given([Listening(one, bind(one)) for one in (own[0], own[2], "127.0.0.1:0")])
    options = replace(
        worker_options(Settings(), None), bind=(f"unix:{place}/w{{worker}}.sock", "127.0.0.1:0", f"unix:{place}/s.sock")
    )
    sockets = PoolSockets(options, 2, given)
    asyncio.run(sockets.open(never))
    assert set(given.taken) == {own[0], "127.0.0.1:0"}
    first, second = sockets.options(0), sockets.options(1)
    assert (first.bind, list(first.taken), list(second.taken)) == ((own[0],), [own[0]], [])
    shared = [one.sock.fileno() for one in sockets.shared()]
    assert first.inherited[:-1] == tuple(shared)
    assert first.taken[own[0]] == len(shared)
    assert second.inherited == tuple(shared)
    # Once it listens, it alone has it: one that is started in its place binds anew.
    descriptor = first.inherited[-1]
    sockets.passed(0)
    assert sockets.options(0).taken == {}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    given.close()
    sockets.release(frozenset({f"unix:{place}/s.sock"}))
    assert (place / "s.sock").exists()


def test_addresses_that_nobody_serves_any_more_are_removed(place: Path) -> None:
    options = replace(worker_options(Settings(), None), bind=(f"unix:{place}/a.sock?mode=0600", f"unix:{place}/b.sock"))
    sockets = PoolSockets(options, 2, Given())
    asyncio.run(sockets.open(never))
    sockets.release(frozenset({f"unix:{place}/a.sock?mode=0600"}))
    sockets.release()
    assert [one.name for one in place.iterdir()] == ["a.sock"]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("127.0.0.1:{}", True),
        ("localhost:{}", True),
        ("127.0.0.1:0", False),
        ("127.0.0.2:{}", False),
        ("[::1]:{}", False),
    ],
)
def test_an_address_is_told_from_others(text: str, same: bool, place: Path) -> None:
    with bind("127.0.0.1:0") as sock, bind(f"unix:{place}/s.sock") as unix:
        port = bound_address(sock).rpartition(":")[2]
        assert is_bound_to(sock, text.format(port)) is same
        assert not is_bound_to(unix, text.format(port))
        assert not is_bound_to(sock, f"unix:{place}/s.sock")
        assert is_bound_to(unix, f"unix:{place}/s.sock?mode=0600")
        assert not is_bound_to(unix, f"unix:{place}/other.sock")


def test_a_worker_process_gets_what_it_shares_also_when_its_own_address_was_in_use(place: Path) -> None:
    async def run(pool: WorkerPool, blocked: socket.socket, shared: Path) -> None:
        await pool.apply(spec("one"))
        assert not pool.complete
        blocked.close()
        await until(lambda: pool.complete)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(shared))
            client.settimeout(10)
            assert await asyncio.to_thread(client.recv, 9)  # our SETTINGS

    async def scenario() -> None:
        blocked = bind(f"unix:{place}/w0.sock")
        async with pool_of(place, 2, listen=f"unix:{place}/w{{worker}}.sock,unix:{place}/s.sock") as pool:
            await run(pool, blocked, place / "s.sock")

    asyncio.run(scenario())
