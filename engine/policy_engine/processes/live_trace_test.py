"""The live trace over real worker processes: all record while somebody listens, those started anew too, then none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from policy_engine.explain.live import Filter
from policy_engine.processes.channel import Message
from policy_engine.processes.pool import WorkerPool
from policy_engine.processes.trace_hub import Listener, TraceHub
from testsupport.worker_pool import ask, pool_of, spec, until


class Heard:
    """What worker processes sent, and the hub that hears it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.hub: TraceHub | None = None

    def told(self, message: Message) -> None:
        self.messages.append(message)
        if self.hub is not None:
            self.hub.heard(message)

    def listen_to(self, pool: WorkerPool) -> TraceHub:
        self.hub = TraceHub(pool.tell, pool.withdraw)
        return self.hub


async def records(listener: Listener, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += (await listener.take(1.0))[0]
    return found


def test_every_worker_process_records_while_somebody_listens_and_none_after_it(tmp_path: Path) -> None:
    async def run() -> None:
        heard = Heard()
        async with pool_of(tmp_path, 2, told=heard.told) as pool:
            hub = heard.listen_to(pool)
            await pool.apply(spec("one"))
            for worker in (0, 1):
                await ask(tmp_path, worker)
            assert heard.messages == []
            first, second = await hub.listen(Filter()), await hub.listen(Filter(where="request.method == 'PUT'"))
            for worker in (0, 1):
                await ask(tmp_path, worker)
            found = await records(first, 2)
            assert {one["worker"] for one in found} == {0, 1}
            assert {one["hooks"][0]["policy"] for one in found} == {"tag"}
            assert await second.take(0.01) == ([], 0)
            await hub.leave(first)
            await hub.leave(second)
            heard.messages.clear()
            for worker in (0, 1):
                await ask(tmp_path, worker)
            await asyncio.sleep(0.2)
            assert heard.messages == []

    asyncio.run(run())


def test_a_worker_process_that_is_started_anew_records_for_those_who_listen(tmp_path: Path) -> None:
    async def run() -> None:
        heard = Heard()
        async with pool_of(tmp_path, 1, told=heard.told) as pool:
            hub = heard.listen_to(pool)
            await pool.apply(spec("one"))
            listener = await hub.listen(Filter(route="*"))
            before = pool.as_documents()[0]["pid"]
            pool._children[0].kill()
            await until(lambda: pool.complete and pool.as_documents()[0].get("pid") not in (None, before))
            await ask(tmp_path, 0)
            (found,) = await records(listener, 1)
            assert found["verdict"] == "passed"

    asyncio.run(run())


def test_one_that_cannot_answer_does_not_keep_a_listener_waiting(tmp_path: Path) -> None:
    async def run() -> None:
        heard = Heard()
        async with pool_of(tmp_path, 2, told=heard.told) as pool:
            hub = heard.listen_to(pool)
            await pool.apply(spec("one"))
            pool._children[0].kill()
            async with asyncio.timeout(10):
                listener = await hub.listen(Filter())
            await ask(tmp_path, 1)
            assert len(await records(listener, 1)) == 1

    asyncio.run(run())
