"""The product's own policies on bodies that stream through Envoy: masked, counted and ended on the way."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.harness.chain_file import policy
from integration.harness.exchange import Answer
from integration.runtime_stack import Runtime, started

POLICIES = Path(__file__).parent.parent / "policies"
CHAINS = {
    "masked": [policy("pii-masking", "v1.0.0", {"mask": {"label": "<{kind}>"}}, timeout="20s")],
    "guarded": [policy("llm-prompt-guard", "v1.0.0", {"answer": {"deny_words": ["falcon"]}}, timeout="20s")],
    "limited": [policy("llm-token-limit", "v1.0.0", {"max_stream_tokens": 3}, timeout="20s")],
}
OVERRIDES = {
    name: {
        "processing_mode": {
            "request_header_mode": "SEND",
            "response_header_mode": "SEND",
            "response_body_mode": "STREAMED",
        }
    }
    for name in CHAINS
}
TEXT = [("content-type", "text/plain")]


@pytest.fixture(scope="module")
def runtime(transport: str) -> Iterator[Runtime]:
    with started(CHAINS, transport=transport, overrides=OVERRIDES, policies=POLICIES) as runtime:
        yield runtime
        assert runtime.value("policy_engine_handler_errors_total") == 0
        assert runtime.value("policy_engine_protocol_errors_total") == 0


def event(text: str) -> bytes:
    document = {"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def test_a_match_across_chunks_is_masked(runtime: Runtime) -> None:
    chunks = [b"mail jane.d", b"oe@example", b".org\ncard 4111 1111", b" 1111 1111"]
    runtime.upstream.answer_with(Answer(headers=TEXT, chunks=chunks, chunk_delay_s=0.05))
    assert runtime.send("/masked/").body == b"mail <email>\ncard <credit_card>"
    assert dict(runtime.upstream.last().headers)["accept-encoding"] == "identity"


def test_a_masked_body_is_not_bound_to_the_length_that_the_upstream_announced(runtime: Runtime) -> None:
    body = b"from 192.0.2.1 to 2001:db8::1"
    headers = [*TEXT, ("content-length", str(len(body)))]
    runtime.upstream.answer_with(Answer(headers=headers, chunks=[body]))
    assert runtime.send("/masked/").body == b"from <ipv4> to <ipv6>"


def test_a_json_body_is_held_back_and_masked_as_a_whole(runtime: Runtime) -> None:
    headers = [("content-type", "application/json")]
    chunks = [b'{"a":"x\\u00', b'40y.example","b":[1', b"]}"]
    runtime.upstream.answer_with(Answer(headers=headers, chunks=chunks, chunk_delay_s=0.05))
    assert runtime.send("/masked/").body == b'{"a":"<email>","b":[1]}'


def test_a_stream_of_events_ends_well_formed_at_the_limit(runtime: Runtime) -> None:
    chunks = [event("abcd"), event("abcd"), event("abcdefg"), event("never"), b"data: [DONE]\n\n"]
    headers = [("content-type", "text/event-stream")]
    runtime.upstream.answer_with(Answer(headers=headers, chunks=chunks, chunk_delay_s=0.05))
    body = runtime.send("/limited/").body
    assert body.startswith(chunks[0] + chunks[1])
    last, done, rest = body.removeprefix(chunks[0] + chunks[1]).split(b"\n\n")
    assert json.loads(last.removeprefix(b"data: "))["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    assert (done, rest) == (b"data: [DONE]", b"")


def test_an_answer_stops_before_a_find_that_is_spread_over_events(runtime: Runtime) -> None:
    chunks = [event("it is fal"), event("con, SECRET"), event(" and more " * 30), b"data: [DONE]\n\n"]
    headers = [("content-type", "text/event-stream")]
    runtime.upstream.answer_with(Answer(headers=headers, chunks=chunks, chunk_delay_s=0.05))
    body = runtime.send("/guarded/").body
    assert b"it is " in body
    assert b"content_filter" in body
    assert body.endswith(b"data: [DONE]\n\n")
    assert b"fal" not in body


def test_the_first_event_arrives_before_the_second_is_sent(runtime: Runtime) -> None:
    headers = [("content-type", "text/event-stream")]
    runtime.upstream.answer_with(Answer(headers=headers, chunks=[event("a"), event("b")], chunk_delay_s=1.0))
    with socket.create_connection(("127.0.0.1", runtime.envoy.port), 10) as client:
        client.sendall(b"GET /limited/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        received = b""
        while event("a") not in received:
            piece = client.recv(65536)
            assert piece, received
            received += piece
        assert event("b") not in received
        while piece := client.recv(65536):
            received += piece
    assert event("b") in received
