"""A run is as expected only when every failure was, and every expected failure is one still."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from suite import Case, judge, read_expected, table

FAILS, PASSES = Case("a/1", passed=False, detail="why"), Case("a/2", passed=True)


@pytest.mark.parametrize(
    ("expected", "holds", "says"),
    [
        ({"a/1": "known"}, True, "| 1: a/1 | known |"),
        ({}, False, "NOT EXPECTED to fail: a/1: why"),
        ({"a/1": "known", "a/2": "mended since"}, False, "STALE, passes or is gone: a/2"),
        ({"a/1": "known", "a/3": "renamed since"}, False, "STALE, passes or is gone: a/3"),
    ],
)
def test_a_run_is_held_against_what_is_expected(expected: dict[str, str], holds: bool, says: str) -> None:
    outcome = judge([FAILS, PASSES], expected)
    assert outcome.holds is holds
    assert says in table("suite", outcome)
    assert "1 of 2 cases pass" in table("suite", outcome)


def test_each_expected_failure_has_a_reason() -> None:
    for path in Path(__file__).parent.glob("*.toml"):
        assert all(read_expected(path).values())
