"""What tracing is to the request path: one object that is there or not, so that it costs nothing when off (R-52).

A separate module so that neither the worker nor the kernel knows OpenTelemetry; `telemetry.spans` is what does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

from policy_engine.sdk import ImmediateResponse, Request
from policy_engine.worker.chains.compiled import Condition

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.ASCII)


class Tracing(Protocol):
    """Makes a span of each stream and of each hook that runs on it."""

    def begin(self, request: Request) -> Any:
        """Return the span of a stream, to be kept in `request.trace`, or None when its trace is not sampled."""
        ...

    def answered(self, span: Any, response: ImmediateResponse) -> None:
        """Note that the engine answered the stream itself, and why (`response.details`)."""
        ...

    def end(self, span: Any) -> None:
        """The stream is over."""
        ...

    def explained(self, condition: Condition, policy: str, version: str) -> Condition:
        """Return `condition` with a span for each evaluation that fails, and none for others."""
        ...

    def around(self, hook: Callable[..., Any], policy: str, version: str, name: str) -> Callable[..., Any]:
        """Return `hook` with a span around each call on a stream that has one; the first argument is the request."""
        ...


def trace_id(request: Request) -> str | None:
    """Return the id of the trace that the caller says the request belongs to (W3C Trace Context), for log lines."""
    match = _TRACEPARENT.fullmatch(request.headers.get("traceparent") or "")
    return match[1] if match else None
