"""What Envoy may not send is noticed, named and not let through, and who only goes away does no harm (R-08, R-11)."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.harness.client import ClientError, send
from integration.harness.envoy import EnvoyProcess
from integration.harness.envoy_config import Bootstrap
from integration.harness.exchange import Answer
from integration.runtime_stack import Runtime, eventually, routes, scripted, started

MASK = scripted(response_body={"body": "masked"})
CHAINS = {
    "masks": [MASK],
    "masks-too": [MASK],
    "masks-and-hides": [scripted(response_headers={"remove": ["x-secret"]}), MASK],
    "masks-open": [scripted("open", response_body={"body": "masked"})],
    "headers": [scripted(request_headers={"set": {"x-a": "1"}})],
    "both": [scripted(request_body={}, response_body={"body": "masked"})],
}
SECRET = Answer(headers=[("x-secret", "1")], chunks=[b"secret"])
CERTAIN = {"processing_mode": {"response_header_mode": "SEND", "response_body_mode": "BUFFERED"}}


@pytest.fixture(scope="module")
def running(transport: str) -> Iterator[Runtime]:
    # Over TCP, since grpcio cannot tell connections to a Unix socket apart.
    with started(CHAINS, transport=transport, tcp=True) as runtime:
        yield runtime


@pytest.fixture
def runtime(running: Runtime) -> Iterator[Runtime]:
    running.upstream.reset()
    running.upstream.answer_with(SECRET)
    yield running
    eventually(running.settled, "without streams")
    assert running.value("policy_engine_protocol_errors_total") == 0


@contextlib.contextmanager
def envoy(runtime: Runtime, directory: Path, overrides: dict[str, Any] | None = None, **ext_proc: Any) -> Iterator[int]:
    """Start another Envoy before the same engine, on a connection of its own, and return its port."""
    bootstrap = Bootstrap(
        routes=routes(CHAINS, overrides),
        engine=runtime.engine.address,
        upstream_port=runtime.upstream.port,
        upstream_http2=True,
        ext_proc=ext_proc,
    )
    with EnvoyProcess(bootstrap, directory) as proxy:
        yield proxy.ready().port


def broken(runtime: Runtime) -> int:
    return runtime.value("policy_engine_broken_promises_total", body="response")


def leave_midway(runtime: Runtime, port: int, route: str) -> None:
    """A client that goes away between the response's headers and its body."""
    runtime.upstream.answer_with(Answer(chunks=[b"secret"], chunk_delay_s=10))
    before = runtime.phases().get("response_headers", 0)
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(f"GET /{route}/ HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        eventually(lambda: runtime.phases().get("response_headers", 0) > before, "at the response's headers")
    eventually(lambda: runtime.active() == 0, "without streams")
    runtime.upstream.answer_with(SECRET)


def test_response_body_that_envoy_may_not_send_is_noticed_and_then_denied(runtime: Runtime, tmp_path: Path) -> None:
    before = broken(runtime)
    with envoy(runtime, tmp_path, allow_mode_override=False) as port:
        assert send(port, "GET", "/masks/").body == b"secret"  # nothing can tell yet; the end of it does
        eventually(lambda: broken(runtime) == before + 1, "noticed")
        for route in ("masks", "masks-too", "masks-and-hides", "masks"):
            reply = send(port, "GET", f"/{route}/")
            assert (reply.status, reply.told, reply.header("x-secret")) == (500, b"", None)
        assert send(port, "GET", "/masks-open/").body == b"secret"
        assert send(port, "GET", "/headers/").status == 200
    eventually(lambda: "route masks needs the response body for scripted v1.0.0" in runtime.engine.log(), "logged")
    assert runtime.value("policy_engine_doubted_responses_total") >= 4


def test_a_request_without_a_body_policy_before_it_saves_even_the_first(runtime: Runtime, tmp_path: Path) -> None:
    with envoy(runtime, tmp_path, allow_mode_override=False) as port:
        assert send(port, "GET", "/headers/").status == 200
        assert send(port, "GET", "/masks/").status == 500


def test_a_mode_that_the_route_states_is_certain_from_the_first_message(runtime: Runtime, tmp_path: Path) -> None:
    with envoy(runtime, tmp_path, {"masks": CERTAIN}, allow_mode_override=False) as port:
        assert send(port, "GET", "/headers/").status == 200
        leave_midway(runtime, port, "masks")
        for _ in range(3):
            assert send(port, "GET", "/masks/").body == b"masked"


def test_client_that_leaves_costs_others_one_response_at_most(runtime: Runtime, tmp_path: Path) -> None:
    with envoy(runtime, tmp_path) as port:
        before = broken(runtime)
        leave_midway(runtime, port, "masks")
        assert broken(runtime) == before + 1
        with pytest.raises(ClientError):  # the headers are out; what follows them is not
            send(port, "GET", "/masks/")
        assert send(port, "GET", "/masks/").body == b"masked"
        assert send(port, "GET", "/masks-and-hides/").body == b"masked"
        for _ in range(3):
            leave_midway(runtime, port, "masks-and-hides")
            assert send(port, "GET", "/masks-and-hides/").body == b"masked"
        assert broken(runtime) == before + 1


def test_a_body_ends_the_doubt_for_chains_that_change_response_headers(runtime: Runtime, tmp_path: Path) -> None:
    with envoy(runtime, tmp_path) as port:
        leave_midway(runtime, port, "masks-and-hides")
        reply = send(port, "GET", "/masks-and-hides/")
        assert (reply.status, reply.header("x-secret")) == (500, None)
        assert send(port, "POST", "/both/", body=b"x").body == b"masked"
        reply = send(port, "GET", "/masks-and-hides/")
        assert (reply.body, reply.header("x-secret")) == (b"masked", None)


def test_a_body_in_pieces_that_was_to_come_whole_is_broken_off(runtime: Runtime, tmp_path: Path) -> None:
    streamed = {"masks": {"processing_mode": {"response_header_mode": "SEND", "response_body_mode": "STREAMED"}}}
    runtime.upstream.answer_with(Answer(chunks=[b"sec", b"ret"], chunk_delay_s=0.1))
    with envoy(runtime, tmp_path, streamed, allow_mode_override=False) as port, pytest.raises(ClientError):
        send(port, "GET", "/masks/")
    eventually(lambda: "in pieces" in runtime.engine.log(), "logged")
