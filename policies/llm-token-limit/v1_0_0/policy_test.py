"""llm-token-limit through the test kit: prompts, caps, usage, and streams however they are cut."""

from __future__ import annotations

import json
import logging
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError, Policy
from policy_engine.sdk.testing import Outcome, load_policy, request, response, run

EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def policy(**parameters: Any) -> Policy:
    return load_policy(__file__, parameters)


def ask(subject: Policy, document: Any) -> Outcome:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return run(subject, request("POST", "/v1/chat/completions", headers=JSON, body=raw))


def sent(outcome: Outcome) -> Any:
    return json.loads(outcome.request.body or b"")


def event(text: str, index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    document = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def streamed(subject: Policy, pieces: list[bytes], headers: dict[str, str] | None = None) -> Outcome:
    return run(subject, request(), response(headers=headers or EVENTS), response_chunks=pieces)


DONE = b"data: [DONE]\n\n"
STREAM = [event("Hello"), event(" wörld"), event("", usage=USAGE), DONE]


def test_a_prompt_is_refused_above_the_limit_and_only_there() -> None:
    document = {"messages": [{"role": "user", "content": "x" * 400}]}
    # 400 characters, 4 of "user", 11 of the two names: 104 tokens, and 4 for the message
    assert ask(policy(max_prompt_tokens=108), document).reached_upstream
    outcome = ask(policy(max_prompt_tokens=107), document)
    assert (outcome.status, outcome.reached_upstream) == (413, False)
    problem = json.loads(outcome.body or b"")
    assert (problem["status"], problem["error"]["code"]) == (413, "context_length_exceeded")
    assert outcome.metadata["llm_usage"] == {"prompt_tokens_estimate": 108}


@pytest.mark.parametrize(
    "document",
    [
        {"messages": [{"content": [{"type": "text", "text": "x" * 4000}]}]},
        {"messages": [], "tools": [{"function": {"description": "x" * 4000}}]},
        {"prompt": ["x" * 2000, "x" * 2000]},
        {"prompt": list(range(1000))},
        {"input": "x" * 4000},
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:" + "x" * 9}}]}]},
        {"messages": [{"tool_calls": [{"function": {"arguments": "x" * 4000}}]}]},
    ],
)
def test_all_that_the_model_reads_counts(document: dict[str, Any]) -> None:
    assert ask(policy(max_prompt_tokens=999), document).status == 413
    assert ask(policy(max_prompt_tokens=1100), document).reached_upstream


def test_the_estimate_can_be_tuned() -> None:
    assert ask(policy(max_prompt_tokens=100, characters_per_token=1), {"prompt": "x" * 101}).status == 413
    assert ask(policy(max_prompt_tokens=100, characters_per_token=2), {"prompt": "x" * 101}).reached_upstream


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ({}, {"max_tokens": 50}),
        ({"max_tokens": 10}, {"max_tokens": 10}),
        ({"max_tokens": 51}, {"max_tokens": 50}),
        ({"max_completion_tokens": 900}, {"max_completion_tokens": 50}),
        ({"max_tokens": 10, "max_output_tokens": 900}, {"max_tokens": 10, "max_output_tokens": 50}),
        ({"max_tokens": "900"}, {"max_tokens": 50}),
        ({"max_tokens": -1}, {"max_tokens": 50}),
        ({"max_tokens": True}, {"max_tokens": 50}),
        ({"max_tokens": 1e9}, {"max_tokens": 50}),
        ({"max_tokens": None}, {"max_tokens": 50}),
    ],
)
def test_what_is_asked_for_is_capped(asked: dict[str, Any], got: dict[str, Any]) -> None:
    assert sent(ask(policy(max_completion_tokens=50), {"prompt": "a", **asked})) == {"prompt": "a", **got}


def test_an_unchanged_request_goes_on_byte_for_byte() -> None:
    raw = b'{ "prompt": "a", "max_tokens": 5 }'
    assert ask(policy(max_completion_tokens=50), raw).request.body == raw


def test_usage_is_asked_for_only_in_streams() -> None:
    subject = policy(ask_for_usage=True)
    assert sent(ask(subject, {"stream": True, "stream_options": {"x": 1}}))["stream_options"] == {
        "x": 1,
        "include_usage": True,
    }
    assert sent(ask(subject, {"stream": False})) == {"stream": False}
    assert ask(subject, {}).request.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("raw", [b"{", b"[]", b'{"max_tokens":1,"max_tokens":9999}'])
def test_what_is_not_a_json_object_is_refused_unless_the_operator_lets_it_pass(raw: bytes) -> None:
    assert ask(policy(max_completion_tokens=5), raw).status == 400
    assert ask(policy(max_completion_tokens=5, not_json="pass"), raw).request.body == raw
    assert ask(policy(), b"").reached_upstream


