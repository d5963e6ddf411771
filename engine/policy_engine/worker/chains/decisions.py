"""What is told of decisions that end a request: one object that is there or not, so that it costs nothing when off.

A separate module so that neither the worker nor the kernel knows a log; `explain.decision_log` is what does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from policy_engine.sdk import Headers, ImmediateResponse, Request

if TYPE_CHECKING:  # a step holds one of these
    from policy_engine.worker.chains.compiled import Step


class Decisions(Protocol):
    """Hears of every answer that ends a request, before it is sent, and of every failure."""

    def answered(
        self, step: Step, answer: ImmediateResponse, request: Request, error: BaseException | None = None
    ) -> ImmediateResponse:
        """A policy answers, or fails closed with `error`; returns what to send."""
        ...

    def failed_open(self, step: Step, error: BaseException, request: Request) -> None:
        """A policy failed, and the request goes on without it."""
        ...

    def refused(self, answer: ImmediateResponse, route: str, headers: Headers) -> ImmediateResponse:
        """The engine itself refuses the request with these headers; returns what to send."""
        ...
