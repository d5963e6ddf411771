"""Requests in flight counted by key, in this process; each gives its place up when its stream ends, however it ends."""

from __future__ import annotations

import json
from collections.abc import Hashable

from policy_engine.sdk import (
    ExpressionFailed,
    Headers,
    ImmediateResponse,
    Parameters,
    Policy,
    Request,
    Response,
    digest_key,
)

_HELD = "held"


class ConcurrencyLimit(Policy):
    """Refuses (429 or 503) a request while as many with its key as may be are in flight."""

    def __init__(self, parameters: Parameters) -> None:
        self._limit = parameters["limit"]
        self._key = self.expression(parameters["key"], "/key") if "key" in parameters else None
        seconds = parameters.get("retry_after", 1)
        headers = {"retry-after": str(seconds)} if seconds else {}
        self._refused = ImmediateResponse(parameters.get("status", 429), headers=headers, details="concurrency_limited")
        self._in_flight: dict[Hashable, int] = {}

    def on_request_headers(self, request: Request) -> ImmediateResponse | None:
        """Take a place."""
        key = self._key_of(request)
        count = self._in_flight.get(key, 0)
        if count >= self._limit:
            return self._refused
        self._in_flight[key] = count + 1
        self.state(request)[_HELD] = key
        return None

    def on_response_trailers(self, request: Request, response: Response, trailers: Headers) -> None:
        """Change nothing: it is there so that Envoy keeps the stream until the response is over."""

    def on_stream_end(self, request: Request) -> None:
        """Give the place up."""
        state = self.state(request)
        if _HELD not in state:
            return
        key = state.pop(_HELD)
        count = self._in_flight[key] - 1
        if count:
            self._in_flight[key] = count
        else:
            del self._in_flight[key]

    def _key_of(self, request: Request) -> Hashable:
        if self._key is None:
            return None
        try:
            value = self._key.evaluate(request)
        except ExpressionFailed:
            return None
        # A digest, because a client may choose how long it is.
        return None if value is None else digest_key(json.dumps(value, sort_keys=True))
