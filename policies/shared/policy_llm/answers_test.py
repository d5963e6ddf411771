"""Answers of every API: their texts, which of them go on, where they end, what they cost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_llm import AnswerReader, Reading, Reason

CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def chunk(delta: Any, finish: Any = None, **more: Any) -> dict[str, Any]:
    return {**CHUNK, "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}]}


def event(kind: str, **members: Any) -> dict[str, Any]:
    return {"type": kind, **members}


def read(*documents: Any) -> tuple[AnswerReader, list[Reading]]:
    reader = AnswerReader()
    found = [reader.read(document) for document in documents]
    assert all(one is not None for one in found)
    return reader, [one for one in found if one is not None]


def gone_on(*documents: Any) -> list[str]:
    """Return the texts that go on from document to document, each put together."""
    texts: dict[Any, str] = {}
    for reading in read(*documents)[1]:
        for piece in reading.pieces:
            if not piece.whole:
                texts[piece.key] = texts.get(piece.key, "") + piece.text
    return list(texts.values())


RESPONSES = [
    event("response.created", response={"id": "r", "object": "response", "output": [], "instructions": "BAD"}),
    event("response.output_item.added", output_index=0, item={"type": "message", "id": "i", "content": []}),
    event("response.output_text.delta", item_id="i", output_index=0, content_index=0, delta="one "),
    event("response.output_text.delta", item_id="i", output_index=0, content_index=0, delta="two"),
    event("response.output_text.done", item_id="i", output_index=0, content_index=0, text="one two"),
    event("response.function_call_arguments.delta", item_id="f", output_index=1, delta='{"a'),
    event("response.function_call_arguments.delta", item_id="f", output_index=1, delta='":1}'),
    event("response.completed", response={"usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}}),
]
MESSAGES = [
    event("message_start", message={"usage": {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 1}}),
    event("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}),
    event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "hm"}),
    event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "x"}),
    event("content_block_stop", index=0),
    event("content_block_start", index=1, content_block={"type": "text", "text": ""}),
    event("ping"),
    event("content_block_delta", index=1, delta={"type": "text_delta", "text": "one "}),
    event("content_block_delta", index=1, delta={"type": "text_delta", "text": "two"}),
    event("content_block_start", index=2, content_block={"type": "tool_use", "id": "t", "name": "f", "input": {}}),
    event("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": '{"a":1}'}),
    event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 9}),
    event("message_stop"),
]
GEMINI = [
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "hm", "thought": True}, {"text": "one "}]}}]},
    {
        "candidates": [{"content": {"parts": [{"text": "two"}]}, "finishReason": "STOP"}],
        "usageMetadata": {
            "promptTokenCount": 3,
            "candidatesTokenCount": 2,
            "thoughtsTokenCount": 4,
            "totalTokenCount": 9,
        },
    },
]


@pytest.mark.parametrize(
    ("documents", "texts", "usage"),
    [
        (
            [
                chunk({"role": "assistant", "content": "one "}, ""),
                chunk({"content": "two", "reasoning_content": "hm"}),
                chunk({"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": {"arguments": "{"}}]}),
                chunk({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}),
                {**CHUNK, "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
            ],
            ["one two", "hm", "{}"],
            {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        ),
        ([{"choices": [{"index": 0, "text": "a"}]}, {"choices": [{"index": 0, "text": "b"}]}], ["ab"], {}),
        (RESPONSES, ["one two", '{"a":1}'], {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}),
        (MESSAGES, ["hm", "one two", '{"a":1}'], {"prompt_tokens": 7, "completion_tokens": 9}),
        (GEMINI, ["hm", "one two"], {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}),
    ],
)
def test_streams(documents: list[Any], texts: list[str], usage: dict[str, int]) -> None:
    assert gone_on(*documents) == texts
    counted: dict[str, int] = {}
    for reading in read(*documents)[1]:
        counted.update(reading.usage)
    assert counted == usage


@pytest.mark.parametrize(
    "document",
    [
        {"choices": [{"index": 0, "message": {"content": "ONE", "refusal": "TWO", "reasoning": "THREE"}}]},
        {
            "choices": [
                {
                    "message": {
                        "content": [{"type": "text", "text": "ONE"}],
                        "tool_calls": [{"function": {"arguments": "TWO"}}],
                    }
                }
            ]
        },
        {"object": "response", "output": [{"type": "message", "content": [{"type": "output_text", "text": "ONE"}]}]},
        {"output": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "ONE"}]}, {"arguments": "TWO"}]},
        {"type": "message", "content": [{"type": "text", "text": "ONE"}, {"type": "tool_use", "input": {"a": "TWO"}}]},
        {"candidates": [{"content": {"parts": [{"text": "ONE"}, {"functionCall": {"args": {"a": "TWO"}}}]}}]},
        {"choices": [], "answer": {"x": ["ONE"]}},
        event("response.unheard_of.delta", delta="ONE"),
        event("response.unheard_of", words=["ONE"]),
        event("response.output_item.done", output_index=0, item={"content": [{"type": "output_text", "text": "ONE"}]}),
    ],
)
def test_every_text_of_a_document_is_found(document: Any) -> None:
    text = " ".join(piece.text for piece in read(document)[1][0].pieces)
    assert [one for one in ("ONE", "TWO", "THREE") if one in str(document) and one not in text] == []


@pytest.mark.parametrize("value", ["", None, " ", "null", "None", 0, False, [], {}])
def test_what_says_nothing_is_no_end(value: Any) -> None:
    documents = (
        chunk({"content": "a"}, value),
        {"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": value}]},
        event("message_delta", delta={"stop_reason": value}),
    )
    assert [reading.ends for reading in read(*documents)[1]] == [[], [], []]


def test_ends_are_prefixes_of_the_keys_that_end() -> None:
    reader, (first, last) = read(chunk({"content": "a"}), chunk({}, "stop"))
    [key] = [piece.key for piece in first.pieces]
    assert key[: len(last.ends[0])] == last.ends[0]
    _, responses = read(*RESPONSES)
    assert responses[4].ends == [responses[3].pieces[0].key]
    assert len(responses[-1].ends[0]) == 1
    assert reader.sentinel == b"[DONE]"


@pytest.mark.parametrize(
    "documents", [[chunk({"content": "a"})], RESPONSES[:4], MESSAGES[:8], GEMINI[:1], MESSAGES[:11]]
)
@pytest.mark.parametrize("reason", list(Reason))
def test_what_is_written_is_read_again_as_the_same_text(documents: list[Any], reason: Reason) -> None:
    reader, readings = read(*documents)
    key = [piece.key for reading in readings for piece in reading.pieces if not piece.whole][-1]
    [piece] = (AnswerReader().read(reader.more(key, "more").document) or Reading()).pieces
    assert (piece.key, piece.text, piece.whole) == (key, "more", False)
    ends = [AnswerReader().read(message.document) for message in reader.end(reason)]
    assert any(one is not None and one.ends for one in ends)
    assert not any(piece.text for one in ends for piece in (one or Reading()).pieces)


def test_more_of_a_tool_call_names_only_the_call() -> None:
    call = {"index": 1, "id": "t", "type": "function", "function": {"name": "f", "arguments": "{"}}
    reader, [reading] = read(chunk({"tool_calls": [call]}))
    made = reader.more(reading.pieces[0].key, "}").document["choices"][0]["delta"]
    assert made == {"tool_calls": [{"index": 1, "function": {"arguments": "}"}}]}


@pytest.mark.parametrize(
    "document",
    [
        {"error": {"message": "no", "code": 1}},
        {"type": "error", "error": {"message": "no"}, "request_id": "r"},
        {"object": "list", "data": [{"object": "model", "id": "m"}]},
        {"object": "list", "data": [{"object": "embedding", "embedding": [0.1]}], "usage": {}},
        {"input_tokens": 4},
        {"promptFeedback": {"blockReason": "SAFETY"}},
        [1, 2],
    ],
)
def test_what_holds_no_answer_is_known(document: Any) -> None:
    assert AnswerReader().read(document) is not None


@pytest.mark.parametrize(
    "document",
    [
        {"message": {"role": "assistant", "content": "a"}, "done": False},
        {"error": None, "message": "words"},
        {"error": {"message": "no"}, "words": "a"},
        {"object": "list", "data": ["words"]},
        {"object": "list", "data": [{"object": "text", "text": "words"}]},
        {"generated_text": "a"},
        "words",
        ["words"],
    ],
)
def test_what_no_api_wrote_is_unknown(document: Any) -> None:
    assert AnswerReader().read(document) is None


NAMES = ["choices", "delta", "message", "content", "text", "type", "index", "tool_calls", "output", "item", "part"]
NAMES += ["candidates", "parts", "usage", "usageMetadata", "response", "content_block", "finish_reason", "logprobs"]
KINDS = ["response.output_text.delta", "response.output_text.done", "message", "content_block_delta", "message_start"]


@given(
    st.recursive(
        st.none() | st.text(max_size=3) | st.integers() | st.floats() | st.booleans() | st.sampled_from(KINDS),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
        max_leaves=15,
    )
)
def test_nothing_that_an_upstream_sends_raises(document: Any) -> None:
    reader = AnswerReader()
    found = reader.read(document)
    for piece in found.pieces if found is not None else ():
        reader.more(piece.key, piece.text)
        if isinstance(document, dict):
            reader.mark(document, piece.key, Reason.DENIED)
    if found is not None:
        found.empty_repeats()
    reader.end(Reason.LENGTH)
