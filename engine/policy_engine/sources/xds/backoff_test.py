"""The waits between attempts: bounded, random, and short again only after a stable stream."""

from __future__ import annotations

from policy_engine.sources.xds.backoff import Backoff


def test_the_waits_grow_within_their_bounds() -> None:
    backoff = Backoff(first=0.5, longest=10.0, stable_after=30.0)
    bounds = [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    for bound in bounds:
        assert 0.0 <= backoff.next_delay() <= bound


def test_only_a_stable_stream_starts_the_waits_again() -> None:
    def first_wait_after(lasted: float) -> float:
        backoff = Backoff(first=0.5, longest=10.0, stable_after=30.0)
        for _ in range(8):
            backoff.next_delay()
        backoff.connection_ended(lasted)
        return backoff.next_delay()

    assert max(first_wait_after(29.9) for _ in range(200)) > 5.0
    assert max(first_wait_after(30.0) for _ in range(200)) <= 0.5


def test_many_clients_spread_over_the_whole_interval() -> None:
    delays = []
    for _ in range(400):
        backoff = Backoff(first=8.0, longest=8.0)
        delays.append(backoff.next_delay())
    assert min(delays) < 1.0
    assert max(delays) > 7.0
