"""rate-limit in process: who is counted, how, what clients are told, and that memory is bounded."""

from __future__ import annotations

import json
import sys
import threading
import time
import tracemalloc
from typing import Any
from weakref import WeakValueDictionary

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError, Policy
from policy_engine.sdk.testing import Outcome, load_policy, policy_class, request, response, run

STRATEGIES = ["moving-window", "sliding-window-counter", "fixed-window"]


class Clock:
    """What the monotonic clock says to counters."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def memory() -> Any:
    return sys.modules[policy_class(__file__).__module__.rpartition(".")[0] + ".memory"]


@pytest.fixture(autouse=True)
def no_counters_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters outlive the policy that asked for them as long as anything holds it, such as a cycle not yet collected."""
    monkeypatch.setattr(memory(), "_shared", WeakValueDictionary())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(memory(), "now", made)
    return made


def policy(*limits: str, **parameters: Any) -> Policy:
    return load_policy(__file__, {"limits": list(limits) or ["2/minute"], **parameters})


def send(subject: Policy, **values: Any) -> Outcome:
    return run(subject, request(**values))


def statuses(subject: Policy, count: int, **values: Any) -> list[int]:
    return [send(subject, **values).status for _ in range(count)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_above_the_limit_429_until_there_is_room_again(strategy: str, clock: Clock) -> None:
    subject = policy("3/minute", strategy=strategy)
    assert statuses(subject, 5) == [200, 200, 200, 429, 429]
    refused = send(subject)
    assert not refused.reached_upstream
    assert json.loads(refused.body or b"")["title"] == "Too Many Requests"
    assert refused.immediate is not None
    assert refused.immediate.grpc_status == 8
    wait = int(refused.response.headers["retry-after"])
    assert 1 <= wait <= 60
    clock.now += 121
    assert statuses(subject, 4) == [200, 200, 200, 429]


@pytest.mark.parametrize("strategy", ["moving-window", "fixed-window"])
def test_retry_after_is_neither_too_short_nor_too_long(strategy: str, clock: Clock) -> None:
    subject = policy("2/minute", strategy=strategy)
    send(subject)
    clock.now += 20.5
    assert send(subject).status == 200
    wait = int(send(subject).response.headers["retry-after"])
    assert wait == 40
    clock.now += wait - 1
    assert send(subject).status == 429
    clock.now += 1.01
    assert send(subject).status == 200


@pytest.mark.parametrize("limits", [("2/second", "5/minute"), ("5/minute", "2/second")])
def test_all_limits_hold_and_a_refused_request_is_charged_to_none(limits: tuple[str, str], clock: Clock) -> None:
    subject = policy(*limits)
    assert statuses(subject, 4) == [200, 200, 429, 429]
    clock.now += 1.1
    assert statuses(subject, 3) == [200, 200, 429]
    clock.now += 1.1
    assert statuses(subject, 2) == [200, 429], "5 in the minute, none of them lost to refusals"


def test_cost(clock: Clock) -> None:
    subject = policy("7/minute", cost=3)
    assert statuses(subject, 3) == [200, 200, 429]
    with pytest.raises(ParameterError):
        policy("2/minute", cost=3)


def test_headers_of_the_draft(clock: Clock) -> None:
    subject = policy("2/10 seconds", "100/hour", headers_on_allowed=True)
    allowed = run(subject, request(), response(headers={"ratelimit": '"upstream";r=1'}))
    assert allowed.response.headers["ratelimit-policy"] == '"2-in-10s";q=2;w=10, "100-in-3600s";q=100;w=3600'
    own = '"2-in-10s";r=1;t=10, "100-in-3600s";r=99;t=3600'
    assert allowed.response.headers.get_all("ratelimit") == ('"upstream";r=1', own)
    send(subject)
    refused = send(subject)
    assert refused.response.headers["ratelimit"].startswith('"2-in-10s";r=0;t=10')


def test_x_ratelimit_headers_tell_the_tightest_limit(clock: Clock) -> None:
    subject = policy("2/10 seconds", "100/hour", headers="x-ratelimit", headers_on_allowed=True)
    told = send(subject).response.headers
    assert [told[f"x-ratelimit-{name}"] for name in ("limit", "remaining", "reset")] == ["2", "1", "10"]


def test_no_response_phase_and_no_headers_unless_asked_for() -> None:
    subject = policy()
    assert send(subject).hooks == ["RateLimit.on_request_headers"]
    assert policy(headers="none", headers_on_allowed=True).idle_phases == ("response_headers",)
    quiet = policy("1/minute", headers="none")
    send(quiet)
    assert sorted(send(quiet).response.headers) == [*("content-length", "content-type", "retry-after", "x-request-id")]


def test_two_in_one_chain_do_not_disturb_each_other() -> None:
    outer = policy("9/minute", headers_on_allowed=True)
    inner = policy("5/hour", key=[{"source": "route"}], headers_on_allowed=True)
    told = run([outer, inner], request()).response.headers.get_all("ratelimit")
    assert told == ('"5-in-3600s";r=4;t=3600', '"9-in-60s";r=8;t=60')


KEYS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"source": "client_address"}, {"client_address": "192.0.2.1"}, {"client_address": "192.0.2.2"}),
    ({"source": "client_address"}, {"client_address": "2001:db8::1"}, {"client_address": "2001:db8:0:1::1"}),
    (
        {"source": "client_address", "trusted_hops": 1},
        {"headers": {"x-forwarded-for": "203.0.113.9, 192.0.2.1"}},
        {"headers": {"x-forwarded-for": "203.0.113.9, 192.0.2.2"}},
    ),
    ({"source": "header", "name": "X-Tenant"}, {"headers": {"x-tenant": "a"}}, {"headers": {"x-tenant": "b"}}),
    (
        {"source": "metadata", "path": ["api_key", "client"]},
        {"metadata": {"api_key": {"client": "a"}}},
        {"metadata": {"api_key": {"client": "b"}}},
    ),
    (
        {"source": "metadata", "path": ["jwt", "groups"]},
        {"metadata": {"jwt": {"groups": ["a", "b"]}}},
        {"metadata": {"jwt": {"groups": ["a,b"]}}},
    ),
    ({"source": "route"}, {"route": "orders"}, {"route": "payments"}),
]


