"""llm-usage through the test kit: what is counted and told, for every API, and that nothing of an answer changes."""

from __future__ import annotations

import itertools
import json
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.sdk import ImmediateResponse, ParameterError, Policy, Request
from policy_engine.sdk.testing import Outcome, load_policy, request, response, run

EVENTS = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}
DONE = b"data: [DONE]\n\n"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "very secret"}]}


def policy(**parameters: Any) -> Policy:
    return load_policy(__file__, parameters)


def ask(document: Any = CHAT, path: str = "/v1/chat/completions") -> Request:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return request("POST", path, headers=JSON, body=body)


def events(*documents: Any) -> list[bytes]:
    return [b"data: " + json.dumps(one).encode() + b"\n\n" for one in documents]


def streamed(
    pieces: list[bytes], asked: Request | None = None, subject: Policy | None = None, status: int = 200
) -> Outcome:
    return run(subject or policy(), asked or ask(), response(status, EVENTS), response_chunks=pieces)


def whole(document: Any, asked: Request | None = None, subject: Policy | None = None, status: int = 200) -> Outcome:
    answer = response(status, JSON, json.dumps(document).encode())
    return run(subject or policy(), asked or ask(), answer)


def labels(model: str = "gpt-4o", provider: str = "openai", operation: str = "chat") -> dict[str, str]:
    return {"gen_ai_operation_name": operation, "gen_ai_provider_name": provider, "gen_ai_request_model": model}


def tokens(outcome: Outcome, **of: str) -> list[float]:
    """Return the sums of tokens of prompt and answer."""
    return [
        outcome.metric("gen_ai_client_token_usage", **labels(**of), gen_ai_token_type=kind)
        for kind in ("input", "output")
    ]


CHUNK = {"id": "c1", "model": "gpt-4o-1", "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]}
LAST = {"id": "c1", "model": "gpt-4o-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {"id": "c1", "model": "gpt-4o-1", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 25}}
STREAM = [*events(CHUNK, LAST, USAGE), DONE]


def test_a_stream_is_counted_and_passes_as_it_is() -> None:
    outcome = streamed(STREAM, ask({**CHAT, "stream": True, "max_tokens": 50}))
    assert outcome.response_chunks == STREAM
    assert json.loads(outcome.request.body or b"")["stream_options"] == {"include_usage": True}
    assert outcome.metadata["gen_ai"] == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.max_tokens": 50,
        "gen_ai.response.id": "c1",
        "gen_ai.response.model": "gpt-4o-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 25,
    }
    assert outcome.metric("gen_ai_client_operation_duration", **labels(), error_type="none") == 1
    assert outcome.metric("gen_ai_server_time_to_first_token", **labels()) == 1
    assert outcome.metric("gen_ai_server_time_per_output_token", **labels()) == 1
    assert tokens(outcome) == [1, 1]
    assert outcome.metric("unreported") == 0


RESPONSE = {
    "id": "r1",
    "object": "response",
    "model": "gpt-5",
    "status": "completed",
    "output": [],
    "usage": {"input_tokens": 3, "output_tokens": 4},
}
MESSAGE = {
    "id": "m1",
    "type": "message",
    "model": "claude-1",
    "content": [],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 4},
}
CANDIDATES = {
    "responseId": "g1",
    "modelVersion": "gemini-1",
    "candidates": [{"finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4},
}


@pytest.mark.parametrize(
    ("path", "body", "answer", "told"),
    [
        ("/v1/responses", {"model": "m", "input": "hi"}, RESPONSE, ("chat", "openai", "r1", "gpt-5", ["completed"])),
        ("/v1/messages", {"model": "m", "messages": []}, MESSAGE, ("chat", "anthropic", "m1", "claude-1", ["end_turn"])),
        ("/v1beta/models/m:generateContent", {"contents": []}, CANDIDATES, ("generate_content", "gcp.gemini", "g1", "gemini-1", ["STOP"])),
        ("/v1/completions", {"model": "m", "prompt": "hi"}, {"id": "t1", "model": "t", "choices": [{"text": "a", "finish_reason": "length"}], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}, ("text_completion", "openai", "t1", "t", ["length"])),
    ],
)  # fmt: skip
@pytest.mark.parametrize("streams", [False, True])
def test_every_api_is_told_in_the_same_words(
    path: str, body: dict[str, Any], answer: dict[str, Any], told: tuple[Any, ...], streams: bool
) -> None:
    if not streams:
        outcome = whole(answer, ask(body, path))
    elif answer is RESPONSE:
        started = {"type": "response.created", "response": {**RESPONSE, "status": "in_progress", "usage": None}}
        outcome = streamed(events(started, {"type": "response.completed", "response": RESPONSE}), ask(body, path))
    elif answer is MESSAGE:
        start = {
            "type": "message_start",
            "message": {**MESSAGE, "stop_reason": None, "usage": {"input_tokens": 3, "output_tokens": 1}},
        }
        stop = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}}
        outcome = streamed(events(start, stop, {"type": "message_stop"}), ask(body, path))
    else:
        outcome = streamed(events(answer), ask(body, path))
    found = outcome.metadata["gen_ai"]
    names = (
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.response.id",
        "gen_ai.response.model",
        "gen_ai.response.finish_reasons",
    )
    assert tuple(found[name] for name in names) == told
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (3, 4)
    assert tokens(outcome, model="m", provider=told[1], operation=told[0]) == [1, 1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=8))
