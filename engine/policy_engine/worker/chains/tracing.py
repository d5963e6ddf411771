"""What tracing is to the request path: one object that is there or not, so that it costs nothing when off (R-52).

A separate module so that neither the worker nor the kernel knows OpenTelemetry; `telemetry.spans` is what does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from policy_engine.sdk import ImmediateResponse, Request


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

    def around(self, hook: Callable[..., Any], policy: str, version: str, name: str) -> Callable[..., Any]:
        """Return `hook` with a span around each call on a stream that has one; the first argument is the request."""
        ...
