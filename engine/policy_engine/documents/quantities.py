"""Durations and sizes as people write them (`500ms`, `10MiB`), shared by chain files, settings and flags."""

from __future__ import annotations

import re
from decimal import Decimal

DURATION_FORM = "a duration such as 500ms, 1s, 1.5s, 2m or 1h"
SIZE_FORM = "a size such as 65536, 64KiB, 10MiB or 1MB"

DURATION_PATTERN = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(us|ms|s|m|h)"
"""What a duration looks like, as a whole, for schemas."""
SIZE_PATTERN = r"([0-9]{1,15}(?:\.[0-9]{1,3})?)(B|kB|KB|MB|GB|KiB|MiB|GiB)?"
"""What a size looks like, as a whole, for schemas."""

_DURATION = re.compile(DURATION_PATTERN)
_SECONDS = {
    "us": Decimal("0.000001"),
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
}

_SIZE = re.compile(SIZE_PATTERN)
_BYTES = {
    None: 1,
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}


def parse_duration(text: str) -> float:
    """Return seconds; raises ValueError for anything but one number with a unit, such as `500ms`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        number = re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII)
        raise ValueError("has no unit" if number else "is not a duration")
    return float(Decimal(match[1]) * _SECONDS[match[2]])


def parse_size(text: str) -> int:
    """Return bytes; KiB, MiB, GiB are powers of 1024, kB, MB, GB of 1000. Raises ValueError for other forms."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("is not a size")
    size = Decimal(match[1]) * _BYTES[match[2]]
    if size != size.to_integral_value():
        raise ValueError("is not a whole number of bytes")
    return int(size)


def format_duration(seconds: float) -> str:
    """Return `seconds` in the largest unit that writes it exactly; `parse_duration` reads it back."""
    exact = Decimal(repr(seconds))
    for unit in ("h", "m", "s", "ms"):
        count = exact / _SECONDS[unit]
        if count == count.to_integral_value() and (count or unit == "s"):
            return f"{int(count)}{unit}"
    return f"{(exact / _SECONDS['us']).normalize():f}us"


def format_size(size: int) -> str:
    """Return `size` in the largest unit of 1024 that writes it exactly; `parse_size` reads it back."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return str(size)
