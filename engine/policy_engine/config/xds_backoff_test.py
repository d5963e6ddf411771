"""The waits between attempts: bounded, random, and short again only after a stable stream."""

from __future__ import annotations

from policy_engine.config.xds_backoff import Backoff


def test_back_off_grows_within_its_bounds_and_starts_again_after_a_stable_stream() -> None:
    backoff = Backoff(first=0.5, longest=10.0, stable_after=30.0)
    bounds = [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    for bound in bounds:
        assert 0.0 <= backoff.next_delay() <= bound
    backoff.connection_ended(29.9)
    assert max(backoff.next_delay() for _ in range(200)) > 5.0
    backoff.connection_ended(30.0)
    assert backoff.next_delay() <= 0.5


def test_many_clients_spread_over_the_whole_interval() -> None:
    delays = []
    for _ in range(400):
        backoff = Backoff(first=8.0, longest=8.0)
        delays.append(backoff.next_delay())
    assert min(delays) < 1.0
    assert max(delays) > 7.0