def test_however_a_stream_is_cut_the_same_is_told(cuts: list[int]) -> None:
    data = b"".join(STREAM)
    ends = sorted({one % len(data) for one in cuts} | {len(data)})
    chunks = [data[start:end] for start, end in itertools.pairwise([0, *ends]) if end > start]
    outcome = streamed(chunks)
    assert outcome.response_chunks == chunks
    assert outcome.metadata["gen_ai"] == streamed(STREAM).metadata["gen_ai"]


def test_an_error_is_counted_as_one_and_the_model_of_the_client_is_no_label() -> None:
    outcome = whole({"error": {"message": "no"}}, ask({**CHAT, "model": "made-up"}), status=404)
    assert outcome.metric("gen_ai_client_operation_duration", **labels("other", "other"), error_type="404") == 1
    assert outcome.metadata["gen_ai"]["error.type"] == "404"
    assert outcome.metric("unreported") == 0


def test_a_denial_of_another_policy_is_no_answer_of_a_model() -> None:
    class Denies(Policy):
        def on_request_body(self, request: Request) -> ImmediateResponse:
            return ImmediateResponse(403)

    outcome = run([policy(), Denies({})], ask())
    assert outcome.status == 403
    assert outcome.metric("gen_ai_client_operation_duration", **labels("other", "other"), error_type="403") == 1


def test_models_and_provider_can_be_chosen() -> None:
    subject = policy(provider="azure.ai.openai", models=["gpt-4*"])
    for model, label in (("gpt-4o", "gpt-4o"), ("o3", "other"), ("x\ngpt-4", "other")):
        outcome = whole({**USAGE}, ask({**CHAT, "model": model}), subject)
        assert tokens(outcome, model=label, provider="azure.ai.openai") == [1, 1]


def test_series_are_bounded_whatever_clients_send() -> None:
    subject = policy()
    for number in range(150):
        whole({**USAGE}, ask({**CHAT, "model": f"m{number}"}), subject)
    histogram: Any = subject.gen_ai_client_token_usage  # type: ignore[attr-defined]
    assert len({tuple(labels.items()) for ending, labels, _ in histogram.samples() if ending == "_count"}) <= 102


def test_what_says_nothing_is_told_so_and_nothing_is_estimated() -> None:
    outcome = streamed(events(CHUNK, LAST))
    assert outcome.metric("unreported") == 1
    assert tokens(outcome) == [0, 0]
    packed = run(policy(), ask(), response(headers={**EVENTS, "content-encoding": "br"}), response_chunks=[b"\x8b"])
    assert packed.response_chunks == [b"\x8b"]
    assert packed.metric("unreported") == 1
    large = [b"data: " + b"x" * (1 << 20), b"y" * 100]
    assert streamed(large).response_chunks == large


@pytest.mark.parametrize(
    "body", [b"not json", b"[]", b"{}", b'{"model":["m"],"messages":[]}', b'{"messages":[],"messages":[]}', b""]
)
def test_what_is_no_request_to_a_model_passes_and_is_not_counted(body: bytes) -> None:
    outcome = whole({"a": 1}, ask(body))
    assert (outcome.status, outcome.request.body or b"") == (200, body)
    assert "gen_ai" not in outcome.metadata


def test_one_line_for_each_request_and_no_text_in_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        streamed(STREAM)
    (record,) = [one for one in caplog.records if one.name == "policy.llm-usage"]
    fields = record.__dict__["fields"]
    assert fields["gen_ai.usage.output_tokens"] == 25
    assert fields["gen_ai.client.operation.duration"] >= 0
    assert "secret" not in str(fields)


def test_usage_is_not_asked_for_where_that_is_not_wanted() -> None:
    asked = ask({**CHAT, "stream": True})
    assert streamed(STREAM, asked, policy(ask_for_usage=False)).request.body == asked.body


@pytest.mark.filterwarnings("error::policy_engine.sdk.testing.HeldTimeWarning")
def test_large_bodies_hold_up_nobody() -> None:
    asked = ask({**CHAT, "messages": [{"role": "user", "content": "x"}] * 20_000})
    assert len(streamed([STREAM[0] * 10_000, *STREAM], asked).response_chunks) == 5


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"models": []}, "/models"),
        ({"provider": "Two Words"}, "/provider"),
        ({"ask_for_usage": "yes"}, "/ask_for_usage"),
    ],
)
def test_wrong_parameters_are_refused(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        policy(**parameters)
    assert path in (caught.value.path or str(caught.value))
