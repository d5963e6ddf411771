"""Route keys with stars: what they match, which wins, which cannot be told apart, and what that costs."""

from __future__ import annotations

import re
import time
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.worker.chains.route_patterns import RoutePattern, RoutePatterns, ties

TEXT = st.text("ab*", min_size=1, max_size=6).filter(lambda one: "*" in one and "**" not in one)


def matched(pattern: str, key: str) -> bool:
    """The same by a regular expression."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), key, re.DOTALL) is not None


@given(TEXT, st.text("ab", max_size=8))
def test_a_star_stands_for_any_text(pattern: str, key: str) -> None:
    assert RoutePattern.of(pattern).matches(key) == matched(pattern, key)


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("*", "", True),
        ("*", "any/thing\nat all", True),
        ("shop/*", "shop/", True),
        ("shop/*", "shop", False),
        ("*/match/*/api_example_com", "httproute/ns/a/rule/0/match/3/api_example_com", True),
        ("ab*ba", "aba", False),
        ("a*a", "a", False),
        ("httproute/default/www/rule/0/match/0/*", "httproute/default/www/rule/0/match/0/*", True),
        ("a.c*", "abc", False),
        ("(a+)+*", "aaaa", False),
    ],
)
def test_what_matches(pattern: str, key: str, *, matches: bool) -> None:
    assert RoutePattern.of(pattern).matches(key) is matches
    assert RoutePatterns([pattern]).find(key) == (pattern if matches else None)


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("shop/orders/1", "shop/orders/*"),
        ("shop/other", "shop/*"),
        ("shop/x/admin", "shop/*/admin"),
        ("elsewhere", "*"),
        ("x-admin", "*-admin"),
    ],
)
def test_the_most_specific_wins(key: str, found: str) -> None:
    patterns = ["*", "shop/*", "*-admin", "shop/orders/*", "shop/*/admin"]
    for order in (patterns, patterns[::-1]):
        assert RoutePatterns(order).find(key) == found
        assert RoutePatterns(order).matching(key)[0].text == found


def test_with_equal_text_fewer_stars_win() -> None:
    assert RoutePatterns(["a*b*", "ab*"]).find("abc") == "ab*"


@given(st.sets(TEXT, min_size=1, max_size=12), st.text("ab", max_size=8))
def test_the_index_finds_what_a_look_at_all_finds(patterns: set[str], key: str) -> None:
    fitting = [one for one in map(RoutePattern.of, patterns) if matched(one.text, key)]
    found = RoutePatterns(patterns).find(key)
    best = max((one.rank for one in fitting), default=None)
    assert (found is None) == (best is None)
    assert found is None or RoutePattern.of(found).rank == best
    assert {one.text for one in RoutePatterns(patterns).matching(key)} == {one.text for one in fitting}


KEYS = ["".join(letters) for size in range(8) for letters in product("ab", repeat=size)]


@given(st.sets(st.text("ab*", min_size=1, max_size=4).filter(lambda one: "*" in one and "**" not in one), max_size=5))
def test_a_tie_is_found_exactly_where_a_key_is_matched_by_both(patterns: set[str]) -> None:
    alike = {
        frozenset((one.text, other.text))
        for one in map(RoutePattern.of, patterns)
        for other in map(RoutePattern.of, patterns)
        if one.text < other.text and one.rank == other.rank
        if any(matched(one.text, key) and matched(other.text, key) for key in KEYS)
    }
    found = {frozenset(pair) for pair in ties(patterns)}
    assert found <= alike
    assert bool(found) == bool(alike)


def seconds(work: object, *arguments: object) -> float:
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        work(*arguments)  # type: ignore[operator]
        best = min(best, time.process_time() - began)
    return best


def test_finding_does_not_grow_with_the_patterns() -> None:
    few, many = (RoutePatterns(f"httproute/ns/route-{n:05}/*" for n in range(count)) for count in (50, 5_000))
    key = "httproute/ns/route-00007/rule/0"
    assert few.find(key) == many.find(key) == "httproute/ns/route-00007/*"
    # The clock is read once for a thousand searches.
    once = seconds(lambda: [few.find(key) for _ in range(1000)])
    assert seconds(lambda: [many.find(key) for _ in range(1000)]) < 5 * once


@pytest.mark.parametrize(
    "pattern", ["a*a*a*a*a*a*a*a*a*b", "*a*a*a*a*a*a*a*b*", f"{'a' * 200}*{'a' * 200}*{'a' * 200}b*"]
)
def test_a_hostile_key_costs_what_its_length_says(pattern: str) -> None:
    one = RoutePattern.of(pattern)
    costs = [seconds(one.matches, "a" * size) for size in (100_000, 200_000, 400_000)]
    assert costs[2] < 10 * costs[0] + 0.01


def test_looking_for_ties_does_not_grow_faster_than_the_patterns() -> None:
    def all_of(count: int) -> list[str]:
        return [f"httproute/{n:05}/*" for n in range(count)]

    costs = [seconds(ties, all_of(count)) for count in (1_000, 2_000, 4_000)]
    assert costs[2] < 10 * costs[0] + 0.01
