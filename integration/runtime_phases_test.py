"""Which phases and bodies Envoy really sends for a chain (R-01, R-07, R-08), counted by the engine that gets them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from integration.harness.client_h2 import send_h2
from integration.harness.exchange import Answer
from integration.runtime_stack import Runtime, scripted, started

CHAINS = {
    "empty": [],
    "headers": [scripted(request_headers={"set": {"x-a": "1"}})],
    "both-headers": [scripted(request_headers={"set": {"x-a": "1"}}, response_headers={"set": {"x-b": "2"}})],
    "request-body": [scripted(request_body={"upper": True})],
    "response-body": [scripted(response_body={"upper": True})],
    "denies-body": [scripted(request_body={"respond": {"status": 418}})],
    "denies-response-body": [scripted(response_body={"respond": {"status": 418}})],
    "response-body-header": [scripted(response_body={"set": {"x-checked": "1"}})],
    "response-body-new": [scripted(response_body={"body": "new"})],
    "request-body-header": [scripted(request_body={"set": {"x-checked": "1"}})],
    "trailers": [scripted(request_trailers={"set": {"x-t": "in"}}, response_trailers={"set": {"x-t": "out"}})],
    "everything": [
        scripted(
            request_headers={},
            request_body={},
            request_trailers={},
            response_headers={},
            response_body={},
            response_trailers={},
        )
    ],
}
ALL = {
    "request_headers": 1,
    "request_body": 1,
    "request_trailers": 1,
    "response_headers": 1,
    "response_body": 1,
    "response_trailers": 1,
}
SENT: dict[str, dict[str, int]] = {
    "empty": {"request_headers": 1},
    "headers": {"request_headers": 1},
    "both-headers": {"request_headers": 1, "response_headers": 1},
    "request-body": {"request_headers": 1, "request_body": 1, "request_trailers": 1},
    "response-body": {"request_headers": 1, "response_headers": 1, "response_body": 1, "response_trailers": 1},
    "trailers": {"request_headers": 1, "request_trailers": 1, "response_headers": 1, "response_trailers": 1},
    "everything": ALL,
}
"""What each chain may cost when request and response both have a body and trailers."""


@pytest.fixture(scope="module")
def runtime(transport: str) -> Iterator[Runtime]:
    with started(CHAINS, transport=transport) as runtime:
        yield runtime


def exchange(runtime: Runtime, name: str) -> None:
    answer = Answer(headers=[("x-up", "1")], chunks=[b"answer", b" body"], trailers=[("x-end", "1")])
    runtime.upstream.answer_with(answer)
    reply = runtime.send(
        f"/{name}/", method="POST", body=iter([b"request", b" body"]), trailers=[("x-client-end", "1")]
    )
    assert reply.status == 200


@pytest.mark.parametrize("name", SENT)
def test_envoy_sends_the_phases_that_the_chain_needs_and_no_other(runtime: Runtime, name: str) -> None:
    assert runtime.phases_of(lambda: exchange(runtime, name)) == SENT[name]


def test_bytes_of_a_body_that_no_policy_needs_do_not_reach_the_engine(runtime: Runtime) -> None:
    def engine_bytes() -> int:
        return runtime.envoy.counter("cluster.policy-engine.upstream_cx_tx_bytes_total")

    runtime.upstream.answer_with(Answer.of(b"y" * 200_000))
    before = engine_bytes()
    assert len(runtime.send("/headers/", method="POST", body=b"x" * 200_000).body) == 200_000
    assert engine_bytes() - before < 10_000
    assert len(runtime.upstream.last().body) == 200_000
    runtime.send("/request-body/", method="POST", body=b"x" * 200_000)
    assert 200_000 < engine_bytes() - before < 250_000


def test_trailers_of_both_directions_are_changed(runtime: Runtime) -> None:
    runtime.upstream.answer_with(Answer(chunks=[b"a"], trailers=[("x-end", "1"), ("x-t", "old")]))
    reply = runtime.send("/trailers/", method="POST", body=iter([b"x"]), trailers=[("x-client-end", "1")])
    assert ("x-t", "in") in runtime.upstream.last().trailers
    assert ("x-client-end", "1") in runtime.upstream.last().trailers
    assert [value for name, value in reply.trailers if name.lower() == "x-t"] == ["out"]


def test_trailers_of_an_http2_client_are_changed(runtime: Runtime) -> None:
    runtime.upstream.answer_with(Answer(chunks=[b"a"], trailers=[("x-end", "1"), ("x-t", "old")]))
    for name in ("trailers", "everything"):
        body = [b"request", b" body"]
        reply = send_h2(runtime.envoy.port, "POST", f"/{name}/", body=body, trailers=[("x-client-end", "1")])
        last = runtime.upstream.last()
        assert (reply.status, bytes(last.body), reply.body) == (200, b"request body", b"a")
        assert ("x-client-end", "1") in last.trailers
        assert (("x-t", "in") in last.trailers) == (name == "trailers")
        assert ("x-t", "out" if name == "trailers" else "old") in reply.trailers


def _http2(runtime: Runtime, route: str) -> int:
    return send_h2(runtime.envoy.port, "POST", f"/{route}/", trailers=[("x-client-end", "1")]).status


def _http1(runtime: Runtime, route: str) -> int:
    return runtime.send(f"/{route}/", method="POST", body=iter([]), trailers=[("x-client-end", "1")]).status


@pytest.mark.parametrize("send", [_http1, _http2])
def test_trailers_without_a_body_are_no_way_round_a_body_policy(
    runtime: Runtime, send: Callable[[Runtime, str], int]
) -> None:
    """Envoy sends no body message when nothing but trailers follows the headers."""
    runtime.upstream.received.clear()
    assert send(runtime, "denies-body") == 418
    assert send(runtime, "request-body-header") == 500  # its change cannot be sent any more
    assert runtime.upstream.received == []
    runtime.upstream.answer_with(Answer(trailers=[("x-end", "1")]))
    assert send(runtime, "request-body") == 200
    assert runtime.upstream.last().trailers == [("x-client-end", "1")]
    assert send(runtime, "everything") == 200
    assert send(runtime, "denies-response-body") == 418


GRPC = [("content-type", "application/grpc"), ("te", "trailers"), ("content-length", "6")]


@pytest.mark.parametrize("route", ["response-body-header", "response-body-new"])
@pytest.mark.parametrize(("status", "told"), [("0", "2"), ("5", "5"), ("16", "16"), ("99", "2"), ("", "2")])
def test_a_grpc_error_without_a_message_keeps_its_status_where_a_policy_cannot_change_it_any_more(
    runtime: Runtime, route: str, status: str, told: str
) -> None:
    """Headers, then trailers, and no DATA between: the policy's change cannot be sent, the upstream's error can."""
    trailers = [("grpc-status", status), ("grpc-message", "secret of the upstream")]
    runtime.upstream.answer_with(Answer(headers=[("content-type", "application/grpc")], trailers=trailers))
    reply = send_h2(runtime.envoy.port, "POST", f"/{route}/", headers=GRPC, body=[b"\0\0\0\0\1a"])
    assert reply.header("grpc-status") == told
    assert (reply.header("grpc-message") or "").startswith("Internal Server Error; request id ")


@pytest.mark.parametrize("status", ["0", "5"])
def test_a_grpc_response_of_headers_alone_is_changed_and_keeps_its_status(runtime: Runtime, status: str) -> None:
    headers = [("content-type", "application/grpc"), ("grpc-status", status), ("grpc-message", "told")]
    runtime.upstream.answer_with(Answer(headers=headers))
    reply = send_h2(runtime.envoy.port, "POST", "/response-body-header/", headers=GRPC, body=[b"\0\0\0\0\1a"])
    assert [reply.header(name) for name in ("grpc-status", "grpc-message", "x-checked")] == [status, "told", "1"]


def test_body_policy_added_by_reload_changes_the_next_request_without_a_restart(runtime: Runtime) -> None:
    pids = (runtime.engine.pid, runtime.proxy.pid)
    assert runtime.phases_of(lambda: exchange(runtime, "headers")) == SENT["headers"]
    runtime.swap({**CHAINS, "headers": CHAINS["request-body"]})
    assert runtime.phases_of(lambda: exchange(runtime, "headers")) == SENT["request-body"]
    assert bytes(runtime.upstream.last().body) == b"REQUEST BODY"
    runtime.swap(CHAINS)
    assert runtime.phases_of(lambda: exchange(runtime, "headers")) == SENT["headers"]
    assert (runtime.engine.pid, runtime.proxy.pid) == pids
    assert runtime.engine.running()


def test_request_without_a_body_still_runs_the_body_policy(runtime: Runtime) -> None:
    runtime.upstream.answer_with(Answer.of(b"", status=204))
    assert runtime.phases_of(lambda: runtime.send("/request-body/")) == {"request_headers": 1}
