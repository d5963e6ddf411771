"""The product's own policies on bodies that stream through Envoy: masked, counted and ended on the way."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
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
    "redacted": [policy("llm-prompt-guard", "v1.0.0", {"answer": {"deny_words": ["falcon"], "action": "redact"}})],
    "prompted": [policy("llm-prompt-guard", "v1.0.0", {"prompt": {"deny_words": ["falcon"]}}, timeout="20s")],
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
    if name != "prompted"
}
TEXT = [("content-type", "text/plain")]
EVENTS = [("content-type", "text/event-stream")]
DONE = b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
def runtime(transport: str) -> Iterator[Runtime]:
    with started(CHAINS, transport=transport, overrides=OVERRIDES, policies=POLICIES) as runtime:
        yield runtime
        assert runtime.value("policy_engine_handler_errors_total") == 0
        assert runtime.value("policy_engine_protocol_errors_total") == 0


def event(text: str, **choice: object) -> bytes:
    document = {"id": "c", "choices": [{"index": 0, "delta": {"content": text}, **choice}]}
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
    runtime.upstream.answer_with(Answer(headers=EVENTS, chunks=chunks, chunk_delay_s=0.05))
    body = runtime.send("/limited/").body
    assert body.startswith(chunks[0] + chunks[1])
    last, done, rest = body.removeprefix(chunks[0] + chunks[1]).split(b"\n\n")
    assert json.loads(last.removeprefix(b"data: "))["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    assert (done, rest) == (b"data: [DONE]", b"")


def test_an_answer_stops_before_a_find_that_is_spread_over_events(runtime: Runtime) -> None:
    chunks = [event("it is fal"), event("con, SECRET"), event(" and more " * 30), b"data: [DONE]\n\n"]
    runtime.upstream.answer_with(Answer(headers=EVENTS, chunks=chunks, chunk_delay_s=0.05))
    body = runtime.send("/guarded/").body
    assert b"it is " in body
    assert b"content_filter" in body
    assert body.endswith(b"data: [DONE]\n\n")
    assert b"fal" not in body


def delta(text: str) -> bytes:
    members = {"item_id": "i", "output_index": 0, "content_index": 0, "delta": text}
    document = {"type": "response.output_text.delta", **members}
    return b"event: response.output_text.delta\ndata: " + json.dumps(document).encode() + b"\n\n"


COMPLETED = (
    b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":{"output_tokens":9}}}\n\n'
)


def streamed(runtime: Runtime, path: str, *chunks: bytes) -> bytes:
    runtime.upstream.answer_with(Answer(headers=EVENTS, chunks=list(chunks), chunk_delay_s=0.02))
    return runtime.send(path).body


@pytest.mark.parametrize(
    "piece", [delta, lambda text: event(text, finish_reason="")], ids=["responses", "empty finish"]
)
def test_a_word_over_deltas_reaches_nobody_in_whatever_shape(runtime: Runtime, piece: Callable[[str], bytes]) -> None:
    chunks = [*map(piece, ["it is fal", "con", ", SECRET"]), COMPLETED if piece is delta else DONE]
    body = streamed(runtime, "/guarded/", *chunks)
    assert b"fal" not in body
    assert b"SECRET" not in body
    assert (b"response.incomplete" if piece is delta else b"content_filter") in body
    body = streamed(runtime, "/redacted/", *chunks)
    assert b"it is [redacted], SECRET" in body
    assert body.endswith(chunks[-1])


def test_a_stream_of_responses_is_counted_and_ends_in_its_own_way(runtime: Runtime) -> None:
    body = streamed(runtime, "/limited/", delta("abcd"), delta("abcd"), delta("abcdefg"), COMPLETED)
    assert body.startswith(delta("abcd") * 2 + b"event: response.incomplete\n")
    assert b"abcdefg" not in body
    body = streamed(runtime, "/limited/", delta("abcd"), COMPLETED)
    assert body.startswith(delta("abcd") + b"event: response.incomplete\n")


def test_events_that_say_nothing_pass_and_nothing_held_is_lost(runtime: Runtime) -> None:
    odd = [b"data:\n\n", b"event: ping\n\n", b": ping\n\n", b"data: \n\n"]
    body = streamed(runtime, "/guarded/", event("fi"), *odd, event("ne"), event("", finish_reason="stop"), DONE)
    assert all(one in body for one in odd)
    assert b'"fine"' in body
    assert body.endswith(DONE)
    chunks = [event("ab"), *odd, event("c"), DONE]
    assert streamed(runtime, "/limited/", *chunks) == b"".join(chunks)


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_the_last_event_is_read_without_its_empty_line_whatever_ends_lines(runtime: Runtime, line_end: bytes) -> None:
    def lines(*events: bytes) -> list[bytes]:
        whole = b"".join(events).rstrip(b"\n").replace(b"\n", line_end)
        return [whole[at : at + 5] for at in range(0, len(whole), 5)]

    assert b"length" in streamed(runtime, "/limited/", *lines(event("abcd"), event("x" * 40)))
    short = lines(event("abcd"), event("abcd"))
    assert streamed(runtime, "/limited/", *short) == b"".join(short)
    body = streamed(runtime, "/guarded/", *lines(event("it is fal"), event("con, SECRET")))
    assert b"content_filter" in body
    assert b"fal" not in body
    body = streamed(runtime, "/redacted/", *lines(event("it is fal"), event("con.")))
    assert b"it is [redacted]." in body


def test_a_large_prompt_is_looked_at_in_a_helper_process(runtime: Runtime) -> None:
    runtime.upstream.answer_with(Answer(headers=TEXT, chunks=[b"ok"]))
    for end, status in (("fal\u200bcon", 403), ("eagle", 200)):
        body = json.dumps({"instructions": "be \u0301 kind " * 5_000 + end, "input": "hi"}).encode()
        reply = runtime.send("/prompted/", method="POST", body=body, headers=[("content-type", "application/json")])
        assert reply.status == status


def test_an_event_that_ends_in_bare_cr_arrives_before_the_next_is_sent(runtime: Runtime) -> None:
    first, second = (event(text).replace(b"\n", b"\r") for text in "ab")
    assert first in received_before(runtime, first, second)


def test_the_first_event_arrives_before_the_second_is_sent(runtime: Runtime) -> None:
    assert event("a") in received_before(runtime, event("a"), event("b"))


def received_before(runtime: Runtime, first: bytes, second: bytes) -> bytes:
    """Return what a client has of a stream as soon as it has `first`, which must be before `second` is sent."""
    runtime.upstream.answer_with(Answer(headers=EVENTS, chunks=[first, second], chunk_delay_s=1.0))
    with socket.create_connection(("127.0.0.1", runtime.envoy.port), 10) as client:
        client.sendall(b"GET /limited/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        received = b""
        while first not in received:
            piece = client.recv(65536)
            assert piece, received
            received += piece
        before = received
        assert second not in before
        while piece := client.recv(65536):
            received += piece
    assert second in received
    return before
