"""llm-budget through the test kit: charged is what was used, however an answer ends, and nobody gets more than there is."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.sdk import ImmediateResponse, ParameterError, Policy, Request
from policy_engine.sdk.testing import Outcome, load_policy, request, response, run, run_async

EVENTS = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}
DONE = b"data: [DONE]\n\n"
_numbers = itertools.count()


def policy(amount: float = 1000, name: str = "", **parameters: Any) -> Policy:
    budget = {"name": name or f"b{next(_numbers)}", "amount": amount, "window": "month", "unit": "completion_tokens"}
    budget |= {
        key: parameters.pop(key) for key in ("unit", "window", "key", "per_model", "models") if key in parameters
    }
    given = {"budgets": [budget], "answer_reserve": 50, "stream_reserve": 10, "characters_per_token": 1, **parameters}
    return load_policy(__file__, given)


def taken(subject: Policy) -> list[int]:
    """Return what is taken from all budgets of the process that are not empty."""
    ledger: Any = subject._ledger  # type: ignore[attr-defined]
    return [amount for amount, _ in ledger._taken.values() if amount]


@pytest.fixture(autouse=True)
def _nothing_taken() -> None:
    ledger: Any = policy()._ledger  # type: ignore[attr-defined]
    ledger._taken.clear()


def received(outcome: Outcome) -> bytes:
    return b"".join(outcome.response_chunks)


def ask(stream: bool = True, model: str = "m", **members: Any) -> Request:
    document = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}], **members}
    return request("POST", "/v1/chat/completions", headers=JSON, body=json.dumps(document).encode())


def event(text: str, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": more.pop("finish", None)}
    return b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice], **more}).encode() + b"\n\n"


def usage(prompt: int, completion: int) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}}


def streamed(subject: Policy, pieces: list[bytes], asked: Request | None = None, status: int = 200) -> Outcome:
    return run(subject, asked or ask(), response(status, headers=EVENTS), response_chunks=pieces)


def whole(subject: Policy, document: Any, status: int = 200, **members: Any) -> Outcome:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return run(subject, ask(stream=False, **members), response(status, headers=JSON, body=body))


STREAM = [event("a" * 30), event("", finish="stop"), event("", **usage(7, 25)), DONE]


def test_a_stream_is_charged_by_its_usage_and_passes_as_it_is() -> None:
    subject = policy()
    outcome = streamed(subject, STREAM)
    assert received(outcome) == b"".join(STREAM)
    assert taken(subject) == [25]
    assert json.loads(outcome.request.body or b"")["stream_options"] == {"include_usage": True}
    assert outcome.request.headers["accept-encoding"] == "identity"
    assert outcome.metric("requests", outcome="admitted") == 1


@pytest.mark.parametrize(("unit", "charged"), [("tokens", 32), ("prompt_tokens", 7), ("completion_tokens", 25)])
def test_what_counts_can_be_chosen(unit: str, charged: int) -> None:
    subject = policy(unit=unit)
    streamed(subject, STREAM)
    assert taken(subject) == [charged]


def test_a_stream_without_usage_is_charged_by_its_texts() -> None:
    subject = policy(unit="tokens")
    outcome = streamed(subject, [event("abc"), event("de", finish="stop"), DONE])
    estimate = outcome.metadata["llm_budget"]["prompt_tokens_estimate"]
    assert taken(subject) == [estimate + 5]


def test_usage_that_came_before_the_end_does_not_hide_what_came_after_it() -> None:
    start = {
        "type": "message_start",
        "message": {"type": "message", "content": [], "usage": {"input_tokens": 3, "output_tokens": 1}},
    }
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x" * 40}}
    stop = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 12}}
    lines = [b"event: e\ndata: " + json.dumps(one).encode() + b"\n\n" for one in (start, delta, stop)]
    subject = policy(unit="tokens")
    streamed(subject, lines[:2])  # the upstream went away
    assert taken(subject) == [43]
    other = policy(name="other", unit="tokens")
    streamed(other, lines)
    assert taken(other)[-1] == 15


def test_a_stream_is_stopped_midway_at_the_event_that_goes_over() -> None:
    subject = policy(45)
    pieces = [event("a" * 20), event("b" * 20), event("c" * 20), event("SECRET"), DONE]
    outcome = streamed(subject, pieces)
    body = received(outcome)
    assert body.startswith(pieces[0] + pieces[1])
    last, done, rest = body.removeprefix(pieces[0] + pieces[1]).split(b"\n\n")
    assert json.loads(last.removeprefix(b"data: "))["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    assert (done, rest) == (b"data: [DONE]", b"")
    # One event over the budget, which the upstream did write.
    assert taken(subject) == [60]
    assert outcome.metric("streams_stopped") == 1
    refused = streamed(subject, pieces)
    assert (refused.status, refused.reached_upstream) == (429, False)
    assert taken(subject) == [60]


@pytest.mark.parametrize(
    ("first", "second", "ends"),
    [
        ({"type": "response.output_text.delta", "delta": "x" * 20}, {"type": "response.output_text.delta", "delta": "y" * 20}, b"response.incomplete"),
        ({"candidates": [{"content": {"parts": [{"text": "x" * 20}]}}]}, {"candidates": [{"content": {"parts": [{"text": "y" * 20}]}}]}, b"MAX_TOKENS"),
        ({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x" * 20}}, {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "y" * 20}}, b"message_stop"),
        ({"choices": [{"index": 0, "text": "x" * 20}]}, {"choices": [{"index": 0, "text": "y" * 20}]}, b'"finish_reason":"length"'),
        ({"odd": "x" * 20}, {"odd": "y" * 20}, b"budget_exceeded"),
    ],
)  # fmt: skip
def test_every_api_ends_in_its_own_way(first: dict[str, Any], second: dict[str, Any], ends: bytes) -> None:
    outcome = streamed(policy(30), [b"data: " + json.dumps(one).encode() + b"\n\n" for one in (first, second)])
    body = received(outcome)
    assert ends in body
    assert b"yyyy" not in body
    assert body.endswith(b"\n\n")


def test_streams_at_the_same_time_do_not_take_more_than_there_is() -> None:
    subject = policy(100)

    async def all_at_once() -> list[Outcome]:
        pieces = [event("a" * 5) for _ in range(12)]
        return await asyncio.gather(
            *(run_async(subject, ask(), response(headers=EVENTS), response_chunks=pieces) for _ in range(8))
        )

    outcomes = asyncio.run(all_at_once())
    delivered = sum(received(one).count(b"aaaaa") for one in outcomes if one.status == 200) * 5
    assert delivered <= 100
    assert delivered <= sum(taken(subject)) <= 100 + 8 * 5


def test_a_whole_answer_needs_room_for_all_it_may_have() -> None:
    subject = policy(100)
    assert whole(subject, {"choices": [{"message": {"content": "x"}}], **usage(1, 30)}, max_tokens=70).status == 200
    assert taken(subject) == [30]
    assert whole(subject, {}, max_tokens=71).status == 429
    assert whole(subject, {}, max_tokens=35, n=3).status == 429
    assert whole(subject, {}, max_tokens=1, max_completion_tokens=71).status == 429
    # A body without a word about usage is charged by its texts.
    assert whole(subject, {"choices": [{"message": {"content": "x" * 9}}]}, max_tokens=70).status == 200
    assert taken(subject) == [39]


@pytest.mark.parametrize("body", [b"not json", b'{"choices":[{"mess'])
def test_a_whole_answer_that_cannot_be_read_is_charged_by_its_text(body: bytes) -> None:
    subject = policy()
    whole(subject, body)
    assert taken(subject) == [len(body)]


def test_what_reached_no_model_costs_nothing() -> None:
    class Denies(Policy):
        def on_request_body(self, request: Request) -> ImmediateResponse:
            return ImmediateResponse(403)

    subject = policy()
    assert run([subject, Denies({})], ask()).status == 403
    assert taken(subject) == []
    assert streamed(subject, [b"data: {}\n\n"], status=500).status == 500
    assert whole(subject, {"error": {"message": "overloaded"}}, status=529).status == 529
    run(subject, ask(), response(503, origin="envoy"))
    assert taken(subject) == []


def test_a_failure_that_says_what_it_used_is_charged() -> None:
    subject = policy()
    whole(subject, {"error": {"message": "late"}, "choices": [], **usage(5, 9)}, status=500)
    assert taken(subject) == [9]


def test_an_exchange_without_a_response_stays_charged_with_what_it_held() -> None:
    subject = policy(unit="tokens")

    class Asks(Policy):
        """Leaves without a response, as when the client goes away."""

    exchange = ask()

    async def cut() -> None:
        found = subject.on_request_body(exchange)
        assert not isinstance(found, ImmediateResponse)
        subject.on_stream_end(exchange)
        subject.on_stream_end(exchange)

    asyncio.run(cut())
    estimate = exchange.metadata["llm_budget"]["prompt_tokens_estimate"]
    assert taken(subject) == [estimate + 10]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=8), st.integers(1, 90))
def test_however_a_stream_is_cut_the_charge_and_the_answer_are_the_same(cuts: list[int], amount: int) -> None:
    pieces = [
        event("wörld" * 2),
        b": ping\n\n",
        event("b" * 20),
        event("", finish="stop"),
        event("", **usage(7, 33)),
        DONE,
    ]
    data = b"".join(pieces)
    ends = sorted({one % len(data) for one in cuts} | {len(data)})
    chunks = [data[start:end] for start, end in itertools.pairwise([0, *ends]) if end > start]
    plain, cut = policy(amount), policy(amount)
    first = streamed(plain, pieces)
    before = taken(plain)
    second = streamed(cut, chunks)
    assert (received(first), first.status) == (received(second), second.status)
    charged = before[-1] if before else 0
    assert (taken(cut)[-1] if len(taken(cut)) > len(before) else 0) == charged
    if first.status == 200:
        assert charged <= amount + 33, "no more than one event over"


def test_clients_models_and_windows_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = policy(30, key="metadata.api_key.client", per_model=True, window="hour")

    def status(client: str, model: str = "m") -> int:
        document = {"model": model, "max_tokens": 20, "messages": []}
        asked = request("POST", "/", body=json.dumps(document).encode(), metadata={"api_key": {"client": client}})
        return run(
            subject, asked, response(headers=JSON, body=json.dumps({"choices": [], **usage(0, 20)}).encode())
        ).status

    assert [status("a"), status("a"), status("b"), status("a", "other")] == [200, 429, 200, 200]
    monkeypatch.setattr(sys.modules[type(subject).__module__], "steady_time", lambda: 4e9)
    assert status("a") == 200


def test_a_budget_is_for_its_models_alone() -> None:
    subject = policy(1, models=["gpt-4*"], stream_reserve=1)
    assert whole(subject, {}, model="gpt-4o").status == 429
    assert whole(subject, {}, model="gpt-3").status == 200


PRICES = [{"model": "dear-*", "input": 3, "output": 15.5}, {"model": "*", "input": 0, "output": 0.001}]


def test_money_is_counted_to_the_smallest_part() -> None:
    subject = policy(0.0007, unit="money", prices=PRICES)
    answer = {"choices": [], **usage(100, 20)}
    assert whole(subject, answer, model="dear-1", max_tokens=20).status == 200
    assert taken(subject) == [100 * 3000 + 20 * 15500]
    assert whole(subject, answer, model="dear-1", max_tokens=20).status == 429
    assert whole(subject, answer, model="cheap", max_tokens=20).status == 200
    assert taken(subject) == [100 * 3000 + 20 * 15500 + 20]


def test_a_model_without_a_price_is_refused_unless_it_is_free() -> None:
    assert whole(policy(1, unit="money", prices=PRICES[:1]), {}).status == 403
    assert whole(policy(1, unit="money", prices=PRICES[:1], unknown_price="free"), {}).status == 200


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/v1beta/models/gemini-2.0:streamGenerateContent", {"contents": []}, "gemini-2.0"),
        ("/openai/deployments/gpt%204/chat/completions", {"messages": []}, "gpt 4"),
        ("/v1/messages", {"model": "claude", "messages": []}, "claude"),
    ],
)
def test_the_model_is_found_where_each_api_has_it(path: str, body: dict[str, Any], model: str) -> None:
    outcome = run(policy(), request("POST", path, body=json.dumps(body).encode()), response(headers=JSON, body=b"{}"))
    assert outcome.metadata["llm_budget"]["model"] == model


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{", b'{"model":"cheap","model":"dear"}', b'{"model":["m"]}', b'{"model":""}', b'{"stream":"true"}',
     b'{"stream":1}', b'{"model":"' + b"m" * 300 + b'"}', b'{"model":"m","messages":NaN}'],
)  # fmt: skip
def test_a_request_that_can_be_read_in_two_ways_is_refused(body: bytes) -> None:
    assert run(policy(), request("POST", "/", body=body)).status == 400
    assert run(policy(not_json="pass"), request("POST", "/", body=body), response(200)).status == 200


def test_two_models_in_one_request_are_refused() -> None:
    body = b'{"model":"cheap","messages":[]}'
    assert run(policy(), request("POST", "/deployments/dear/chat", body=body)).status == 400
    assert run(policy(), request("POST", "/deployments/cheap/chat", body=body), response(200)).status == 200


def test_a_request_without_a_body_is_none_to_a_model() -> None:
    assert run(policy(1), request("GET", "/v1/models"), response(200)).status == 200


def test_a_refusal_tells_the_client_when_and_the_operator_which() -> None:
    subject = policy(1, "team-day")
    outcome = whole(subject, {})
    assert outcome.status == 429
    problem = json.loads(outcome.body or b"")
    assert problem["error"] == {"message": problem["detail"], "type": "insufficient_quota", "code": "budget_exceeded"}
    assert 1 <= int(outcome.response.headers["retry-after"]) <= 31 * 86400
    assert outcome.immediate is not None
    assert outcome.immediate.details == "llm_budget_used_up:team-day"
    assert b"team-day" not in (outcome.body or b"")


def test_a_missing_key_is_refused_or_shared() -> None:
    assert whole(policy(key="metadata.jwt.team"), {}).status == 400
    subject = policy(60, key="metadata.jwt.team", on_missing_key="shared")
    assert whole(subject, {"choices": [], **usage(0, 40)}).status == 200
    assert whole(subject, {}).status == 429


def test_a_compressed_stream_is_refused_or_stays_charged_with_what_it_held() -> None:
    packed = {**EVENTS, "content-encoding": "br"}
    subject = policy()
    assert run(subject, ask(), response(headers=packed), response_chunks=[b"\x8b"]).status == 502
    assert taken(subject) == [10]
    lets = policy(unreadable="pass", name="lets")
    assert run(lets, ask(), response(headers=packed), response_chunks=[b"\x8b"]).response_chunks == [b"\x8b"]
    assert taken(lets) == [10, 10]


def test_an_event_without_end_ends_the_stream_or_passes_uncounted() -> None:
    pieces = [event("a"), b"data: " + b"x" * (1 << 20), b"y" * 1000]
    outcome = streamed(policy(), pieces)
    assert b"budget_unreadable" in received(outcome)
    assert b"yyy" not in received(outcome)
    subject = policy(unreadable="pass", name="lets")
    assert received(streamed(subject, pieces)) == b"".join(pieces)
    assert taken(subject)[-1] == 10


@pytest.mark.filterwarnings("error::policy_engine.sdk.testing.HeldTimeWarning")
@pytest.mark.parametrize("size", [16_000, 2_000_000])
def test_many_events_at_once_hold_up_nobody(size: int) -> None:
    subject = policy(10**9, stream_reserve=1)
    piece = event("a") * (size // len(event("a")))
    assert received(streamed(subject, [piece, DONE])) == piece + DONE
    assert taken(subject) == [size // len(event("a"))]


def test_what_is_asked_for_does_not_grow_with_the_events_of_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = policy(150, stream_reserve=1)
    ledger: Any = subject._ledger  # type: ignore[attr-defined]
    asks: list[int] = []
    take = ledger.take

    def counted(*given: Any) -> Any:
        asks.append(1)
        return take(*given)

    monkeypatch.setattr(ledger, "take", counted)
    assert received(streamed(subject, [event("a") * 400])).count(event("a")) == 150
    assert len(asks) <= 4


def test_budgets_outlive_a_chain_that_is_loaded_anew() -> None:
    first = policy(60, "kept")
    whole(first, {"choices": [], **usage(0, 40)})
    second = policy(80, "kept")
    assert whole(second, {}).status == 429
    assert whole(second, {}, max_tokens=40).status == 200


def test_memory_is_bounded() -> None:
    subject = policy(key='request.headers["x-a"]', max_entries=100)
    ledger: Any = subject._ledger  # type: ignore[attr-defined]
    ledger.most = 100
    for number in range(150):
        asked = request("POST", "/", headers={"x-a": str(number)}, body=b"{}")
        run(subject, asked, response(headers=JSON, body=b"{}"))
    assert len(ledger) == 100


@pytest.mark.parametrize(
    ("parameters", "path", "said"),
    [
        ({"budgets": [{"name": "a", "amount": 1.5, "window": "day"}]}, "/budgets/0/amount", "whole"),
        ({"budgets": [{"name": "a", "amount": 1, "window": "day", "unit": "money"}]}, "/prices", "needs prices"),
        ({"budgets": [{"name": "a", "amount": 1, "window": "day", "key": "metadata."}]}, "/budgets/0/key", "line 1"),
        ({"budgets": [{"name": "a", "amount": 1, "window": "day"}] * 2}, "/budgets/1/name", "another budget a"),
        ({"budgets": [{"name": "a", "amount": 1, "window": "day"}], "prices": [{"model": "*", "input": 0.0001, "output": 1}]}, "/prices/0/input", "three decimals"),
        ({"budgets": [{"name": "a", "amount": 1, "window": "day"}], "redis": {"url": "redis://u:p@h/0"}}, "/redis/url", "credentials"),
        ({"budgets": [{"name": "a", "amount": 1, "window": "year"}]}, "/budgets/0/window", "hour"),
        ({"budgets": []}, "/budgets", ""),
    ],
)  # fmt: skip
def test_wrong_parameters_are_refused_with_their_place(parameters: dict[str, Any], path: str, said: str) -> None:
    with pytest.raises(ParameterError) as caught:
        load_policy(__file__, parameters)
    assert path in (caught.value.path or str(caught.value))
    assert said in str(caught.value)
    assert "u:p" not in str(caught.value)
