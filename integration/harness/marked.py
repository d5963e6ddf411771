"""A chain that marks both sides of a request, and how its answers are told from others: for loads around restarts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from integration.harness.client import Reply

GOOD = "marked twice"


def mark(wait: float) -> dict[str, object]:
    """What the chain does on each side: it takes a moment, so that requests are in flight whenever an engine drains."""
    return {"set": {"x-mark": "1"}, "wait": wait}


MARKING: dict[str, Any] = {
    "request_headers": mark(0.02),
    "request_body": {"upper": True},
    "response_headers": mark(0.02),
}
"""Parameters of the test policy `scripted`."""


def outcome(reply: Reply) -> str:
    """Return GOOD when both sides went through the chain, else what happened instead."""
    if reply.status != 200:
        return f"{reply.status} {reply.body[:80]!r}"
    request = dict(reply.json()["headers"])
    return GOOD if (reply.header("x-mark"), request.get("x-mark")) == ("1", "1") else "not marked"


def until(holds: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Return once `holds()`; raises AssertionError when it does not come to it."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not {what}"
        time.sleep(0.02)
