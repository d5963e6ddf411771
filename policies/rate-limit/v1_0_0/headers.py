"""How the limits are told to clients; apart from the policy because each convention has its own grammar."""

from __future__ import annotations

from collections.abc import Sequence

from .counting import Window

Pairs = list[tuple[str, str]]


def told(convention: str, windows: Sequence[Window]) -> Pairs:
    """Return the headers that say how the limits stand; none when nothing is known."""
    if convention == "none" or not windows:
        return []
    if convention == "draft":
        return _draft(windows)
    tightest = min(windows, key=lambda one: (one.remaining / one.amount, -one.reset))
    return [
        ("x-ratelimit-limit", str(tightest.amount)),
        ("x-ratelimit-remaining", str(tightest.remaining)),
        ("x-ratelimit-reset", str(tightest.reset)),
    ]


def _draft(windows: Sequence[Window]) -> Pairs:
    """Return the fields of draft-ietf-httpapi-ratelimit-headers-10: lists of named items (RFC 9651)."""
    names = [f'"{one.amount}-in-{one.seconds}s"' for one in windows]
    policies = ", ".join(f"{name};q={one.amount};w={one.seconds}" for name, one in zip(names, windows, strict=True))
    states = ", ".join(f"{name};r={one.remaining};t={one.reset}" for name, one in zip(names, windows, strict=True))
    return [("ratelimit-policy", policies), ("ratelimit", states)]
