"""Instances are closed by one mechanism wherever they are given up, also those whose `close` is a coroutine."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import policy_engine
from policy_engine.envoy.demands import demands_of
from policy_engine.kernel.kernel import Kernel
from policy_engine.sdk import Policy
from policy_engine.settings.model import Settings
from policy_engine.worker.chains.closing import close_chains
from policy_engine.worker.chains.compiler import CompileError, Compiler
from policy_engine.worker.policies import closing
from policy_engine.worker.policies.closing import close_now, close_soon, give_up
from policy_engine.worker.policies.construction import Overrun
from policy_engine.worker.policies.registry import Registry
from policy_engine.worker.policies.trial import Trial, construct_on_trial
from testsupport.chains import chains, define, engine

closed: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_closed() -> None:
    closed.clear()


class Slow(Policy):
    """Its close has to be awaited."""

    def on_request_headers(self, request: Any) -> None: ...

    async def close(self) -> None:
        await asyncio.sleep(0.01)
        closed.append("slow")


class Plain(Policy):
    """Closes at once."""

    def on_request_headers(self, request: Any) -> None: ...

    def close(self) -> None:
        closed.append("plain")


class Fails(Policy):
    """Neither its close nor its constructor's second call is any good."""

    def on_request_headers(self, request: Any) -> None: ...

    async def close(self) -> None:
        raise OSError("on purpose")


class Broken(Policy):
    """Cannot be constructed."""

    def __init__(self, parameters: Any) -> None:
        raise ValueError("on purpose")

    def on_request_headers(self, request: Any) -> None: ...


REGISTRY = Registry([define(one) for one in (Slow, Plain, Fails, Broken)])


def compile_fails(**routes: Any) -> None:
    with pytest.raises(CompileError, match="on purpose"):
        Compiler(REGISTRY).compile(chains(**routes))


def in_a_chain_that_fails() -> None:
    compile_fails(r=[Slow, Fails, Plain, Broken])


def in_chains_built_before_one_that_fails() -> None:
    compile_fails(a=[Slow, Fails, Plain], b=[Broken])


def for_envoy_configuration() -> None:
    demands_of(Settings(), chains(r=[Slow, Fails, Plain]), REGISTRY)


def on_trial() -> None:
    refusals = construct_on_trial([Trial(define(one), {}) for one in (Slow, Plain)])
    assert refusals == [None, None]


CALLERS = [in_a_chain_that_fails, in_chains_built_before_one_that_fails, for_envoy_configuration, on_trial]


@pytest.mark.parametrize("give_policies_up", CALLERS)
def test_an_async_close_is_awaited(give_policies_up: Callable[[], None]) -> None:
    give_policies_up()
    assert sorted(closed) == ["plain", "slow"]


@pytest.mark.parametrize("give_policies_up", CALLERS[:2])
def test_it_is_awaited_on_a_thread_whose_loop_runs(give_policies_up: Callable[[], None]) -> None:
    async def main() -> None:
        give_policies_up()

    asyncio.run(main())
    assert sorted(closed) == ["plain", "slow"]


async def _settled() -> None:
    while closing._pending:  # noqa: ASYNC110 # nobody signals it
        await asyncio.sleep(0)


def test_a_replaced_chain_is_closed_on_the_loop_when_its_last_stream_ends() -> None:
    async def main() -> None:
        made = engine(Slow, Fails, Plain)
        session = made.session()
        from testsupport.envoy_messages import request_headers

        session.receive(request_headers())
        made.activate(chains(r=[]))
        assert closed == []
        session.close()
        assert closed == ["plain"]
        await _settled()

    asyncio.run(main())
    assert closed == ["plain", "slow"]


def test_a_chain_that_nobody_uses_is_closed_when_it_is_replaced_with_or_without_a_loop() -> None:
    snapshot = Compiler(REGISTRY).compile(chains(r=[Slow, Plain]))
    kernel = Kernel()
    kernel.activate(snapshot)
    kernel.activate(replace(snapshot, version="next", chains={}))
    assert sorted(closed) == ["plain", "slow"]

    async def main() -> None:
        close_chains(Compiler(REGISTRY).compile(chains(r=[Slow])).chains.values())
        await _settled()

    asyncio.run(main())
    assert sorted(closed) == ["plain", "slow", "slow"]


def test_a_close_that_fails_is_logged_with_its_route(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        close_soon(Fails({}), "orders")
        await _settled()

    asyncio.run(main())
    give_up(Fails({}), "carts")
    assert [record.getMessage() for record in caplog.records] == [
        "close of a policy on route orders failed",
        "close of a policy on route carts failed",
    ]
    with pytest.raises(OSError, match="on purpose"):
        close_now(Fails({}))


def test_a_close_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hangs(Policy):
        async def close(self) -> None:
            await asyncio.sleep(3600)

    monkeypatch.setattr(closing, "CLOSE_SECONDS", 0.1)
    with pytest.raises((TimeoutError, Overrun)):
        close_now(Hangs({}))


def test_no_other_module_closes_policies() -> None:
    """Calls of `close` on what is named like a policy stand in `closing` alone."""
    root = Path(policy_engine.__file__ or "").parent
    found = {
        f"{path.relative_to(root).as_posix()}: {ast.unparse(node)}"
        for path in root.rglob("*.py")
        if not path.name.endswith("_test.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "close"
    }
    policies = {
        call for call in found if any(word in call.split(": ")[1] for word in ("instance", "policy", "policies"))
    }
    assert policies == {"worker/policies/closing.py: policy.close()"}
    # What else is closed, so that a policy under another name is seen in a review of this list.
    # What else is closed, so that a policy under another name is seen when it comes into this list.
    others = [
        "acceptor",
        "before",
        "channel",
        "child",
        "compiler",
        "connection",
        "descriptor",
        "echo",
        "exchange",
        "handler",
        "loop",
        "one",
        "one.sock",
        "ours",
        "pool",
        "protocol",
        "raw",
        "record",
        "server",
        "session",
        "sock",
        "socket",
        "spare.result()",
        "super()",
        "theirs",
        "transport",
        "writer",
    ]
    own = [
        "self",
        "self._channel",
        "self._compiler",
        "self._control",
        "self._given",
        "self._passing",
        "self._phases",
        "self._raw",
        "self._record",
        "self._server",
        "self._session",
        "self._sock",
        "self._socket",
        "self._transport",
        "self.fork_servers",
        "self.helpers",
        "self._writer",
        "os",
        "self._given",
        "self._passing",
    ]
    assert {call.split(": ")[1].partition(".close(")[0] for call in found - policies} <= {*others, *own}
