"""Numbers of JSON as JSON Schema compares them: by their value, however large, and not as binary fractions."""

from __future__ import annotations

import math
from fractions import Fraction


def is_multiple_of(value: float, divisor: float) -> bool:
    """Tell whether `value` is a multiple of `divisor`: 19.99 is one of 0.01, as it is written.

    Integers of any size are exact. A float stands for the shortest decimal that reads as it (its `repr`), which is what
    stood in the JSON unless that had more than 17 digits. Infinity and NaN are multiples of nothing; raises nothing.
    """
    if isinstance(value, int) and isinstance(divisor, int):
        return divisor != 0 and value % divisor == 0
    exact_value, exact_divisor = _exact(value), _exact(divisor)
    if exact_value is None or not exact_divisor:
        return False
    return (exact_value / exact_divisor).denominator == 1


def _exact(number: float) -> Fraction | None:
    if isinstance(number, int):
        return Fraction(number)
    return Fraction(repr(number)) if math.isfinite(number) else None
