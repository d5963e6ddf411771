"""The admin pages as a browser and as machines ask for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from policy_engine.processes.channel import Message
from policy_engine.processes.trace_hub import TraceHub
from policy_engine.sdk.dependencies import DependencyState
from policy_engine.telemetry.admin import AdminServer, AdminSources
from policy_engine.telemetry.history import ConfigurationHistory
from policy_engine.telemetry.readiness import Check, dependency_check
from policy_engine.telemetry.samples import Samples
from policy_engine.worker.chains.spec import ChainsSpec

Get = Callable[[str, dict[str, str]], Awaitable[tuple[int, str]]]


async def no_samples() -> Samples:
    return {}


async def tell(key: str, message: Message) -> None:
    pass


async def set_log_level(level: str) -> None:
    pass


def ask(
    history: ConfigurationHistory,
    requests: list[tuple[str, dict[str, str]]],
    *,
    probes_only: bool = False,
    hosts: tuple[str, ...] = (),
    checks: tuple[Check, ...] = (),
) -> list[tuple[int, str]]:
    async def run() -> list[tuple[int, str]]:
        build = {"engine": "1.0.0", "policies": []}
        sources = AdminSources(
            lambda: (True, "ready"),
            no_samples,
            history,
            lambda: build,
            dict,
            list,
            TraceHub(tell, tell),
            set_log_level,
            checks=lambda: checks,
        )
        server = AdminServer("127.0.0.1:0", sources, probes_only=probes_only, hosts=hosts)
        await server.start()
        answers = []
        try:
            async with aiohttp.ClientSession() as session:
                for path, headers in requests:
                    async with session.get(f"http://{server.address}{path}", headers=headers) as response:
                        answers.append((response.status, await response.text()))
        finally:
            await server.close()
        return answers

    return asyncio.run(run())


LOCAL = ["localhost", "LOCALHOST:9003", "127.0.0.1", "127.0.0.1:80", "127.9.9.9:1", "[::1]", "[::1]:9003", "localhost."]
FOREIGN = [
    "evil.example",
    "evil.example:9003",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "10.0.0.1",
    "[::2]:1",
]


@pytest.mark.parametrize("path", ["/", "/chains", "/history", "/settings", "/livez", "/metrics", "/no-such-page"])
def test_a_page_of_the_internet_cannot_read_the_pages(path: str) -> None:
    requests = [(path, {"host": host}) for host in (*LOCAL, *FOREIGN, "engine.example:8443")]
    answers = ask(ConfigurationHistory(), requests, hosts=("engine.example",))
    wanted = 404 if path == "/no-such-page" else 200
    assert [status for status, _ in answers] == [*[wanted] * len(LOCAL), *[403] * len(FOREIGN), wanted]
    assert "admin.hosts" in answers[len(LOCAL)][1]


def test_probes_are_for_everybody() -> None:
    requests = [("/livez", {"host": host}) for host in ("10.1.2.3:9004", "evil.example")]
    assert [status for status, _ in ask(ConfigurationHistory(), requests, probes_only=True)] == [200, 200]


def test_a_rejection_is_shown_until_there_is_a_newer_good_load() -> None:
    history = ConfigurationHistory()
    history.reject("chains.yaml", ["chains.yaml:1:1: <wrong>", "second\n  ^"])
    ((_, refused),) = ask(history, [("/", {})])
    assert "The last change was refused" in refused
    assert "chains.yaml:1:1: &lt;wrong&gt;" in refused
    assert "<pre>second\n  ^</pre>" in refused
    assert '"problems"' not in refused
    history.accept(ChainsSpec(()), "v", "chains.yaml")
    ((_, mended),) = ask(history, [("/", {})])
    assert "The last change was refused" not in mended


def test_a_server_that_does_not_answer_is_named_and_the_engine_stays_ready() -> None:
    states = [
        DependencyState("jwks", "https://idp.example/keys", True, 0.0, 2, "status 500"),
        DependencyState("redis", "redis://<cache>:6379", False, 12.3, 1, "ConnectionRefusedError"),
        DependencyState("redis", "redis://other:6379", None, 0.0, 0, ""),
    ]
    checks = (Check("worker processes", True, "2 of 2 serve"), *map(dependency_check, states))
    down = "redis redis://<cache>:6379 has not answered for 12 s (1 error, last: ConnectionRefusedError)"
    short, verbose, page = ask(
        ConfigurationHistory(), [("/readyz", {}), ("/readyz?verbose", {}), ("/", {})], checks=checks
    )
    assert short == (200, f"ready\ndegraded: {down}\n")
    assert verbose == (
        200,
        "[+]worker processes: 2 of 2 serve\n"
        "[+]jwks https://idp.example/keys: answers\n"
        f"[-]{down.replace('6379 ', '6379: ')}\n"
        "[+]redis redis://other:6379: not asked yet\n"
        "readyz check passed: ready\n",
    )
    assert "redis redis://&lt;cache&gt;:6379 has not answered" in page[1]
