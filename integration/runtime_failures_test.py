"""Whatever a policy does wrong, its failure mode decides what the client sees, and the worker lives (R-11, R-12)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.harness.chain_file import Document, policy
from integration.harness.client import ClientError, Connection
from integration.harness.exchange import Answer
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


IN_BODIES_AND_TRAILERS = ["exception", "exits-later", "never-answers", "wrong-value"]
LATE_PHASES = ["request_body", "request_trailers", "response_body", "response_trailers"]
FAILING_CONDITION = "int(request.headers['x-number']) > 0"

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
    **{
        f"{phase}-{how}-{mode}": [misbehaving(how, mode, phase)]
        for phase in LATE_PHASES
        for how in IN_BODIES_AND_TRAILERS
        for mode in ("closed", "open")
    },
    **{
        f"condition-{mode}": [
            {**scripted(mode, request_headers={"set": {"x-ran": "1"}}), "condition": FAILING_CONDITION},
            AFTER,
        ]
        for mode in ("closed", "open")
    },
    "hanging-closed": [policy("hanging", "v1.0.0", {"seconds": 1}, timeout="100ms")],
    "hanging-open": [policy("hanging", "v1.0.0", {"seconds": 1}, timeout="100ms", failure_mode="open")],
    "blocking": [policy("hanging", "v1.0.0", {"seconds": 0.2}, timeout="20s")],
    "healthy": [AFTER],
}


def overrides() -> dict[str, object]:
    """Return the processing modes of the routes whose bodies stream."""
    return {
        name: {"processing_mode": {"response_header_mode": "SEND", f"{phase}_mode": "STREAMED"}}
        for phase in ("request_body", "response_body")
        for name in CHAINS
        if name.startswith(phase)
    }


@pytest.fixture(scope="module")
def running(transport: str) -> Iterator[Runtime]:
    with started(CHAINS, transport=transport, overrides=overrides()) as runtime:
        yield runtime
        assert runtime.value("policy_engine_worker_restarts_total") == 0


@pytest.fixture
def runtime(running: Runtime) -> Iterator[Runtime]:
    running.upstream.reset()
    yield running
    assert running.send("/healthy/").status == 200
    eventually(running.settled, "without streams")


@pytest.mark.parametrize("how", KINDS)
def test_closed_denies_without_a_word_about_why(runtime: Runtime, how: str) -> None:
    route = f"request-{how}-closed"
    reply = runtime.send(f"/{route}/")
    assert (reply.status, reply.told, runtime.upstream.received) == (500, b"", [])
    mode = {"failure_mode": "closed"}
    assert runtime.value("policy_engine_policy_failures_total", route=route, kind=KINDS[how], **mode) == 1
    reason = "policy_failed:misbehaving_v1.0.0"
    assert runtime.value("policy_engine_denials_total", route=route, reason=reason, decision="failed") == 1
    assert runtime.log_lines(f"/{route}/", 1)[0]["details"] == "policy_failed:misbehaving_v1.0.0"


@pytest.mark.parametrize("how", KINDS)
def test_open_goes_on_with_the_next_policy(runtime: Runtime, how: str) -> None:
    route = f"request-{how}-open"
    assert runtime.send(f"/{route}/").status == 200
    last = runtime.upstream.last()
    assert (last.header("x-after"), last.header("x-injected"), last.header("x-bad")) == ("1", None, None)
    assert runtime.value("policy_engine_denials_total", route=route) == 0
    mode = {"failure_mode": "open"}
    assert runtime.value("policy_engine_policy_failures_total", route=route, kind=KINDS[how], **mode) == 1


@pytest.mark.parametrize("how", ON_RESPONSE)
def test_response_phase_closed_hides_the_response(runtime: Runtime, how: str) -> None:
    reply = runtime.send(f"/response-{how}-closed/")
    assert (reply.status, reply.told, reply.header("x-upstream")) == (500, b"", None)
    assert len(runtime.upstream.received) == 1


@pytest.mark.parametrize("how", ON_RESPONSE)
def test_response_phase_open_goes_on_with_the_next_policy(runtime: Runtime, how: str) -> None:
    reply = runtime.send(f"/response-{how}-open/")
    assert (reply.status, reply.header("x-after"), reply.header("x-upstream")) == (200, "1", "echo")


def exchange(runtime: Runtime, route: str) -> tuple[int, bytes, list[tuple[str, str]]]:
    """Send and answer with bodies in chunks and trailers; status 0 stands for a response that was broken off."""
    runtime.upstream.answer_with(Answer(chunks=[b"one", b"two"], trailers=[("x-end", "1")]))
    try:
        reply = runtime.send(f"/{route}/", method="POST", body=iter([b"one", b"two"]), trailers=[("x-client-end", "1")])
    except ClientError:
        return 0, b"", []
    return reply.status, reply.told, reply.trailers


@pytest.mark.parametrize("phase", LATE_PHASES)
@pytest.mark.parametrize("how", IN_BODIES_AND_TRAILERS)
def test_failure_in_a_chunk_or_trailer_hook_follows_the_failure_mode(runtime: Runtime, phase: str, how: str) -> None:
    """What has begun to flow is broken off when the failure mode is `closed`; with `open` it passes as it was."""
    status, body, trailers = exchange(runtime, f"{phase}-{how}-closed")
    # 500 as long as the response's headers are not out, which in the streamed modes is a matter of who is first.
    assert status == 500 or (status == 0 and phase.startswith("response"))
    assert (body, trailers) == (b"", [])
    assert not any(request.complete for request in runtime.upstream.received if phase.startswith("request"))
    runtime.upstream.reset()
    assert exchange(runtime, f"{phase}-{how}-open") == (200, b"onetwo", [("x-end", "1")])
    last = runtime.upstream.last()
    assert (bytes(last.body), last.trailers) == (b"onetwo", [("x-client-end", "1")])
    for mode in ("closed", "open"):
        assert runtime.value("policy_engine_policy_failures_total", route=f"{phase}-{how}-{mode}") >= 1


def test_condition_that_fails_at_run_time_follows_the_failure_mode(runtime: Runtime) -> None:
    number = [("x-number", "no number")]
    assert runtime.send("/condition-closed/", headers=number).status == 500
    assert runtime.upstream.received == []
    assert runtime.send("/condition-open/", headers=number).status == 200
    last = runtime.upstream.last()
    assert (last.header("x-ran"), last.header("x-after")) == (None, "1")
    for mode in ("closed", "open"):
        assert runtime.value("policy_engine_policy_failures_total", route=f"condition-{mode}", kind="condition") == 1
        assert runtime.send(f"/condition-{mode}/", headers=[("x-number", "1")]).status == 200
        assert runtime.upstream.last().header("x-ran") == "1"
        assert runtime.send(f"/condition-{mode}/", headers=[("x-number", "0")]).status == 200
        assert runtime.upstream.last().header("x-ran") is None


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
