"""Multiples as they are written."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk.json_numbers import is_multiple_of


@pytest.mark.parametrize("value", [19.99, 4.02, 0.07, 10.2, 1.15, 1e22, 0, -0.01, 3, 123456789.01])
def test_prices_are_multiples_of_a_cent(value: float) -> None:
    assert is_multiple_of(value, 0.01)


@pytest.mark.parametrize(
    ("value", "divisor"),
    [
        (19.999, 0.01),
        (0.1, 0.3),
        (1e-5, 0.01),
        (10**400, 0.3),
        (10**400 + 1, 10),
        (float("inf"), 0.01),
        (float("nan"), 1),
    ],
)
def test_what_is_no_multiple_is_none_and_nothing_fails(value: float, divisor: float) -> None:
    assert not is_multiple_of(value, divisor)


@pytest.mark.parametrize(
    ("value", "divisor"), [(10**400, 0.01), (10**400, 10), (1e308, 0.5), (0.0075, 0.0001), (1e308, 1e-308), (5, 2.5)]
)
def test_large_and_small_numbers(value: float, divisor: float) -> None:
    assert is_multiple_of(value, divisor)


@given(st.integers(-(10**12), 10**12), st.integers(0, 6))
def test_whole_numbers_of_any_decimal_step(count: int, places: int) -> None:
    step = Decimal(1).scaleb(-places)
    assert is_multiple_of(float(step * count), float(step))


@given(
    st.floats(allow_nan=True, allow_infinity=True) | st.integers(),
    st.floats(min_value=0, allow_nan=False) | st.integers(1),
)
def test_no_number_makes_it_fail(value: float, divisor: float) -> None:
    assert is_multiple_of(value, divisor) in (True, False)
