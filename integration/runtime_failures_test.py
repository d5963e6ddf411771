"""Whatever a policy does wrong, its failure mode decides what the client sees, and the worker lives (R-11, R-12)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.harness.chain_file import Document, policy
from integration.harness.client import Connection
from integration.runtime_stack import Runtime, eventually, scripted, started

KINDS = {
    "exception": "exception",
    "exits": "exception",
    "interrupts": "exception",
    "recurses": "exception",
    "exits-later": "exception",
    "cancels-itself": "exception",
    "holds-loop": "timeout",
    "holds-loop-later": "timeout",
    "never-answers": "timeout",
    "swallows-cancellation": "timeout",
    "wrong-value": "invalid_action",
    "invalid-status": "invalid_action",
    "invalid-name": "invalid_action",
    "invalid-value": "invalid_action",
    "framing-header": "invalid_action",
    "wrong-value-type": "invalid_action",
}
"""What the policy `misbehaving` does, and as which kind of failure it is counted."""

ON_RESPONSE = ["exception", "exits", "holds-loop", "never-answers", "invalid-value"]


def misbehaving(how: str, mode: str, on: str) -> Document:
    return policy("misbehaving", "v1.0.0", {"how": how, "on": on}, failure_mode=mode, timeout="150ms")


AFTER = scripted(request_headers={"set": {"x-after": "1"}})
BEFORE = scripted(response_headers={"set": {"x-after": "1"}})  # earlier in the chain, so later on the way back
CHAINS = {
    **{
        f"request-{how}-{mode}": [misbehaving(how, mode, "request"), AFTER]
        for how in KINDS
        for mode in ("closed", "open")
    },
    **{
        f"response-{how}-{mode}": [BEFORE, misbehaving(how, mode, "response")]
        for how in ON_RESPONSE
        for mode in ("closed", "open")
    },
    "hanging-closed": [policy("hanging", "v1.0.0", {"seconds": 1}, timeout="100ms")],
    "hanging-open": [policy("hanging", "v1.0.0", {"seconds": 1}, timeout="100ms", failure_mode="open")],
    "blocking": [policy("hanging", "v1.0.0", {"seconds": 0.2}, timeout="20s")],
    "healthy": [AFTER],
}


@pytest.fixture(scope="module")
def running(transport: str) -> Iterator[Runtime]:
    with started(CHAINS, transport=transport) as runtime:
        yield runtime
        assert runtime.value("policy_engine_worker_restarts_total") == 0


@pytest.fixture
def runtime(running: Runtime) -> Iterator[Runtime]:
    running.upstream.reset()
    yield running
    assert running.send("/healthy/").status == 200
    eventually(lambda: running.active() == 0, "without streams")
    assert running.value("policy_engine_handler_errors_total") == 0
    assert running.value("policy_engine_worker_restarts_total") == 0, running.engine.log()


@pytest.mark.parametrize("how", KINDS)
def test_closed_denies_without_a_word_about_why(runtime: Runtime, how: str) -> None:
    route = f"request-{how}-closed"
    reply = runtime.send(f"/{route}/")
    assert (reply.status, reply.body, runtime.upstream.received) == (500, b"", [])
    assert runtime.value("policy_engine_policy_failures_total", route=route, kind=KINDS[how]) == 1
    assert runtime.log_lines(f"/{route}/", 1)[0]["details"] == "policy_failed:misbehaving_v1.0.0"


@pytest.mark.parametrize("how", KINDS)
def test_open_goes_on_with_the_next_policy(runtime: Runtime, how: str) -> None:
    route = f"request-{how}-open"
    assert runtime.send(f"/{route}/").status == 200
    last = runtime.upstream.last()
    assert (last.header("x-after"), last.header("x-injected"), last.header("x-bad")) == ("1", None, None)
    assert runtime.value("policy_engine_policy_failures_total", route=route, kind=KINDS[how]) == 1


@pytest.mark.parametrize("how", ON_RESPONSE)
def test_response_phase_closed_hides_the_response(runtime: Runtime, how: str) -> None:
    reply = runtime.send(f"/response-{how}-closed/")
    assert (reply.status, reply.body, reply.header("x-upstream")) == (500, b"", None)
    assert len(runtime.upstream.received) == 1


@pytest.mark.parametrize("how", ON_RESPONSE)
def test_response_phase_open_goes_on_with_the_next_policy(runtime: Runtime, how: str) -> None:
    reply = runtime.send(f"/response-{how}-open/")
    assert (reply.status, reply.header("x-after"), reply.header("x-upstream")) == (200, "1", "echo")


def test_policy_that_holds_the_loop_is_named_in_the_log(runtime: Runtime) -> None:
    before = len(runtime.engine.log())
    runtime.send("/request-holds-loop-closed/")
    line = next(line for line in runtime.engine.log()[before:].splitlines() if "held the event loop" in line)
    assert "misbehaving" in line
    assert "blocking = True" in line


def test_hanging_blocking_policy_is_left_behind_and_stalls_no_other(runtime: Runtime) -> None:
    assert runtime.send("/hanging-closed/").status == 500
    assert runtime.send("/healthy/").status == 200
    assert runtime.send("/hanging-open/").status == 200
    assert runtime.value("policy_engine_policy_failures_total", route="hanging-closed", kind="timeout") == 1


def test_blocking_policy_that_keeps_its_time_is_awaited(runtime: Runtime) -> None:
    assert runtime.send("/blocking/").status == 200
    assert runtime.upstream.last().header("x-blocked") == "yes"


def test_failures_on_one_connection_leave_it_usable(runtime: Runtime) -> None:
    with Connection(runtime.envoy.port) as connection:
        kinds = ("exception", "invalid-name", "never-answers")
        assert [connection.send("GET", f"/request-{how}-closed/").status for how in kinds] == [500] * 3
        assert connection.send("GET", "/healthy/").status == 200
