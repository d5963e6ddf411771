"""llm-translate through the test kit: requests, answers and streams, with tools, in both directions."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.sdk import ImmediateResponse, ParameterError, Policy, Request
from policy_engine.sdk.testing import Outcome, load_policy, request, response, run

EVENTS = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}
DONE = b"data: [DONE]\n\n"
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def policy(upstream: str = "anthropic", **parameters: Any) -> Policy:
    return load_policy(__file__, {"upstream": upstream, **parameters})


def ask(document: Any, path: str = CHAT) -> Request:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return request("POST", path, headers=JSON, body=body)


def sent(subject: Policy, document: Any, path: str = CHAT) -> Any:
    outcome = run(subject, ask(document, path))
    assert outcome.reached_upstream, outcome.body
    return json.loads(outcome.request.body or b"")


def to_client(subject: Policy, asked: Request, answer: Any, status: int = 200) -> Any:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return json.loads(run(subject, asked, response(status, JSON, body)).body or b"")


def user(text: str = "hi") -> dict[str, Any]:
    return {"role": "user", "content": text}


SIMPLE = {"model": "m", "messages": [user()]}
SIMPLE_MESSAGES = {"model": "m", "max_tokens": 9, "messages": [user()]}
CALL = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
PIXEL = "iVBORw0KGgo="

OPENAI_REQUEST: dict[str, Any] = {
    "model": "m",
    "max_completion_tokens": 50,
    "temperature": 1.5,
    "top_p": 0.5,
    "stop": "END",
    "stream": True,
    "user": "u1",
    "tools": [{"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": SCHEMA}}],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "developer", "content": [{"type": "text", "text": "Be short."}]},
        {"role": "user", "content": [{"type": "text", "text": "Here?"}, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "t2"}]},
        {"role": "tool", "tool_call_id": "t1", "content": "sun"},
        {"role": "tool", "tool_call_id": "t2", "content": "rain"},
        user("And?"),
    ],
}  # fmt: skip
ANTHROPIC_REQUEST: dict[str, Any] = {
    "model": "m",
    "max_tokens": 50,
    "temperature": 1.0,
    "top_p": 0.5,
    "stop_sequences": ["END"],
    "stream": True,
    "metadata": {"user_id": "u1"},
    "system": [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be short."}],
    "tools": [{"name": "weather", "description": "of a city", "input_schema": SCHEMA}],
    "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Here?"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": one, "name": "weather", "input": {"city": "Bonn"}} for one in ("t1", "t2")]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sun"}]},
            {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "rain"}]},
            {"type": "text", "text": "And?"},
        ]},
    ],
}  # fmt: skip


def test_a_request_to_chat_completions_becomes_one_for_messages() -> None:
    outcome = run(policy(), ask(OPENAI_REQUEST))
    assert json.loads(outcome.request.body or b"") == ANTHROPIC_REQUEST
    assert outcome.request.target == MESSAGES
    assert outcome.request.headers["anthropic-version"] == "2023-06-01"


def test_a_request_for_messages_becomes_one_to_chat_completions() -> None:
    outcome = run(policy("openai"), ask(ANTHROPIC_REQUEST, MESSAGES))
    made = json.loads(outcome.request.body or b"")
    expected = {
        **OPENAI_REQUEST,
        "max_tokens": 50,
        "temperature": 1.0,
        "stop": ["END"],
        "stream_options": {"include_usage": True},
    }
    del expected["max_completion_tokens"]
    first, _, asked, called, *rest = OPENAI_REQUEST["messages"]
    calls = [
        {**CALL, "id": one, "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}} for one in ("t1", "t2")
    ]
    expected["messages"] = [{**first, "content": "Be kind.\nBe short."}, asked, {**called, "tool_calls": calls}, *rest]
    assert made == expected
    assert outcome.request.target == CHAT
    assert "anthropic-version" not in outcome.request.headers


def test_what_is_not_said_gets_a_default() -> None:
    assert sent(policy(max_tokens=77), SIMPLE)["max_tokens"] == 77
    assert sent(policy(), {**SIMPLE, "stop": None, "n": 1})["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    ]
    assert sent(policy("openai", cap_field="max_completion_tokens"), SIMPLE_MESSAGES, MESSAGES) == {
        "model": "m",
        "messages": [user()],
        "max_completion_tokens": 9,
    }


@pytest.mark.parametrize(
    ("choice", "made"),
    [("auto", {"type": "auto"}), ("none", {"type": "none"}), ("required", {"type": "any"}),
     ({"type": "function", "function": {"name": "weather"}}, {"type": "tool", "name": "weather"})],
)  # fmt: skip
def test_the_choice_of_tools_is_the_same_in_both(choice: Any, made: Any) -> None:
    tools = OPENAI_REQUEST["tools"]
    assert sent(policy(), {**SIMPLE, "tools": tools, "tool_choice": choice})["tool_choice"] == made
    other = {**SIMPLE_MESSAGES, "tools": ANTHROPIC_REQUEST["tools"], "tool_choice": made}
    assert sent(policy("openai"), other, MESSAGES)["tool_choice"] == choice


@pytest.mark.parametrize(
    ("more", "named"),
    [({"logprobs": True}, "logprobs"), ({"n": 2}, "n"), ({"response_format": {"type": "json_object"}}, "response_format"),
     ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "messages/0")],
)  # fmt: skip
def test_what_the_other_api_has_not_is_refused_unless_it_may_be_dropped(more: dict[str, Any], named: str) -> None:
    outcome = run(policy(), ask({**SIMPLE, **more}))
    assert outcome.status == 400
    assert named in json.loads(outcome.body or b"")["detail"]
    assert run(policy(unsupported="drop"), ask({**SIMPLE, **more})).reached_upstream


@pytest.mark.parametrize(
    "more", [{"top_k": 5}, {"thinking": {"type": "enabled"}}, {"tools": [{"type": "bash_1", "name": "bash"}]}]
)
def test_what_chat_completions_have_not_is_refused(more: dict[str, Any]) -> None:
    assert run(policy("openai"), ask({**SIMPLE_MESSAGES, **more}, MESSAGES)).status == 400


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"{}", b'{"model":"a","model":"b","messages":[]}', b'{"model":"m","messages":{}}', b'{"model":"m","messages":["a"]}',
     b'{"model":"m","messages":[{"role":"root","content":"x"}]}', b'{"model":"m","messages":[{"content":"x"}]}',
     b'{"model":"m","messages":[{"role":"assistant","tool_calls":[{"id":"a","function":{"name":"f","arguments":"{\\"a\\":1,\\"a\\":2}"}}]}]}',
     b'{"model":"m","messages":[{"role":"assistant","tool_calls":[{"id":"a","function":{"name":"f","arguments":"[1]"}}]}]}'],
)  # fmt: skip
@pytest.mark.parametrize("drop", ["drop", "refuse"])
def test_a_request_in_another_shape_is_refused(body: bytes, drop: str) -> None:
    assert run(policy(unsupported=drop), ask(body)).status == 400
    if b"tool_calls" not in body:
        assert run(policy("openai", unsupported=drop), ask(body, MESSAGES)).status == 400


def test_another_path_is_not_served_and_the_upstreams_can_be_chosen() -> None:
    assert run(policy(), ask(SIMPLE, "/v1/embeddings")).status == 404
    assert run(policy(), ask(SIMPLE, MESSAGES)).status == 404
    assert run(policy(path="/a/b"), ask(SIMPLE, CHAT + "?x=1")).request.target == "/a/b?x=1"


MESSAGE: dict[str, Any] = {
    "id": "msg1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Sun"}, {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Bonn"}}],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 5},
}  # fmt: skip
COMPLETION: dict[str, Any] = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Sun", "tool_calls": [CALL]}, "finish_reason": "tool_calls"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
}  # fmt: skip


def test_a_message_becomes_a_chat_completion() -> None:
    made = to_client(policy(), ask(SIMPLE), MESSAGE)
    assert made.pop("created") > 0
    call = {**CALL, "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}}
    message = {"role": "assistant", "content": "Sun", "refusal": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls"}
    assert made == {
        "id": "msg1",
        "model": "claude",
        "object": "chat.completion",
        "choices": [choice],
        "usage": COMPLETION["usage"],
    }


def test_a_chat_completion_becomes_a_message() -> None:
    made = to_client(policy("openai"), ask(SIMPLE_MESSAGES, MESSAGES), COMPLETION)
    expected = {
        **MESSAGE,
        "id": "c1",
        "model": "gpt",
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 5},
    }
    expected["content"] = MESSAGE["content"][1:]
    assert made == expected


@pytest.mark.parametrize(
    ("stop", "finish"),
    [("end_turn", "stop"), ("max_tokens", "length"), ("tool_use", "tool_calls"), ("refusal", "content_filter"), ("stop_sequence", "stop"), ("later", "stop"), (None, "stop")],
)  # fmt: skip
def test_why_it_ended_is_said_in_the_words_of_the_client(stop: str | None, finish: str) -> None:
    assert to_client(policy(), ask(SIMPLE), {**MESSAGE, "stop_reason": stop})["choices"][0]["finish_reason"] == finish
    choice = {**COMPLETION["choices"][0], "finish_reason": finish}
    made = to_client(policy("openai"), ask(SIMPLE_MESSAGES, MESSAGES), {**COMPLETION, "choices": [choice]})
    assert made["stop_reason"] == (stop if stop in ("max_tokens", "tool_use", "refusal") else "end_turn")


@pytest.mark.parametrize("answer", [b"not json", b"[]", {"odd": 1}, b"<html>"])
@pytest.mark.parametrize("upstream", ["anthropic", "openai"])
def test_an_answer_that_cannot_be_read_is_an_error(upstream: str, answer: Any) -> None:
    path = CHAT if upstream == "anthropic" else MESSAGES
    made = to_client(policy(upstream), ask(SIMPLE if path == CHAT else SIMPLE_MESSAGES, path), answer)
    assert "error" in made


def test_errors_are_those_of_the_clients_api() -> None:
    said = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    assert to_client(policy(), ask(SIMPLE), said, 529) == {
        "error": {"message": "busy", "type": "server_error", "param": None, "code": None}
    }
    made = to_client(policy("openai"), ask(SIMPLE_MESSAGES, MESSAGES), {"error": {"message": "slow down"}}, 429)
    assert made == {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}


def named(*documents: dict[str, Any]) -> bytes:
    return b"".join(b"event: %s\ndata: %s\n\n" % (one["type"].encode(), json.dumps(one).encode()) for one in documents)


ANTHROPIC_STREAM = named(
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None, "usage": {"input_tokens": 7, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Sü"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "n"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"city":'}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '"Bonn"}'}},
    {"type": "content_block_stop", "index": 1},
    {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "t2", "name": "time", "input": {}}},
    {"type": "content_block_stop", "index": 2},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {"output_tokens": 5}},
    {"type": "message_stop"},
)  # fmt: skip


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    document = {"id": "c1", "model": "gpt", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def function(at: int, arguments: str, **more: Any) -> dict[str, Any]:
    named_ = {"name": more.pop("name")} if "name" in more else {}
    return {"tool_calls": [{"index": at, **more, "function": {**named_, "arguments": arguments}}]}


OPENAI_STREAM = b"".join(
    [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Sü"}),
        chunk({"content": "n"}),
        chunk(function(0, "", id="t1", name="weather")),
        chunk(function(0, '{"city":')),
        chunk(function(0, '"Bonn"}')),
        chunk(function(1, "", id="t2", name="time")),
        chunk({}, "tool_calls"),
        chunk({}, None, choices=[], usage={"prompt_tokens": 7, "completion_tokens": 5}),
        DONE,
    ]
)


def streamed(subject: Policy, asked: Request, chunks: list[bytes]) -> Outcome:
    return run(subject, asked, response(headers=EVENTS), response_chunks=chunks)


def documents(data: bytes) -> list[dict[str, Any]]:
    lines = [line.removeprefix(b"data: ") for line in data.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def of_stream(chunks: list[bytes], *, usage: bool = True) -> bytes:
    options = {"stream": True, "stream_options": {"include_usage": True}} if usage else {"stream": True}
    return b"".join(streamed(policy(), ask({**SIMPLE, **options}), chunks).response_chunks)


def test_a_stream_of_messages_becomes_one_of_chat_completions() -> None:
    data = of_stream([ANTHROPIC_STREAM])
    assert data.endswith(DONE)
    found = documents(data)
    assert {(one["id"], one["model"], one["object"]) for one in found} == {("msg1", "claude", "chat.completion.chunk")}
    deltas = [one["choices"][0]["delta"] for one in found if one["choices"]]
    assert "".join(one.get("content") or "" for one in deltas) == "Sün"
    calls = [call for one in deltas for call in one.get("tool_calls", [])]
    assert [(one["index"], one.get("id"), one["function"].get("name")) for one in calls] == [
        (0, "t1", "weather"),
        (0, None, None),
        (0, None, None),
        (1, "t2", "time"),
    ]
    assert "".join(one["function"]["arguments"] for one in calls if one["index"] == 0) == '{"city":"Bonn"}'
    assert [one["choices"][0]["finish_reason"] for one in found if one["choices"]][-1] == "tool_calls"
    assert found[-1] | {"created": 0} == {**found[0], "created": 0, "choices": [], "usage": COMPLETION["usage"]}
    assert not any("usage" in one for one in documents(of_stream([ANTHROPIC_STREAM], usage=False)))


def to_messages(chunks: list[bytes]) -> bytes:
    asked = ask({**SIMPLE_MESSAGES, "stream": True}, MESSAGES)
    return b"".join(streamed(policy("openai"), asked, chunks).response_chunks)


def test_a_stream_of_chat_completions_becomes_one_of_messages() -> None:
    found = documents(to_messages([OPENAI_STREAM]))
    kinds = [(one["type"], one.get("index")) for one in found]
    assert kinds == [
        ("message_start", None),
        *[
            ("content_block_start", 0),
            ("content_block_delta", 0),
            ("content_block_delta", 0),
            ("content_block_stop", 0),
        ],
        *[
            ("content_block_start", 1),
            ("content_block_delta", 1),
            ("content_block_delta", 1),
            ("content_block_stop", 1),
        ],
        *[("content_block_start", 2), ("content_block_stop", 2), ("message_delta", None), ("message_stop", None)],
    ]
    assert found[5]["content_block"] == {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}
    assert "".join(one["delta"].get("partial_json", "") for one in found[6:8]) == '{"city":"Bonn"}'
    assert found[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert found[-2]["usage"] == {"input_tokens": 7, "output_tokens": 5}


def test_there_and_back_is_the_same_answer() -> None:
    back = documents(to_messages([of_stream([ANTHROPIC_STREAM])]))
    there = documents(ANTHROPIC_STREAM)
    assert [one for one in back if one["type"].startswith("content")] == [
        one for one in there if one["type"].startswith("content")
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 2000), max_size=8), st.booleans(), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_however_a_stream_is_cut_it_is_the_same(cuts: list[int], to_chat: bool, line_end: bytes) -> None:
    data = (ANTHROPIC_STREAM if to_chat else OPENAI_STREAM).replace(b"\n", line_end)
    ends = sorted({one % len(data) for one in cuts} | {len(data)})
    chunks = [data[start:end] for start, end in itertools.pairwise([0, *ends]) if end > start]
    translate = of_stream if to_chat else to_messages
    found, plain = documents(translate(chunks)), documents(translate([data]))
    assert [{**one, "created": 0} for one in found] == [{**one, "created": 0} for one in plain]
    assert len(found) > 8


def test_a_stream_that_stops_early_is_not_made_whole() -> None:
    cut = ANTHROPIC_STREAM[: ANTHROPIC_STREAM.index(b"event: message_delta")]
    assert b"[DONE]" not in of_stream([cut])
    assert b"message_stop" not in to_messages([chunk({"content": "a"})])
    assert b"message_stop" in to_messages([chunk({"content": "a"}), chunk({}, "stop")]), "it said why it ended"
    failed = of_stream(
        [named({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}), ANTHROPIC_STREAM]
    )
    assert documents(failed) == [
        {"error": {"message": "busy", "type": "invalid_request_error", "param": None, "code": None}}
    ]
    assert to_messages([chunk({"content": "a"}), b'data: {"error":{"message":"busy"}}\n\n']).endswith(
        b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"busy"}}\n\n'
    )


def test_a_compressed_answer_is_refused_and_a_denial_left_alone() -> None:
    packed = response(headers={**JSON, "content-encoding": "br"}, body=b"\x8b")
    assert run(policy(), ask(SIMPLE), packed).status == 502

    class Denies(Policy):
        def on_request_body(self, request: Request) -> ImmediateResponse:
            return ImmediateResponse(403)

    assert json.loads(run([policy(), Denies({})], ask(SIMPLE)).body or b"")["status"] == 403


@pytest.mark.filterwarnings("error::policy_engine.sdk.testing.HeldTimeWarning")
def test_large_bodies_hold_up_nobody() -> None:
    assert (
        len(
            sent(policy(), {"model": "m", "messages": [user(), {"role": "assistant", "content": "x"}] * 10_000})[
                "messages"
            ]
        )
        == 20_000
    )
    piece = named({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}})
    start = ANTHROPIC_STREAM.index(b"event: content_block_delta")
    assert len(documents(of_stream([ANTHROPIC_STREAM[:start] + piece * 5_000]))) > 5_000


@pytest.mark.parametrize(
    ("parameters", "path"),
    [({}, "upstream"), ({"upstream": "gemini"}, "/upstream"), ({"upstream": "openai", "path": "v1"}, "/path"), ({"upstream": "openai", "max_tokens": 0}, "/max_tokens")],
)  # fmt: skip
def test_wrong_parameters_are_refused(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        load_policy(__file__, parameters)
    assert path in (caught.value.path or str(caught.value)) + str(caught.value)