@pytest.mark.parametrize(("part", "one", "other"), KEYS)
def test_each_key_has_its_own_counter(part: dict[str, Any], one: dict[str, Any], other: dict[str, Any]) -> None:
    subject = policy(key=[part])
    assert statuses(subject, 3, **one) == [200, 200, 429]
    assert statuses(subject, 3, **other) == [200, 200, 429]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8::1", "2001:db8::ffff:2"),
        ("2001:db8::1", "[2001:db8::2]:443"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:1000", "192.0.2.1:2000"),
    ],
)
def test_addresses_that_are_one_client(one: str, other: str) -> None:
    subject = policy()
    assert statuses(subject, 2, client_address=one) == [200, 200]
    assert send(subject, client_address=other).status == 429


def test_parts_of_a_key_do_not_run_into_each_other() -> None:
    subject = policy("1/minute", key=[{"source": "header", "name": "a"}, {"source": "header", "name": "b"}])
    assert send(subject, headers={"a": "xy", "b": "z"}).status == 200
    assert send(subject, headers={"a": "x", "b": "yz"}).status == 200


def test_a_constant_counts_all_requests_together() -> None:
    subject = policy(key=[{"source": "constant", "value": "all"}])
    assert [send(subject, client_address=f"192.0.2.{number}").status for number in range(3)] == [200, 200, 429]


