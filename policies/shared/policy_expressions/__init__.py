"""Processor time for the expressions of one request, and JSON data written as header values."""

from __future__ import annotations

import json
from time import thread_time
from typing import Any

from policy_engine.sdk import header_value

_MOST_SECONDS = 0.015


class Budget:
    """Processor time for all expressions that one hook evaluates: a request made to be dear must not hold up others.

    The engine bounds each expression; a policy may have many.
    """

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = thread_time() + _MOST_SECONDS

    def spent(self) -> bool:
        """Tell whether it is time to stop."""
        return thread_time() > self._until


def header_text(value: Any) -> str:
    """Return JSON data as a header value: text as it is, a list of texts with commas, anything else as JSON.

    Raises ValueError for what cannot be sent: control characters, and an item of a list that would look like two.
    """
    if isinstance(value, str):
        return header_value(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        if any("," in one for one in value):
            raise ValueError("an item with a comma would look like two")
        return header_value(",".join(value))
    return header_value(json.dumps(value, separators=(",", ":")))