def test_a_stream_passes_byte_for_byte_and_its_usage_is_read(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        outcome = streamed(policy(max_stream_tokens=100), STREAM)
    assert outcome.response_chunks == STREAM
    assert outcome.metadata["llm_usage"] == {"completion_tokens_estimate": 3, **USAGE}
    assert [record.__dict__["fields"] for record in caplog.records] == [outcome.metadata["llm_usage"]]


def test_an_event_goes_on_as_soon_as_it_is_whole() -> None:
    whole = b"".join(STREAM[:2])
    outcome = streamed(policy(), [whole[:50], whole[50 : len(STREAM[0]) + 10], whole[len(STREAM[0]) + 10 :]])
    assert outcome.response_chunks == [STREAM[0], STREAM[1]]


def test_a_stream_that_goes_over_ends_well_formed() -> None:
    pieces = [event("abcd"), event("abcd", 1), event("abcde"), event("SECRET"), DONE]
    outcome = streamed(policy(max_stream_tokens=3), pieces)
    assert outcome.hooks.count("LlmTokenLimit.on_response_chunk") == 3  # the stream is over, what follows is dropped
    out = b"".join(outcome.response_chunks)
    assert out.startswith(pieces[0] + pieces[1])
    rest = out.removeprefix(pieces[0] + pieces[1])
    assert rest.endswith(b"\n\n" + DONE)
    last = json.loads(rest.removesuffix(DONE).removeprefix(b"data: "))
    ends = [{"index": 0, "delta": {}, "finish_reason": "length"}, {"index": 1, "delta": {}, "finish_reason": "length"}]
    assert last == {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": ends}
    assert outcome.metadata["llm_usage"]["ended"] == "token_limit"


def test_the_reported_usage_counts_too_and_so_do_tool_calls() -> None:
    assert b"length" in b"".join(
        streamed(policy(max_stream_tokens=5), [event("a", usage={"completion_tokens": 6})]).response_chunks
    )
    call = {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"arguments": "x" * 40}}]}}]}
    out = streamed(policy(max_stream_tokens=5), [b"data: " + json.dumps(call).encode() + b"\n\n"])
    assert b"length" in b"".join(out.response_chunks)


def test_text_completions_end_in_their_own_form() -> None:
    piece = b'data: {"choices":[{"index":0,"text":"' + b"x" * 40 + b'"}]}\n\n'
    out = b"".join(streamed(policy(max_stream_tokens=5), [piece]).response_chunks)
    assert json.loads(out.removesuffix(DONE)[6:])["choices"] == [{"index": 0, "text": "", "finish_reason": "length"}]


def test_events_without_end_and_compressed_streams_do_not_get_round_the_limit() -> None:
    out = b"".join(streamed(policy(max_stream_tokens=5), [b"data: " + b"x" * 600_000] * 3).response_chunks)
    assert b"event_too_large" in out
    assert out.endswith(DONE)
    packed = {**EVENTS, "content-encoding": "gzip"}
    assert streamed(policy(max_stream_tokens=5), [b"\x1f\x8b"], packed).response_chunks == []
    assert streamed(policy(), [b"\x1f\x8b"], packed).response_chunks == [b"\x1f\x8b"]


def test_json_answers() -> None:
    body = json.dumps({"choices": [{"message": {"content": "four"}}], "usage": {**USAGE, "odd": {}}}).encode()
    for outcome in (
        run(policy(), request(), response(headers=JSON, body=body)),
        streamed(policy(), [body[:9], body[9:]], JSON),
    ):
        assert outcome.metadata["llm_usage"] == {"completion_tokens_estimate": 1, **USAGE}
    whole = run(policy(), request(), response(headers=JSON, body=body))
    assert whole.dynamic_metadata["policy.llm_token_limit"] == {"completion_tokens_estimate": 1, **USAGE}
    assert whole.body == body


def test_a_whole_answer_of_events_is_cut_too() -> None:
    whole = run(policy(max_stream_tokens=1), request(), response(headers=EVENTS, body=b"".join(STREAM)))
    assert whole.body == b"".join(streamed(policy(max_stream_tokens=1), [b"".join(STREAM)]).response_chunks)
    assert b"length" in (whole.body or b"")


def test_two_entries_each_count_the_whole_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="policy.llm-token-limit")
    outcome = run([policy(), policy()], request(), response(headers=EVENTS), response_chunks=STREAM)
    assert b"".join(outcome.response_chunks) == b"".join(STREAM)
    lines = [record for record in caplog.records if getattr(record, "event", "") == "llm_usage"]
    assert len(lines) == 2