MISSING = [
    ({"source": "header", "name": "x-tenant"}, {"headers": {"x-tenant": ""}}),
    ({"source": "header", "name": "x-tenant"}, {}),
    ({"source": "metadata", "path": ["jwt", "sub"]}, {}),
    ({"source": "metadata", "path": ["jwt", "sub"]}, {"metadata": {"jwt": {"sub": ""}}}),
    ({"source": "metadata", "path": ["jwt", "sub"]}, {"metadata": {"jwt": "text"}}),
    ({"source": "metadata", "path": ["jwt"]}, {"metadata": {"jwt": object()}}),
    ({"source": "client_address"}, {"client_address": ""}),
    ({"source": "client_address", "trusted_hops": 2}, {"headers": {"x-forwarded-for": "192.0.2.1"}}),
]


@pytest.mark.parametrize(("part", "lacking"), MISSING)
def test_a_missing_key_is_never_silently_unlimited(part: dict[str, Any], lacking: dict[str, Any]) -> None:
    denied = send(policy(key=[part]), **lacking)
    assert denied.status == 400
    assert statuses(policy(key=[part], on_missing_key="shared"), 3, **lacking) == [200, 200, 429]
    assert statuses(policy(key=[part], on_missing_key="allow"), 3, **lacking) == [200, 200, 200]


@settings(deadline=None, max_examples=200)
@given(
    amount=st.integers(1, 6),
    window=st.integers(1, 20),
    steps=st.lists(st.floats(0, 8, allow_nan=False), min_size=1, max_size=60),
)
def test_moving_window_never_allows_more_in_any_window(amount: int, window: int, steps: list[float]) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory(), "now", clock)
        patch.setattr(memory(), "_shared", WeakValueDictionary())
        subject = policy(f"{amount}/{window} seconds")
        accepted = []
        for step in steps:
            clock.now += step
            if send(subject).status == 200:
                accepted.append(clock.now)
            elif len(accepted) < amount:
                raise AssertionError("refused although there was room")
    for start in accepted:
        assert sum(start <= one < start + window for one in accepted) <= amount


@settings(deadline=None, max_examples=100)
@given(steps=st.lists(st.floats(0, 8, allow_nan=False), min_size=1, max_size=60))
def test_fixed_window_never_allows_more_in_its_window(steps: list[float]) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory(), "now", clock)
        patch.setattr(memory(), "_shared", WeakValueDictionary())
        subject = policy("3/10 seconds", strategy="fixed-window")
        began, count = -100.0, 0
        for step in steps:
            clock.now += step
            if clock.now >= began + 10:
                began, count = clock.now, 0
            count += 1
            assert send(subject).status == (200 if count <= 3 else 429)


