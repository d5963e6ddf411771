"""A policy for the engine's own tests that blocks, and says so."""

from __future__ import annotations

import time
from typing import ClassVar

from policy_engine.sdk import Parameters, Policy, Request, RequestMutation


class HangingThread(Policy):
    """Sleeps in its pool."""

    blocking: ClassVar[bool] = True

    def __init__(self, parameters: Parameters) -> None:
        self._seconds: float = parameters["seconds"]

    def on_request_headers(self, request: Request) -> RequestMutation:
        time.sleep(self._seconds)
        return RequestMutation(set_headers={"x-blocked": "yes"})
