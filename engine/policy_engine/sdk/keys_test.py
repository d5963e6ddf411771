"""Joined keys: whatever the parts hold, only the same parts give the same key."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import digest_key, joined_key

PART = st.one_of(
    st.none(), st.integers(), st.binary(max_size=4), st.text(alphabet="a:0s1\0,\udc80\ud800\xe9", max_size=4)
)


@given(st.lists(PART, max_size=4), st.lists(PART, max_size=4))
def test_only_the_same_parts_give_the_same_key(one: list[str | bytes | int | None], other: list[object]) -> None:
    same = [(type(part), part) for part in one] == [(type(part), part) for part in other]
    assert (joined_key(*one) == joined_key(*other)) is same  # type: ignore[arg-type] # parts, drawn by the strategy


def test_parts_that_run_together_differ() -> None:
    keys = {
        digest_key(*parts)
        for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c\0"), ("ab\0", "c"), ("ab", "c", None), ("s1:a",))
    }
    assert len(keys) == 7
