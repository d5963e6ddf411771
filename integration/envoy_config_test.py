"""What `policy-engine envoy-config` writes, run: Envoy takes it, and each chain gets what it needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.harness import client
from integration.harness.chain_file import policy
from integration.harness.exchange import Answer
from integration.runtime_stack import (
    ENGINE_BODY_LIMIT,
    METADATA_NAMESPACE,
    Runtime,
    eventually,
    generated,
    scripted,
)

CHAINS = {
    "empty": [],
    "headers": [scripted(request_headers={"set": {"x-a": "1"}})],
    "whole": [scripted(request_body={"upper": True})],
    "masks": [scripted(response_body={"upper": True})],
    "stream": [policy("streaming", "v1.0.0", {"side": "response"})],
    "metadata": [scripted(request_headers={"metadata": {METADATA_NAMESPACE: {"who": "alice"}, "dropped": {"a": 1}}})],
}


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    flags = ("--metadata-namespace", METADATA_NAMESPACE)
    with generated(CHAINS, settings={"BODY_LIMIT": str(ENGINE_BODY_LIMIT)}, flags=flags) as runtime:
        eventually(lambda: runtime.send("/headers/").status == 200, "serving")
        yield runtime


def exchange(runtime: Runtime, name: str) -> tuple[client.Reply, dict[str, int]]:
    runtime.upstream.answer_with(Answer(headers=[("x-up", "1")], chunks=[b"answer", b" body"]))
    replies = []
    phases = runtime.phases_of(
        lambda: replies.append(runtime.send(f"/{name}/", method="POST", body=iter([b"request", b" body"])))
    )
    return replies[0], phases


def test_a_chain_gets_the_phases_it_needs(runtime: Runtime) -> None:
    assert exchange(runtime, "headers")[1] == {"request_headers": 1}
    reply, phases = exchange(runtime, "whole")
    assert (reply.status, bytes(runtime.upstream.last().body)) == (200, b"REQUEST BODY")
    assert phases == {"request_headers": 1, "request_body": 1}
    reply, phases = exchange(runtime, "masks")
    assert (reply.body, phases) == (b"ANSWER BODY", {"request_headers": 1, "response_headers": 1, "response_body": 1})


def test_a_route_with_an_empty_chain_costs_no_message(runtime: Runtime) -> None:
    reply, phases = exchange(runtime, "empty")
    assert (reply.status, phases) == (200, {})


def test_a_chain_that_can_stream_is_streamed(runtime: Runtime) -> None:
    reply, phases = exchange(runtime, "stream")
    assert (reply.status, reply.body) == (200, b"ANSWER BODY")
    assert phases["response_body"] > 1
    assert "request_body" not in phases


def test_response_bodies_are_certain_so_that_no_client_can_raise_a_doubt(runtime: Runtime) -> None:
    runtime.upstream.answer_with(Answer(chunks=[b"a", b"b"], chunk_delay_s=10))
    with pytest.raises(OSError, match="timed out"):
        client.send(runtime.envoy.port, "GET", "/masks/", timeout_s=0.5)
    eventually(lambda: runtime.active() == 0, "without streams")
    reply, _ = exchange(runtime, "masks")
    assert reply.body == b"ANSWER BODY"
    assert runtime.value("policy_engine_broken_promises_total") == 0


@pytest.mark.parametrize("chunked", [False, True])
def test_body_limits_are_the_engine_s_and_not_envoy_s(runtime: Runtime, *, chunked: bool) -> None:
    """Envoy holds a little more than the limit, so that what is just above it still gets the engine's own answer."""
    before = runtime.value("policy_engine_bodies_too_large_total")
    for size, request, response in ((ENGINE_BODY_LIMIT, 200, 200), (ENGINE_BODY_LIMIT + 1, 413, 502)):
        body = b"x" * size
        runtime.upstream.answer_with(Answer.of(b""))
        sent = runtime.send("/whole/", method="POST", body=iter([body]) if chunked else body)
        runtime.upstream.answer_with(Answer(chunks=[body]) if chunked else Answer.of(body))
        assert (sent.status, runtime.send("/masks/").status) == (request, response)
    assert runtime.value("policy_engine_bodies_too_large_total") == before + 2


def test_metadata_reaches_envoy_in_the_namespaces_that_were_named(runtime: Runtime) -> None:
    assert runtime.send("/metadata/").status == 200
    assert runtime.log_lines("/metadata/", 1)[0]["metadata"] == {"who": "alice"}