def kept(subject: Any) -> list[Any]:
    counters: list[Any] = subject._local.counters("test-route")
    return counters


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_client_that_invents_keys_does_not_exhaust_memory(strategy: str) -> None:
    subject = policy("5/hour", "90/day", strategy=strategy, key=[{"source": "header", "name": "k"}], max_entries=500)

    def invent(count: int, start: int) -> None:
        for number in range(start, start + count):
            assert subject.on_request_headers(request(headers={"k": str(number)})) is None

    invent(1_000, 0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        invent(5_000, 1_000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert [counters.entries for counters in kept(subject)] == [500, 500]
    assert [len(counters) for counters in kept(subject)] == [500, 500]
    assert grown < 1_000_000


def test_entries_of_the_moving_window_are_counted_one_by_one() -> None:
    subject = policy("80/hour", key=[{"source": "header", "name": "k"}], max_entries=100)
    for name in ("a", "b", "c"):
        assert statuses(subject, 80, headers={"k": name}) == [200] * 80
    assert kept(subject)[0].entries == 80
    assert send(subject, headers={"k": "c"}).status == 429, "the newest is kept"
    assert send(subject, headers={"k": "a"}).status == 200, "the oldest is forgotten"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_has_expired_goes_without_a_thread(strategy: str, clock: Clock) -> None:
    threads = threading.active_count()
    subject = policy("5/second", strategy=strategy, key=[{"source": "header", "name": "k"}])
    for number in range(50):
        send(subject, headers={"k": str(number)})
    for _ in range(60):
        clock.now += 2.5
        send(subject, headers={"k": "x"})
    assert kept(subject)[0].entries <= 5
    assert len(kept(subject)[0]) <= 2
    assert threading.active_count() <= threads


def test_a_key_that_is_always_busy_does_not_grow(clock: Clock) -> None:
    subject = policy("3/second")
    for _ in range(200):
        clock.now += 0.4
        send(subject)
    assert kept(subject)[0].entries <= 3


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_a_step_of_the_time_of_day_changes_nothing(
    strategy: str, step: float, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = policy("2/minute", strategy=strategy)
    assert statuses(subject, 3) == [200, 200, 429]
    stepped = time.time() + step
    monkeypatch.setattr(time, "time", lambda: stepped)
    assert send(subject).status == 429
    assert int(send(subject).response.headers["retry-after"]) <= 60
    clock.now += 121
    assert send(subject).status == 200


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_counters_outlive_a_chain_that_is_loaded_anew(strategy: str, clock: Clock) -> None:
    old = policy("2/minute", strategy=strategy)
    assert statuses(old, 3) == [200, 200, 429]
    new = policy("2/minute", "50/hour", strategy=strategy, headers="none")
    old.close()
    del old
    assert send(new).status == 429
    assert send(new, route="another").status == 200, "each route counts for itself"
    other_key = policy("2/minute", strategy=strategy, key=[{"source": "constant", "value": "192.0.2.1"}])
    assert send(other_key).status == 200, "who is counted is part of what a limit is"
    assert send(policy("3/minute", strategy=strategy)).status == 200
    clock.now += 121
    assert send(new).status == 200


def test_one_route_does_not_push_out_the_counters_of_another() -> None:
    subject = policy("1/hour", key=[{"source": "header", "name": "k"}], max_entries=100)
    assert send(subject, headers={"k": "victim"}, route="quiet").status == 200
    for number in range(300):
        send(subject, headers={"k": str(number)}, route="busy")
    assert send(subject, headers={"k": "victim"}, route="quiet").status == 429


def test_a_named_counter_is_shared_by_routes() -> None:
    one, other = policy("2/hour", counter="both"), policy("2/hour", counter="both")
    assert [send(one, route="a").status, send(other, route="b").status, send(one, route="c").status] == [200, 200, 429]


@pytest.mark.parametrize("lines", ["t,t", ["t", "t"], "t, t,", "t"])
def test_a_header_that_is_repeated_is_the_same_client(lines: str | list[str]) -> None:
    subject = policy("1/hour", key=[{"source": "header", "name": "x-tenant"}])
    assert send(subject, headers={"x-tenant": "t"}).status == 200
    assert send(subject, headers={"x-tenant": lines}).status == 429


@pytest.mark.parametrize("lines", ["t,u", ["t", "u"], ",", ""])
def test_a_header_with_several_values_names_no_client(lines: str | list[str]) -> None:
    assert send(policy(key=[{"source": "header", "name": "x-tenant"}]), headers={"x-tenant": lines}).status == 400


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=100), st.text(max_size=60))
def test_no_key_makes_it_fail(raw: bytes, address: str) -> None:
    memory()._shared.clear()  # those of the example before
    subject = policy(key=[{"source": "header", "name": "k"}, {"source": "client_address"}], on_missing_key="shared")
    assert statuses(subject, 3, headers={"k": raw}, client_address=address) == [200, 200, 429]


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"limits": ["2/minute", "2 per 1 minute"]}, "/limits/1"),
        ({"limits": ["many/minute"]}, "/limits/0"),
        ({"limits": ["200000/day"]}, "/limits/0"),
        ({"limits": ["2/minute"], "cost": 3}, "/limits/0"),
        ({"limits": ["2/minute"], "key": [{"source": "header", "name": "a b"}]}, "/key/0/name"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        load_policy(__file__, parameters)
    assert caught.value.path == path
