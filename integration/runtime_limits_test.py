"""Limits, broken-off requests and restarts: nothing leaks, and a request sees one snapshot (R-03, R-09, R-14, R-20)."""

from __future__ import annotations

import contextlib
import gzip
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from integration.harness.chain_file import policy
from integration.harness.client import send
from integration.harness.envoy import EnvoyProcess
from integration.harness.envoy_config import Bootstrap
from integration.harness.exchange import Answer
from integration.harness.load import Load
from integration.runtime_stack import (
    ENGINE_BODY_LIMIT,
    ENVOY_BUFFER_LIMIT,
    Chains,
    Runtime,
    document,
    eventually,
    routes,
    scripted,
    started,
)


def marked(mark: str) -> Chains:
    """Return chains whose `marked` route shows in every phase which snapshot it runs on."""
    set_mark = {"append": [["x-mark", mark]]}
    return {
        **CHAINS,
        "marked": [
            scripted(request_headers=set_mark, request_body={"body": mark}, response_headers=set_mark),
            scripted(response_body={"body": mark}),
        ],
    }


SMALL = b"small"
PAST_ENVOY, WITHIN_ENVOY = (
    size // len(SMALL) for size in (2 * ENVOY_BUFFER_LIMIT, (ENGINE_BODY_LIMIT + ENVOY_BUFFER_LIMIT) // 2)
)
"""How often `SMALL` is more than Envoy holds; and more than the engine's limit, which is for what comes, but not that."""

CHAINS: Chains = {
    "bodies": [scripted(request_body={}, response_body={})],
    "bodies-open": [scripted("open", request_body={}, response_body={})],
    "slow-request": [scripted(request_headers={"wait": 15})],
    "slow-request-body": [scripted(request_body={"wait": 15})],
    "slow-response": [scripted(response_headers={"wait": 15})],
    "slow-response-body": [scripted(response_body={"wait": 15})],
    "grows": [scripted(request_body={"grow": PAST_ENVOY})],
    "grows-response": [scripted(response_body={"grow": PAST_ENVOY})],
    "grows-within": [scripted(request_body={"grow": WITHIN_ENVOY}, response_body={"grow": WITHIN_ENVOY})],
    "passes": [scripted(request_headers={}, response_headers={})],
    "unsent": [scripted(request_body={})],
    "states-mode": [scripted(request_headers={"wait": 0.2}, request_body={})],
    "states-both": [scripted(request_headers={"wait": 0.2}, request_body={}, response_body={"set": {"x-read": "1"}})],
    "asks-for-mode": [scripted(request_headers={"wait": 0.2}, request_body={})],
    "streams": [policy("streaming", "v1.0.0", {"side": "response"})],
}
BOTH = {"request_body_mode": "BUFFERED", "response_body_mode": "BUFFERED", "response_header_mode": "SEND"}
BUFFERED = {"response_header_mode": "SKIP", "request_body_mode": "BUFFERED"}
ROUTES: Chains = {**CHAINS, "marked": [], "unknown": []}


@pytest.fixture(scope="module")
def running(transport: str) -> Iterator[Runtime]:
    streams = {
        "request_header_mode": "SEND",
        "response_header_mode": "SEND",
        "response_body_mode": "STREAMED",
    }
    # Below Envoy's own limits of 100 headers and 60 KiB, so that the engine is who refuses.
    limits = {"LIMITS_HEADER_COUNT": "60", "LIMITS_HEADER_SIZE": "32KiB"}
    overrides = {"streams": {"processing_mode": streams}}
    with started(ROUTES, transport=transport, overrides=overrides, settings=limits) as runtime:
        runtime.swap(marked("start"))
        yield runtime


@pytest.fixture
def runtime(running: Runtime) -> Iterator[Runtime]:
    running.upstream.reset()
    yield running
    running.upstream.reset()
    eventually(running.settled, "without streams")
    assert running.send("/passes/").status == 200


# -- body limits (R-09) ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [ENGINE_BODY_LIMIT + 1, ENVOY_BUFFER_LIMIT * 2])
@pytest.mark.parametrize("route", ["bodies", "bodies-open"])
def test_request_body_over_the_limit_gets_413(runtime: Runtime, route: str, size: int) -> None:
    assert runtime.send(f"/{route}/", method="POST", body=b"x" * size).status == 413
    assert runtime.upstream.received == []


