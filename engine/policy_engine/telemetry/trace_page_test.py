"""`/trace` and `/log-level`: who is let in, what is sent, and that nobody is recorded for who is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from policy_engine.processes.channel import Message
from policy_engine.processes.trace_hub import MOST_CHARACTERS, MOST_LISTENERS, MOST_WAITING, Listener, TraceHub
from policy_engine.telemetry import trace_page
from policy_engine.telemetry.admin import AdminServer, AdminSources
from policy_engine.telemetry.history import ConfigurationHistory
from policy_engine.telemetry.samples import Samples


@dataclass
class Told:
    """What worker processes would have been told."""

    messages: list[tuple[str, Message]] = field(default_factory=list)
    levels: list[str] = field(default_factory=list)

    async def tell(self, key: str, message: Message) -> None:
        self.messages.append((key, message))

    async def set_level(self, level: str) -> None:
        self.levels.append(level)


@dataclass
class Running:
    address: str
    session: aiohttp.ClientSession
    hub: TraceHub
    told: Told
    server: AdminServer

    def url(self, path: str) -> str:
        return f"http://{self.address}{path}"

    async def status(self, method: str, path: str, **how: Any) -> tuple[int, str]:
        async with self.session.request(method, self.url(path), **how) as response:
            return response.status, await response.text()

    @asynccontextmanager
    async def listening(self, query: str = "") -> AsyncIterator[aiohttp.ClientResponse]:
        async with self.session.get(self.url(f"/trace{query}")) as response:
            assert response.status == 200, await response.text()
            assert (await response.content.readline()).startswith(b": ")
            yield response


async def no_samples() -> Samples:
    return {}


def with_pages(test: Callable[[Running], Any]) -> None:
    async def run() -> None:
        told = Told()
        hub = TraceHub(told.tell, told.tell)
        build = {"engine": "1.0.0", "policies": []}
        history = ConfigurationHistory()
        sources = AdminSources(
            lambda: (True, "ready"), no_samples, history, lambda: build, dict, list, hub, told.set_level
        )
        server = AdminServer("127.0.0.1:0", sources)
        await server.start()
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
                await test(Running(server.address, session, hub, told, server))
        finally:
            await asyncio.wait_for(server.close(), 10)

    asyncio.run(run())


async def events(response: aiohttp.ClientResponse) -> list[tuple[str, Any]]:
    found, event = [], ""
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if line.startswith("event: "):
            event = line[7:]
        elif line.startswith("data: "):
            found.append((event, json.loads(line[6:])))
    return found


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - whatever it is that is waited for
            await asyncio.sleep(0.01)


def test_records_come_until_the_limit_to_those_who_want_them() -> None:
    async def test(running: Running) -> None:
        async with running.listening("?limit=2&route=a*&where=request.path%20==%20'/x'&bodies=10") as response:
            key, message = running.told.messages[0]
            wanted = {"number": 1, "route": "a*", "where": "request.path == '/x'", "bodies": 10}
            assert message == {"trace": wanted}
            running.hub.heard({"traced": [([1], {"n": 1}), ([7], {"n": 2}), ([7, 1], {"n": 3})], "dropped": 0})
            assert await events(response) == [("record", {"n": 1}), ("record", {"n": 3}), ("end", {"reason": "limit"})]
        await until(lambda: running.told.messages[-1] == (key, {"untrace": 1}))

    with_pages(test)


def test_an_end_after_seconds() -> None:
    async def test(running: Running) -> None:
        async with running.listening("?seconds=0.2") as response:
            assert await events(response) == [("end", {"reason": "seconds"})]

    with_pages(test)


def test_nothing_is_recorded_any_more_for_a_listener_that_is_gone() -> None:
    async def test(running: Running) -> None:
        async with running.listening() as response:
            response.close()
        await until(lambda: running.told.messages[-1][1] == {"untrace": 1})

    with_pages(test)


def test_several_listen_at_once_but_not_without_end() -> None:
    async def test(running: Running) -> None:
        responses = [await running.session.get(running.url("/trace")) for _ in range(MOST_LISTENERS)]
        assert {one.status for one in responses} == {200}
        status, text = await running.status("GET", "/trace")
        assert (status, str(MOST_LISTENERS) in text) == (503, True)
        running.hub.heard({"traced": [([1, 2], {"n": 1})], "dropped": 0})
        for one in responses[:2]:
            assert b"records" in await one.content.readline()
            await one.content.readline()
            assert await one.content.readline() == b"event: record\n"
        for one in responses:
            one.close()
        await until(lambda: sum("untrace" in message for _, message in running.told.messages) == MOST_LISTENERS)
        assert (await running.status("GET", "/trace?seconds=0.1"))[0] == 200

    with_pages(test)


def test_what_is_too_much_is_dropped_and_said() -> None:
    async def test(running: Running) -> None:
        async with running.listening(f"?limit={MOST_WAITING}") as response:
            records = [([1], {"n": number}) for number in range(MOST_WAITING + 5)]
            running.hub.heard({"traced": records, "dropped": 3})
            found = await events(response)
        assert [event for event, _ in found].count("record") == MOST_WAITING
        async with running.listening("?seconds=1") as response:
            running.hub.heard({"traced": [], "dropped": 3})
            assert ("dropped", {"dropped": 3}) in await events(response)

    with_pages(test)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("where=request.pth%20==%20'x'", "request.pth"),
        ("where=request.path", "true or false"),
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("seconds=-1", "seconds"),
        ("seconds=nan", "seconds"),
        ("bodies=9999999", "bodies"),
        ("rute=x", "rute"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(query: str, said: str) -> None:
    async def test(running: Running) -> None:
        status, text = await running.status("GET", f"/trace?{query}")
        assert (status, said in text) == (400, True), text
        assert running.told.messages == []

    with_pages(test)


@asynccontextmanager
async def not_reading(running: Running, query: str = "") -> AsyncIterator[None]:
    """Listen, and take nothing more than fits into the buffers between."""
    host, _, port = running.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1000)
    writer.write(f"GET /trace{query} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
    await until(lambda: len(running.told.messages) == 1)
    for _ in range(100):
        running.hub.heard({"traced": [([1], {"text": "x" * 100_000})] * 10, "dropped": 0})
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        writer.close()


def test_a_listener_that_never_reads_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_page, "STALLED_SECONDS", 0.5)

    async def test(running: Running) -> None:
        async with not_reading(running):
            await until(lambda: running.told.messages[-1][1] == {"untrace": 1})

    with_pages(test)


def test_the_server_ends_while_a_listener_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_page, "STALLED_SECONDS", 60.0)

    async def test(running: Running) -> None:
        async with not_reading(running):
            await asyncio.wait_for(running.server.close(), 10)
        assert running.told.messages[-1][1] == {"untrace": 1}

    with_pages(test)


def test_bodies_that_wait_for_a_listener_are_bounded() -> None:
    listener = Listener(1)
    for _ in range(20):
        listener.add({"request": {"body": "x" * (MOST_CHARACTERS // 4)}, "answer": None})
    records, dropped = asyncio.run(listener.take(1))
    assert (len(records), dropped) == (4, 16)
    listener.add({"request": {"body": "x" * (MOST_CHARACTERS // 4)}})
    assert len(asyncio.run(listener.take(1))[0]) == 1


def test_the_server_ends_without_waiting_for_listeners() -> None:
    async def test(running: Running) -> None:
        async with running.listening() as response:
            closing = asyncio.ensure_future(running.server.close())
            assert ("end", {"reason": "the engine stops"}) in await events(response)
            await asyncio.wait_for(closing, 10)

    with_pages(test)


FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize(("method", "path"), [("PUT", "/log-level"), ("POST", "/log-level"), ("GET", "/trace")])
def test_a_page_of_another_origin_makes_the_engine_do_nothing(method: str, path: str, headers: dict[str, str]) -> None:
    async def test(running: Running) -> None:
        status, _ = await running.status(method, path, headers=headers, data="debug" if method != "GET" else None)
        assert status == 403
        assert (running.told.messages, running.told.levels) == ([], [])

    with_pages(test)


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("body", ["debug", " DEBUG\n", '"debug"', '{"level": "debug"}', ""])
def test_the_log_level_is_set(method: str, body: str) -> None:
    async def test(running: Running) -> None:
        path = "/log-level" if body else "/log-level?level=debug"
        assert await running.status(method, path, data=body) == (200, '{\n "level": "debug"\n}\n')
        assert running.told.levels == ["debug"]
        own = {"origin": f"http://{running.address}", "sec-fetch-site": "same-origin"}
        assert (await running.status(method, path, data=body, headers=own))[0] == 200

    with_pages(test)


@pytest.mark.parametrize("body", ["", "loud", "[]", "{}", "1", '{"level": 3}', "debug info"])
def test_no_level_is_refused_with_those_there_are(body: str) -> None:
    async def test(running: Running) -> None:
        status, text = await running.status("PUT", "/log-level", data=body)
        assert (status, "debug, info, warning, error" in text) == (400, True)
        assert running.told.levels == []

    with_pages(test)
