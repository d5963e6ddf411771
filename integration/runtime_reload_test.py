"""`run --reload` behind Envoy: new code in new worker processes, nothing in flight lost, broken code never used."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration.harness import client
from integration.harness.chain_file import policy
from integration.runtime_stack import Runtime, eventually, started

MANIFEST = """\
name: saying
version: v1.0.0
description: Says what it was written with.
entrypoint: policy:Saying
phases: [request_headers]
"""
CODE = """\
import asyncio

from policy_engine.sdk import Counter, ImmediateResponse, Policy

from .word import WORD


class Saying(Policy):
    said = Counter("Answers.")

    async def on_request_headers(self, request):
        if request.path.endswith("/slow"):
            await asyncio.sleep(3)
        self.said.inc()
        return ImmediateResponse(200, WORD)
"""
CHAINS = {"say": [policy("saying", "v1", timeout="20s")]}


class Policies:
    """A directory of one policy, of which a test changes the code."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "saying" / "v1_0_0"
        self.directory.mkdir(parents=True)
        (self.directory / "policy.yaml").write_text(MANIFEST)
        (self.directory / "policy.py").write_text(CODE)
        self.say("one")

    def say(self, word: str) -> None:
        """Have it say another word: a module beside `policy.py` changes."""
        (self.directory / "word.py").write_text(f"WORD = {word!r}\n")


@pytest.fixture
def policies(tmp_path: Path) -> Policies:
    return Policies(tmp_path)


@contextmanager
def reloading(policies: Policies, workers: int = 2) -> Iterator[Runtime]:
    settings = {"WORKERS": str(workers), "LOG_FORMAT": "text"}
    with started(CHAINS, transport="native", policies=policies.root, settings=settings, flags=["--reload"]) as runtime:
        yield runtime


def said(runtime: Runtime) -> str:
    return runtime.send("/say/").body.decode()


class Traffic:
    """Requests, one after the other, from several threads."""

    def __init__(self, runtime: Runtime) -> None:
        self.replies: list[tuple[int, bytes]] = []
        self._runtime = runtime
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(4)]

    def __enter__(self) -> Traffic:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for one in self._threads:
            one.join()

    def _send(self) -> None:
        while not self._over.is_set():
            reply = client.send(self._runtime.envoy.port, "GET", "/say/")
            self.replies.append((reply.status, reply.body))
            time.sleep(0.005)


@pytest.mark.parametrize("workers", [1, 2])
def test_new_code_takes_over_and_no_request_is_lost(policies: Policies, workers: int) -> None:
    with reloading(policies, workers) as runtime:
        assert said(runtime) == "one"
        before = {one["pid"] for one in runtime.engine.admin.document("/workers")["processes"]}
        slow: list[bytes] = []
        held = threading.Thread(target=lambda: slow.append(runtime.send("/say/slow").body))
        held.start()
        eventually(lambda: runtime.active() > 0, "in flight")
        with Traffic(runtime) as traffic:
            policies.say("two")
            eventually(lambda: said(runtime) == "two", "reloaded")
            eventually(lambda: [body for _, body in traffic.replies[-20:]] == [b"two"] * 20, "all on the new code")
        held.join()
        assert {status for status, _ in traffic.replies} == {200}
        assert slow == [b"one"], "what was in flight finished on the code it began with"
        now = {one["pid"] for one in runtime.engine.admin.document("/workers")["processes"]}
        assert len(now) == workers
        assert not before & now
        answers = len(traffic.replies) + len(slow)
        eventually(lambda: runtime.value("policy_saying_said_total") >= answers, "all that was counted is kept")
        assert runtime.value("policy_engine_worker_restarts_total") == 0


@pytest.mark.parametrize(
    ("broken", "shown"),
    [
        ("WORD = 'two\n", ("SyntaxError", "word.py", "WORD = 'two")),
        ("import nowhere\n", ("ModuleNotFoundError", "word.py", "import nowhere")),
        ("WORD = 1 / 0\n", ("ZeroDivisionError", "word.py", "WORD = 1 / 0")),
    ],
)
def test_code_that_cannot_be_imported_is_shown_and_the_old_stays(
    policies: Policies, broken: str, shown: tuple[str, ...]
) -> None:
    with reloading(policies, 1) as runtime:
        (policies.directory / "word.py").write_text(broken)
        eventually(lambda: "what ran before goes on" in runtime.engine.log(), "refused", 5)
        log = runtime.engine.log()
        assert all(one in log for one in shown), log
        assert "Traceback (most recent call last)" in log or "SyntaxError" in shown
        assert said(runtime) == "one"
        policies.say("three")
        eventually(lambda: said(runtime) == "three", "mended")


def test_chains_that_do_not_fit_keep_the_old_code_until_they_do(policies: Policies) -> None:
    with reloading(policies, 1) as runtime:
        (policies.directory / "policy.yaml").write_text(
            MANIFEST + "parameters: {type: object, required: [a], properties: {a: {type: string}}}\n"
        )
        policies.say("two")
        eventually(lambda: "lacks the required" in runtime.engine.log(), "refused")
        assert said(runtime) == "one"
        runtime.swap({"say": [policy("saying", "v1", {"a": "x"}, timeout="20s")]})
        eventually(lambda: said(runtime) == "two", "reloaded")


def test_a_new_version_is_found_without_a_restart(policies: Policies) -> None:
    with reloading(policies, 1) as runtime:
        newer = policies.root / "saying" / "v1_1_0"
        newer.mkdir()
        (newer / "policy.yaml").write_text(MANIFEST.replace("v1.0.0", "v1.1.0"))
        (newer / "word.py").write_text("WORD = 'newer'\n")
        (newer / "policy.py").write_text(CODE)
        eventually(lambda: said(runtime) == "newer", "the newest v1")


def test_settings_under_which_nothing_can_be_reloaded_are_refused(policies: Policies) -> None:
    with pytest.raises(Exception, match="native"):  # noqa: SIM117 - it is the start that fails
        with started(CHAINS, transport="grpcio", policies=policies.root, tcp=True, flags=["--reload"]):
            pass
