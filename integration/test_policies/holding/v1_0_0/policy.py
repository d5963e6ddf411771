"""A policy for the engine's own tests that holds the event loop in C code, when a request has the header x-hold."""

from __future__ import annotations

import re
from collections import deque
from itertools import repeat

from policy_engine.sdk import Parameters, Policy, Request, RequestMutation

_HOSTILE = re.compile(r"(a+)+$")


class Holding(Policy):
    """Answers at once, or not at all."""

    def __init__(self, parameters: Parameters) -> None:
        self._how: str = parameters["how"]
        if self._how == "constructor":
            _hold()

    def on_request_headers(self, request: Request) -> RequestMutation:
        if request.headers.get("x-hold"):
            if self._how == "pattern":
                _HOSTILE.match("a" * 40 + "b")
            else:
                _hold()
        return RequestMutation(set_headers={"x-mark": "1"})


def _hold() -> None:
    deque(repeat(0), maxlen=0)  # a loop in C that looks at no signal
