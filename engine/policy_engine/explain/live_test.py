"""Who listens to a worker process, what they want, and that nothing grows while nobody takes it."""

from __future__ import annotations

import pytest

from policy_engine.explain.live import MOST_WAITING, PER_SECOND, Filter, LiveTrace
from policy_engine.explain.record import ExchangeRecord
from policy_engine.explain.recorder import Ended
from policy_engine.sdk import Headers, Request, Response
from policy_engine.worker.conditions.condition import ConditionRefused


def request(path: str = "/", route: str = "r", **metadata: object) -> Request:
    return Request(Headers.of({":path": path, ":method": "GET"}), route=route, metadata=dict(metadata))


def end(live: LiveTrace, one: Request, status: int = 200) -> None:
    wanted = live.wants(one)
    if wanted is not None:
        wanted.ended(Ended(ExchangeRecord("now", one.route), one, Response(Headers.of({":status": str(status)}))))


def test_each_listener_gets_what_it_wants() -> None:
    called = []
    live = LiveTrace(3, lambda: called.append(1))
    assert not live.watching
    live.listen(1, Filter())
    live.listen(2, Filter(route="shop*"))
    live.listen(3, Filter(where='request.path == "/a"', body_limit=9))
    live.listen(4, Filter(where="response.status >= 400"))
    live.listen(5, Filter(where='"m" in metadata'))
    assert live.watching
    end(live, request("/a", "shop-1"))
    end(live, request("/b"), 404)
    end(live, request("/b", m=1))
    taken, dropped = live.take(10)
    assert [numbers for numbers, _ in taken] == [[1, 2, 3], [1, 4], [1, 5]]
    assert (dropped, len(called)) == (0, 3)
    assert {record["worker"] for _, record in taken} == {3}
    assert live.take(10) == ([], 0)


def test_only_what_somebody_may_want_is_recorded() -> None:
    live = LiveTrace(0, lambda: None)
    live.listen(1, Filter(route="a"))
    live.listen(2, Filter(where='request.path == "/x"', body_limit=5))
    assert live.wants(request("/y", "b")) is None
    wanted = live.wants(request("/x", "a"))
    assert wanted is not None
    assert wanted.body_limit == 5


@pytest.mark.parametrize(
    ("wanted", "route", "holds"),
    [
        ("a", "a", True), ("a", "ab", False), ("a*", "ab", True), ("*", "", True), ("a*c", "abc", True),
        ("shop/[x]", "shop/[x]", True), ("shop/[x]*", "shop/[x]/y", True), ("a?", "ab", False), ("a?", "a?", True),
        ("[ab]", "a", False),
    ],
)  # fmt: skip
def test_routes_are_chosen_as_chain_files_write_them(wanted: str, route: str, *, holds: bool) -> None:
    live = LiveTrace(0, lambda: None)
    live.listen(1, Filter(route=wanted))
    assert (live.wants(request(route=route)) is not None) == holds


def test_a_condition_that_cannot_be_answered_does_not_hold() -> None:
    live = LiveTrace(0, lambda: None)
    live.listen(1, Filter(where='request.headers["none"] == "x"'))
    assert live.wants(request()) is None


def test_what_nobody_takes_is_dropped_and_counted_and_not_even_recorded() -> None:
    now = 0.0
    live = LiveTrace(0, lambda: None, lambda: now)
    live.listen(1, Filter())
    for _ in range(MOST_WAITING + 7):
        end(live, request())
    taken, dropped = live.take(10 * MOST_WAITING)
    assert (len(taken), dropped) == (MOST_WAITING, 7)
    now = 1.0
    end(live, request())
    assert live.take(5) == ([([1], {"time": "now", "route": "r", "verdict": "passed", "worker": 0})], 0)


def test_only_so_many_are_recorded_in_a_second() -> None:
    now = 0.0
    live = LiveTrace(0, lambda: None, lambda: now)
    live.listen(1, Filter())
    recorded = 0
    for second in range(4):
        now = float(second)
        for _ in range(1000):
            end(live, request())
            recorded += len(live.take(10)[0])
    assert recorded == MOST_WAITING + 3 * PER_SECOND


def test_of_a_stream_that_outlives_its_listener_nothing_is_kept() -> None:
    live = LiveTrace(0, lambda: None)
    live.listen(1, Filter())
    wanted = live.wants(request())
    live.leave(1)
    assert not live.watching
    assert wanted is not None
    wanted.ended(Ended(ExchangeRecord("now", "r"), request(), None))
    assert live.take(5) == ([], 0)


def test_a_condition_that_is_none_is_refused() -> None:
    with pytest.raises(ConditionRefused):
        LiveTrace(0, lambda: None).listen(1, Filter(where="request.pth"))
