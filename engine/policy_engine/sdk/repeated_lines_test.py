"""A line that comes with every request is logged a few times and counted after that, whatever makes it up."""

from __future__ import annotations

import logging

import pytest

from policy_engine.sdk.repeated_lines import BURST, MOST_KINDS, NEW_KINDS, SUPPRESSED, RepeatedLines

LOGGER = logging.getLogger("policy_engine.repeated_lines_test")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines(clock: Clock, caplog: pytest.LogCaptureFixture) -> RepeatedLines:
    caplog.set_level(logging.INFO, LOGGER.name)
    return RepeatedLines(LOGGER, clock)


def test_the_first_lines_are_logged_and_the_next_says_how_many_were_not(
    lines: RepeatedLines, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    before = SUPPRESSED.count
    for _ in range(500):
        lines.log(logging.ERROR, "a", "no chain for %s", "x")
    assert len(caplog.records) == BURST
    assert SUPPRESSED.count - before == 500 - BURST
    clock.now = 1.0
    lines.log(logging.ERROR, "a", "no chain for %s", "x", extra={"event": "e"})
    last = caplog.records[-1]
    assert last.getMessage() == f"no chain for x (and {500 - BURST} more like it)"
    assert (last.__dict__["event"], last.__dict__["repeats"]) == ("e", 500 - BURST)


def test_kinds_do_not_share_an_allowance(lines: RepeatedLines, caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("a", "b"):
        for _ in range(100):
            lines.log(logging.ERROR, kind, kind)
    assert [record.getMessage() for record in caplog.records] == ["a"] * BURST + ["b"] * BURST


def test_who_makes_up_kinds_gets_no_line_for_each(lines: RepeatedLines, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(20 * MOST_KINDS):
        lines.log(logging.ERROR, number, "kind %d", number)
    assert len(caplog.records) == NEW_KINDS
    assert len(lines._kinds) == MOST_KINDS


def test_debug_shows_them_all(lines: RepeatedLines, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER.name)
    for _ in range(50):
        lines.log(logging.ERROR, "a", "a")
    assert len(caplog.records) == 50