PARTS = st.sampled_from(
    [*STREAM, b": ping\n\n", b"data: {\n\n", b"data: [1]\n\n", b"\n", b"\r\n", b"data: x", b"\xff", event("x" * 30)]
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(PARTS, max_size=8).map(b"".join),
    st.lists(st.integers(0, 2000), max_size=6),
    st.sampled_from([1, 5, 12, 1000]),
)
def test_chunks_make_no_difference(raw: bytes, cuts: list[int], limit: int) -> None:
    places = sorted({cut % (len(raw) + 1) for cut in cuts})
    pieces = [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)]
    cut, whole = (streamed(policy(max_stream_tokens=limit), some) for some in (pieces, [raw]))
    assert b"".join(cut.response_chunks) == b"".join(whole.response_chunks)
    assert cut.metadata == whole.metadata
    if "ended" not in whole.metadata.get("llm_usage", {}):
        assert b"".join(whole.response_chunks) == raw


def test_wrong_parameters() -> None:
    with pytest.raises(ParameterError):
        policy(max_completion_tokens=10, max_stream_tokens=9)


def named(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


RESPONSES = [
    named("response.created", response={"id": "r", "object": "response", "model": "m"}, sequence_number=0),
    named(
        "response.output_text.delta", item_id="i", output_index=0, content_index=0, delta="x" * 12, sequence_number=1
    ),
    named("response.output_text.done", item_id="i", output_index=0, content_index=0, text="x" * 12, sequence_number=2),
    named("response.completed", response={"usage": {"input_tokens": 4, "output_tokens": 3, "total_tokens": 7}}),
]
MESSAGES = [
    named("message_start", message={"usage": {"input_tokens": 4, "output_tokens": 1}}),
    named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    named("content_block_delta", index=0, delta={"type": "text_delta", "text": "x" * 12}),
    named("content_block_stop", index=0),
    named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3}),
    named("message_stop"),
]
GEMINI = [
    b'data: {"candidates":[{"content":{"parts":[{"text":"xxxxxxxxxxxx"}]},"index":0}]}\r\n\r\n',
    b'data: {"candidates":[],"usageMetadata":{"promptTokenCount":4,"candidatesTokenCount":3,"totalTokenCount":7}}\r\n\r\n',
]
APIS = {"responses": RESPONSES, "messages": MESSAGES, "gemini": GEMINI}


@pytest.mark.parametrize("api", APIS)
def test_streams_of_other_apis_are_counted_and_pass_byte_for_byte(api: str) -> None:
    outcome = streamed(policy(max_stream_tokens=3), APIS[api])
    assert b"".join(outcome.response_chunks) == b"".join(APIS[api])
    usage = outcome.metadata["llm_usage"]
    assert (usage["completion_tokens_estimate"], usage["prompt_tokens"], usage["completion_tokens"]) == (3, 4, 3)
    assert "unknown" not in usage


@pytest.mark.parametrize(
    ("api", "says"),
    [
        ("responses", b'"incomplete_details":{"reason":"max_output_tokens"}'),
        ("messages", b'"stop_reason":"max_tokens"'),
        ("gemini", b'"finishReason":"MAX_TOKENS"'),
    ],
)
def test_streams_of_other_apis_end_in_their_own_way(api: str, says: bytes) -> None:
    for pieces in (APIS[api], [bytes([byte]) for byte in b"".join(APIS[api])]):
        outcome = streamed(policy(max_stream_tokens=2), pieces)
        out = b"".join(outcome.response_chunks)
        assert (says in out, b"xxx" in out, b"[DONE]" in out) == (True, False, False)
        assert outcome.metadata["llm_usage"]["ended"] == "token_limit"
    if api == "messages":
        assert out.index(b"content_block_stop") < out.index(b"max_tokens") < out.index(b"message_stop")
    if api == "responses":
        assert b"event: response.incomplete\n" in out


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_the_last_event_counts_without_its_empty_line_whatever_ends_lines(line_end: bytes) -> None:
    raw = b"".join([event("Hello"), event("", usage=USAGE)]).rstrip(b"\n").replace(b"\n", line_end)
    outcome = streamed(policy(max_stream_tokens=5), [raw])
    assert outcome.response_chunks == [raw]
    assert outcome.metadata["llm_usage"] == {"completion_tokens_estimate": 2, **USAGE}
    assert b"length" in b"".join(streamed(policy(max_stream_tokens=2), [raw]).response_chunks)


def test_an_event_that_ends_in_bare_cr_goes_on_at_once() -> None:
    piece = event("a").replace(b"\n", b"\r")
    assert streamed(policy(), [piece, b"", b"\n", piece]).response_chunks == [piece, b"\n", piece]