@pytest.mark.parametrize("chunked", [False, True])
def test_response_body_over_the_limit_gets_502(runtime: Runtime, *, chunked: bool) -> None:
    body = b"x" * (ENGINE_BODY_LIMIT + 1)
    runtime.upstream.answer_with(Answer(chunks=[body]) if chunked else Answer.of(body))
    for route in ("bodies", "bodies-open"):
        reply = runtime.send(f"/{route}/")
        assert (reply.status, reply.told) == (502, b"")


def test_chunked_request_over_the_limit_gets_413(runtime: Runtime) -> None:
    body = iter([b"x" * (ENGINE_BODY_LIMIT + 1)])
    assert runtime.send("/bodies/", method="POST", body=body).status == 413


@pytest.mark.parametrize(
    ("route", "status"), [("states-mode", b"413"), ("states-both", b"413"), ("asks-for-mode", b"408")]
)
def test_chunked_request_over_the_buffer_of_envoy_ends_in_bounded_time(
    runtime: Runtime, tmp_path: Path, route: str, status: bytes
) -> None:
    """More than Envoy holds comes before the answer to the headers: refused where the route itself has the mode.

    Where only the override asks for it, Envoy stops reading and the route's idle timeout ends it.
    """
    modes = {"states-mode": {"processing_mode": BUFFERED}, "states-both": {"processing_mode": BOTH}}
    idle = [replace(one, idle_timeout="1s") for one in routes(ROUTES, modes)]
    bootstrap = Bootstrap(
        routes=idle,
        engine=runtime.engine.address,
        upstream_port=runtime.upstream.port,
        upstream_http2=True,
        buffer_limit_bytes=ENVOY_BUFFER_LIMIT,
    )
    with (
        EnvoyProcess(bootstrap, tmp_path) as proxy,
        socket.create_connection(("127.0.0.1", proxy.ready().port), 20) as client,
    ):
        client.sendall(f"POST /{route}/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        upload = threading.Thread(target=_send_chunks, args=(client, 8 * ENVOY_BUFFER_LIMIT))
        upload.start()
        assert client.recv(12) == b"HTTP/1.1 " + status
        client.shutdown(socket.SHUT_RDWR)
        upload.join()
    assert runtime.upstream.received == []
    assert "allow_mode_override" not in runtime.engine.log()


def _send_chunks(client: socket.socket, size: int) -> None:
    with contextlib.suppress(OSError):
        for _ in range(size // 65536):
            client.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")


def test_unannounced_response_over_the_buffer_of_envoy_gets_its_500(runtime: Runtime) -> None:
    # Envoy answers by itself before the engine sees the body, and its status for that is 500.
    runtime.upstream.answer_with(Answer(chunks=[b"x" * 65536] * (2 * ENVOY_BUFFER_LIMIT // 65536)))
    assert runtime.send("/bodies/").status == 500


@pytest.mark.parametrize("body", [SMALL, [SMALL[:1], SMALL[1:]]])
def test_a_request_that_a_policy_grows_past_the_buffer_of_envoy_arrives_whole_or_not_at_all(
    runtime: Runtime, body: bytes | list[bytes]
) -> None:
    """Envoy has to hold it while it waits for a connection to the upstream, and has no use for the limit otherwise."""
    for _ in range(5):
        runtime.upstream.received.clear()
        status = runtime.send("/grows/", method="POST", body=body).status
        got = [bytes(one.body) for one in runtime.upstream.received]
        assert (status, got) in [(200, [SMALL * PAST_ENVOY]), (413, [])]


def test_a_response_that_a_policy_grows_past_the_buffer_of_envoy_gets_envoys_own_answer(runtime: Runtime) -> None:
    runtime.upstream.answer_with(Answer.of(SMALL))
    reply = runtime.send("/grows-response/")
    assert reply.status == 500
    assert SMALL not in reply.body


def test_a_body_that_a_policy_grows_within_the_buffer_of_envoy_arrives_whole(runtime: Runtime) -> None:
    runtime.upstream.answer_with(Answer.of(SMALL))
    reply = runtime.send("/grows-within/", method="POST", body=SMALL)
    assert (reply.status, len(reply.body), len(runtime.upstream.last().body)) == (200, *[len(SMALL) * WITHIN_ENVOY] * 2)


def test_body_of_exactly_the_limit_passes(runtime: Runtime) -> None:
    runtime.upstream.answer_with(Answer.of(b"y" * ENGINE_BODY_LIMIT))
    reply = runtime.send("/bodies/", method="POST", body=b"x" * ENGINE_BODY_LIMIT)
    assert (reply.status, len(reply.body), len(runtime.upstream.last().body)) == (
        200,
        ENGINE_BODY_LIMIT,
        ENGINE_BODY_LIMIT,
    )


def test_decompressed_size_counts(runtime: Runtime) -> None:
    bomb = gzip.compress(b"0" * 20_000_000)
    headers = [("content-encoding", "gzip")]
    assert len(bomb) < ENGINE_BODY_LIMIT
    assert runtime.send("/bodies/", method="POST", body=bomb, headers=headers).status == 413
    runtime.upstream.answer_with(Answer.of(bomb, headers=headers))
    assert runtime.send("/bodies/").status == 502


def test_body_that_is_not_what_its_coding_says_follows_the_failure_mode(runtime: Runtime) -> None:
    headers = [("content-encoding", "gzip")]
    assert runtime.send("/bodies/", method="POST", body=b"not gzip", headers=headers).status == 415
    assert runtime.send("/bodies-open/", method="POST", body=b"not gzip", headers=headers).status == 200
    assert bytes(runtime.upstream.last().body) == b"not gzip"


def test_streamed_body_has_no_limit_because_nothing_is_kept(runtime: Runtime) -> None:
    runtime.upstream.answer_with(Answer(chunks=[b"x" * 65536] * 64))
    assert len(runtime.send("/streams/").body) == 64 * 65536


# -- header limits (R-09) ---------------------------------------------------------------------------------------------

MANY_HEADERS = [(f"x-many-{number}", "1") for number in range(70)]
LONG_HEADER = [("x-long", "x" * 33_000)]


@pytest.mark.parametrize("headers", [MANY_HEADERS, LONG_HEADER], ids=["count", "size"])
def test_headers_over_a_limit_are_refused_named_and_counted(runtime: Runtime, headers: list[tuple[str, str]]) -> None:
    def refused(phase: str) -> int:
        return runtime.value("policy_engine_headers_too_large_total", phase=phase)

    before = refused("request_headers"), refused("response_headers")
    reply = runtime.send("/passes/", headers=headers)
    assert (reply.status, reply.told, runtime.upstream.received) == (431, b"", [])
    runtime.upstream.answer_with(Answer.of(b"unseen", headers=headers))
    reply = runtime.send("/passes/")
    assert (reply.status, reply.told, reply.header(headers[0][0])) == (502, b"", None)
    assert (refused("request_headers"), refused("response_headers")) == (before[0] + 1, before[1] + 1)
    named = [f"{phase}_headers of route passes refused" for phase in ("request", "response")]
    eventually(lambda: all(line in runtime.engine.log() for line in named), "logged")


def test_headers_within_the_limits_and_long_bodies_pass(runtime: Runtime) -> None:
    headers = [*MANY_HEADERS[:20], ("x-long", "x" * 30_000)]
    runtime.upstream.answer_with(Answer.of(b"y" * 100_000, headers=headers))
    reply = runtime.send("/bodies/", method="POST", body=b"x" * 100_000, headers=headers)
    assert (reply.status, len(reply.body), len(reply.header("x-long") or "")) == (200, 100_000, 30_000)


# -- clients that go away ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "sent", "phase"),
    [
        ("slow-request", b"", "request_headers"),
        ("slow-request-body", b"content-length: 3\r\n\r\nabc", "request_body"),
        ("bodies", b"content-length: 3\r\n\r\na", "request_headers"),
        ("slow-response", b"", "response_headers"),
        ("slow-response-body", b"", "response_body"),
        ("passes", b"", "request_headers"),
        ("streams", b"", "response_body"),
    ],
)
def test_disconnect_in_each_phase_ends_the_stream(runtime: Runtime, route: str, sent: bytes, phase: str) -> None:
    if route == "passes":
        runtime.upstream.answer_with(Answer(delay_s=15))
    if route == "streams":
        runtime.upstream.answer_with(Answer(chunks=[b"x"] * 100, chunk_delay_s=0.2))
    before = runtime.phases().get(phase, 0)
    with socket.create_connection(("127.0.0.1", runtime.envoy.port), 10) as client:
        client.sendall(f"GET /{route}/ HTTP/1.1\r\nhost: a\r\n".encode() + (sent or b"\r\n"))
        eventually(lambda: runtime.phases().get(phase, 0) > before, f"in {phase}")
        assert runtime.active() == 1
    eventually(lambda: runtime.active() == 0, "without streams")


def test_upstream_that_breaks_off_leaves_no_stream(runtime: Runtime) -> None:
    # The upstream is HTTP/2: an answer that is too short for its content-length is a broken one.
    runtime.upstream.answer_with(Answer(headers=[("content-length", "10")], chunks=[b"abc"]))
    for route in ("bodies", "streams", "passes"):
        with contextlib.suppress(OSError):  # Envoy breaks off the response too, when its headers are out
            assert send(runtime.envoy.port, "GET", f"/{route}/").status in {200, 502, 503}
    eventually(lambda: runtime.active() == 0, "without streams")


def test_killed_envoy_leaves_no_stream_and_its_successor_is_served(runtime: Runtime, tmp_path: Path) -> None:
    bootstrap = Bootstrap(
        routes=routes(ROUTES), engine=runtime.engine.address, upstream_port=runtime.upstream.port, upstream_http2=True
    )
    with EnvoyProcess(bootstrap, tmp_path) as proxy:
        port = proxy.ready().port
        clients = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(20)]
        for client in clients:
            client.sendall(b"GET /slow-request/ HTTP/1.1\r\nhost: a\r\n\r\n")
        eventually(lambda: runtime.active() == 20, "with 20 streams")
        proxy.stop(sign=signal.SIGKILL)
        for client in clients:
            client.close()
    eventually(lambda: runtime.active() == 0, "without streams")
    with EnvoyProcess(bootstrap, tmp_path) as again:
        assert send(again.ready().port, "GET", "/passes/").status == 200


# -- promises that Envoy's configuration breaks, and unknown routes ----------------------------------------------------


def test_route_without_a_chain_is_denied_and_named(runtime: Runtime) -> None:
    before = len(runtime.engine.log())
    assert runtime.send("/unknown/").status == 500
    assert runtime.upstream.received == []
    eventually(lambda: "'unknown'" in runtime.engine.log()[before:], "logged")


def test_body_that_envoy_may_not_send_is_noticed_and_denied(runtime: Runtime, tmp_path: Path) -> None:
    bootstrap = Bootstrap(
        routes=routes(ROUTES),
        engine=runtime.engine.address,
        upstream_port=runtime.upstream.port,
        upstream_http2=True,
        ext_proc={"allow_mode_override": False},
    )
    with EnvoyProcess(bootstrap, tmp_path) as proxy:
        assert send(proxy.ready().port, "POST", "/unsent/", body=b"unseen").status == 500
    assert "allow_mode_override" in runtime.engine.log()
    assert runtime.value("policy_engine_broken_promises_total") == 1


# -- one snapshot from first to last phase (R-20) -----------------------------------------------------------------------


def test_request_sees_one_snapshot_in_all_its_phases_under_constant_swaps(runtime: Runtime) -> None:
    seen: Counter[str] = Counter()
    runtime.upstream.answer_with(
        lambda request: Answer(
            headers=[("x-sent", ",".join([*request.values("x-mark"), request.body.decode()]))],
            chunks=[b"upstream"],
            delay_s=0.02,
        )
    )
    stop = threading.Event()
    written = 0

    def swap() -> None:
        nonlocal written
        while not stop.wait(0.02):
            written += 1
            runtime.chains.write(document(marked(f"m{written}")))

    swaps = runtime.value("policy_engine_configuration_swaps_total")
    writer = threading.Thread(target=swap)
    writer.start()
    try:
        with Load(
            runtime.envoy.port,
            lambda connection: connection.send("POST", "/marked/", body=b"client"),
            lambda reply: _consistency(
                reply.status,
                [*(reply.header("x-sent") or "").split(","), *reply.values("x-mark"), reply.body.decode()],
                seen,
            ),
        ) as load:
            time.sleep(3)
            deadline = time.monotonic() + 30  # a busy machine makes fewer of the writes into swaps of their own
            while len(seen) <= 3 and time.monotonic() < deadline:
                time.sleep(0.1)
    finally:
        stop.set()
        writer.join()
    assert set(load.outcomes) == {"200 one snapshot"}, load.outcomes
    assert len(seen) > 3, seen
    assert runtime.value("policy_engine_configuration_swaps_total") - swaps >= len(seen) - 1  # one was there before


def _consistency(status: int, marks: list[str], seen: Counter[str]) -> str:
    if len(marks) == 4 and len(set(marks)) == 1:
        seen[marks[0]] += 1
        return f"{status} one snapshot"
    return f"{status} {marks}"
