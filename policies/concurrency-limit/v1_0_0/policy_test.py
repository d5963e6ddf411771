"""concurrency-limit through the test kit: places are taken one by one and given up however a stream ends."""

from __future__ import annotations

import gc
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import ImmediateResponse, ParameterError, Policy, Request
from policy_engine.sdk.testing import entry, load_policy, request, response, run

TEAM = 'request.headers["x-team"]'


def policy(limit: int = 2, **parameters: Any) -> Policy:
    return load_policy(__file__, {"limit": limit, **parameters})


def of(team: str | None = "a") -> Request:
    return request(headers={} if team is None else {"x-team": team})


def taken(subject: Policy, *requests: Request) -> list[int]:
    """Return what each of these requests, all in flight at once, gets: 0 for a place."""
    answers = [subject.on_request_headers(one) for one in requests]
    return [one.status if isinstance(one, ImmediateResponse) else 0 for one in answers]


def test_as_many_as_may_be_are_in_flight_and_each_end_makes_room_for_one() -> None:
    subject = policy()
    first, second, third, fourth = (of() for _ in range(4))
    assert taken(subject, first, second, third) == [0, 0, 429]
    subject.on_stream_end(third)  # it had no place to give up
    assert taken(subject, fourth) == [429]
    subject.on_stream_end(first)
    assert taken(subject, third, fourth) == [0, 429]


def test_each_key_is_counted_by_itself() -> None:
    subject = policy(1, key=TEAM)
    assert taken(subject, of("a"), of("b"), of("a"), of("b"), of("c")) == [0, 0, 429, 429, 0]


def test_those_without_a_key_are_counted_together() -> None:
    subject = policy(1, key=TEAM)
    assert taken(subject, of(None), of(None), of("")) == [0, 429, 0]
    missing = policy(1, key="metadata.jwt.sub")
    assert taken(
        missing, request(), request(metadata={"jwt": {"sub": None}}), request(metadata={"jwt": {"sub": 1}})
    ) == [
        0,
        429,
        0,
    ]


@pytest.mark.parametrize("values", [(1, "1"), ("a", ["a"]), (True, 1), ("x" * 5000, "x" * 5001)])
def test_keys_that_look_alike_are_not_the_same(values: tuple[Any, Any]) -> None:
    subject = policy(1, key="metadata.key")
    assert taken(subject, *(request(metadata={"key": value}) for value in values)) == [0, 0]


def test_without_a_key_all_are_counted_together_and_the_answer_can_be_chosen() -> None:
    outcome = run(policy(1), of("a"))
    assert outcome.reached_upstream
    subject = policy(1, status=503, retry_after=30)
    assert taken(subject, of("a")) == [0]
    outcome = run(subject, of("b"))
    assert (outcome.status, outcome.response.headers["retry-after"]) == (503, "30")
    assert outcome.immediate is not None
    assert outcome.immediate.details == "concurrency_limited"
    subject = policy(1, retry_after=0)
    assert taken(subject, of()) == [0]
    assert "retry-after" not in run(subject, of()).response.headers


class Denies(Policy):
    """Denies."""

    def on_request_headers(self, request: Request) -> ImmediateResponse:
        return ImmediateResponse(403)


class Fails(Policy):
    """Fails in the response."""

    def on_response_headers(self, request: Request, response: Any) -> None:
        raise RuntimeError("broken")


@pytest.mark.parametrize(
    "others", [[], [Denies({})], [entry(Fails({}), failure_mode="closed")], [entry(Fails({}), failure_mode="open")]]
)
def test_a_place_is_given_up_whatever_became_of_the_request(others: list[Any]) -> None:
    subject = policy(1)
    for _ in range(5):
        assert run([subject, *others], of(), response(200, body=b"x")).status != 429
    assert taken(subject, of()) == [0]


def test_a_request_that_the_condition_passes_by_takes_no_place() -> None:
    subject = policy(1)
    assert taken(subject, of()) == [0]
    outcome = run([entry(subject, condition='request.path == "/other"')], request("GET", "/health"))
    assert outcome.reached_upstream


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_the_count_is_that_of_the_requests_in_flight(events: list[tuple[str, bool]]) -> None:
    subject = policy(3, key=TEAM)
    flying: dict[str, list[Request]] = {"a": [], "b": [], "c": []}
    for team, ends in events:
        if ends and flying[team]:
            subject.on_stream_end(flying[team].pop())
        else:
            asked = of(team)
            admitted = taken(subject, asked) == [0]
            assert admitted is (len(flying[team]) < 3)
            if admitted:
                flying[team].append(asked)
    for one in (one for requests in flying.values() for one in requests):
        subject.on_stream_end(one)
    assert subject._in_flight == {}  # type: ignore[attr-defined]


def test_the_number_of_keys_in_flight_costs_nothing() -> None:
    def cost(count: int) -> float:
        subject = policy(1, key=TEAM)
        assert set(taken(subject, *(of(f"t{number}") for number in range(count)))) == {0}
        asked = [of(f"new-{number}") for number in range(500)]
        times = []
        for _ in range(5):
            gc.disable()
            started = time.thread_time()
            for one in asked:
                subject.on_request_headers(one)
                subject.on_stream_end(one)
            times.append(time.thread_time() - started)
            gc.enable()
        return min(times)

    costs = [cost(count) for count in (500, 1000, 2000)]
    assert max(costs) < 3 * min(costs), costs


def test_a_key_that_is_no_expression_is_refused() -> None:
    with pytest.raises(ParameterError) as caught:
        policy(key="metadata.")
    assert caught.value.path == "/key"


@pytest.mark.parametrize(
    "parameters", [{}, {"limit": 0}, {"limit": 1, "key": ""}, {"limit": 1, "status": 500}, {"limit": "1"}]
)
def test_parameters_that_the_schema_rules_out(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="/"):
        load_policy(__file__, parameters)