@pytest.mark.parametrize(
    "odd",
    [
        rb'{"choices":[{"delta":{"content":"\x41\ud800%s"}}]}' % (b"x" * 40),
        b'{"choices":[],"usage":{"completion_tokens":99},"x":NaN,"x":' + b"1" * 5000 + b"}",
        b'{"message":{"content":"' + b"x" * 40 + b'"},"done":false}',
        b"x" * 40,
    ],
)
def test_whatever_an_upstream_sends_counts(odd: bytes) -> None:
    data = b"data: " + odd + b"\n\n"
    assert data not in streamed(policy(max_stream_tokens=5), [event("a"), data, event("SECRET")]).response_chunks
    assert streamed(policy(), [event("a"), data, event("b")]).response_chunks == [event("a"), data, event("b")]


def test_unknown_shapes_are_counted_and_the_operators_choice() -> None:
    odd = b'data: {"message":"x"}\n\n'
    passed = streamed(policy(), [odd, odd, event("a")])
    assert passed.response_chunks == [odd, odd, event("a")]
    assert passed.metadata["llm_usage"]["unknown"] == 2
    denied = streamed(policy(unknown_shape="deny"), [event("a"), odd, event("b")])
    assert denied.metadata["llm_usage"]["ended"] == "unknown_shape"
    assert b"".join(denied.response_chunks).startswith(event("a") + b'data: {"error"')
    large = [event("a"), b"data: " + b"x" * 2_000_000, b"x\n\n", event("b")]
    outcome = streamed(policy(), large)
    assert b"".join(outcome.response_chunks) == b"".join(large)
    assert outcome.metadata["llm_usage"]["unknown"] == 1


@pytest.mark.parametrize(
    ("document", "characters"),
    [
        ({"object": "response", "output": [{"content": [{"type": "output_text", "text": "x" * 40}]}]}, 40),
        ({"type": "message", "content": [{"type": "text", "text": "x" * 40}]}, 40),
        ({"candidates": [{"content": {"parts": [{"text": "x" * 20}, {"text": "x" * 20}]}}]}, 40),
        ([{"candidates": [{"content": {"parts": [{"text": "x" * 20}]}}]}] * 2, 40),
    ],
)
def test_whole_answers_of_other_apis(document: Any, characters: int) -> None:
    body = json.dumps(document).encode()
    outcome = streamed(policy(), [body[:7], body[7:]], JSON)
    assert b"".join(outcome.response_chunks) == body
    assert outcome.metadata["llm_usage"] == {"completion_tokens_estimate": characters // 4}


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ({"input": "a"}, {"input": "a", "max_output_tokens": 50}),
        ({"contents": []}, {"contents": [], "generationConfig": {"maxOutputTokens": 50}}),
        (
            {"contents": [], "generationConfig": {"maxOutputTokens": 99, "topK": 1}},
            {"contents": [], "generationConfig": {"maxOutputTokens": 50, "topK": 1}},
        ),
        (
            {"contents": [], "generation_config": {"max_output_tokens": 99}},
            {"contents": [], "generation_config": {"max_output_tokens": 50}},
        ),
    ],
)
def test_caps_stand_where_each_api_has_them(asked: dict[str, Any], got: dict[str, Any]) -> None:
    assert sent(ask(policy(max_completion_tokens=50), asked)) == got


def test_prompts_of_other_apis_count() -> None:
    for document in (
        {"contents": [{"parts": [{"text": "x" * 4000}]}]},
        {"contents": [], "systemInstruction": {"parts": [{"text": "x" * 4000}]}},
        {"prompt": "", "suffix": "x" * 4000},
        {"input": [{"type": "function_call_output", "output": "x" * 4000}]},
        {"messages": [], "system": "x" * 4000},
    ):
        assert ask(policy(max_prompt_tokens=999), document).status == 413
        assert ask(policy(max_prompt_tokens=1100), document).reached_upstream


def test_much_is_read_in_another_process_with_the_same_result() -> None:
    subject: Any = policy(max_stream_tokens=10_000, max_completion_tokens=5)
    calls = []

    async def away(function: Any, arguments: tuple[Any, ...]) -> Any:
        calls.append(function.__name__)
        return pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(arguments)))))

    subject._away = away
    pieces = [event("a"), event("b" * 30_000), event("c" * 20_000), event("d")]
    outcome = streamed(subject, pieces)
    assert outcome.response_chunks[:2] == pieces[:2]
    assert b"length" in outcome.response_chunks[2]
    assert outcome.metadata["llm_usage"]["ended"] == "token_limit"
    assert sent(ask(subject, {"prompt": "x" * 30_000}))["max_tokens"] == 5
    assert calls == ["fed", "fed", "measure"]
