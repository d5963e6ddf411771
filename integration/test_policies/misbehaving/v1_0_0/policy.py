"""A policy for the engine's own tests that fails in every way an author can think of, and some nobody would."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import Any

from policy_engine.sdk import (
    Chunk,
    Headers,
    ImmediateResponse,
    Parameters,
    Policy,
    Request,
    RequestMutation,
    Response,
    ResponseMutation,
    TrailerMutation,
)


def _exception() -> None:
    raise RuntimeError("secret-in-exception")


def _exits() -> None:
    sys.exit(3)


def _interrupts() -> None:
    raise KeyboardInterrupt


def _recurses() -> None:
    _recurses()


def _holds_the_loop() -> None:
    while True:
        pass


async def _never_answers() -> None:
    await asyncio.sleep(3600)


async def _swallows_cancellation() -> None:
    while True:
        try:
            await asyncio.sleep(5)
            return
        except asyncio.CancelledError:
            pass


async def _holds_the_loop_later() -> None:
    await asyncio.sleep(0)
    _holds_the_loop()


async def _exits_later() -> None:
    await asyncio.sleep(0)
    sys.exit(3)


async def _cancels_itself() -> None:
    raise asyncio.CancelledError


FAILURES: Mapping[str, Callable[[], Any]] = {
    "exception": _exception,
    "exits": _exits,
    "interrupts": _interrupts,
    "recurses": _recurses,
    "holds-loop": _holds_the_loop,
    "never-answers": _never_answers,
    "swallows-cancellation": _swallows_cancellation,
    "holds-loop-later": _holds_the_loop_later,
    "exits-later": _exits_later,
    "cancels-itself": _cancels_itself,
    "wrong-value": lambda: {"set_headers": {}},
    "invalid-status": lambda: ImmediateResponse(99),
}
INVALID_HEADERS: Mapping[str, Mapping[str, Any]] = {
    "invalid-name": {"x bad": "1"},
    "invalid-value": {"x-bad": "1\r\nx-injected: 1"},
    "framing-header": {"content-length": "5"},
    "wrong-value-type": {"x-bad": 1},
}


_PHASE_OF = {"request": "request_headers", "response": "response_headers"}
_PHASES = (
    "request_headers",
    "request_body",
    "request_trailers",
    "response_headers",
    "response_body",
    "response_trailers",
)


class Misbehaving(Policy):
    """Fails as `how` says, in the phase that `on` says."""

    def __init__(self, parameters: Parameters) -> None:
        self._how: str = parameters["how"]
        self.idle_phases = tuple(
            phase for phase in _PHASES if phase != _PHASE_OF.get(parameters["on"], parameters["on"])
        )

    def on_request_headers(self, request: Request) -> Any:
        return self._fail(RequestMutation)

    def on_request_chunk(self, request: Request, chunk: Chunk) -> Any:
        return self._fail(RequestMutation)

    def on_request_trailers(self, request: Request, trailers: Headers) -> Any:
        return self._fail(TrailerMutation)

    def on_response_headers(self, request: Request, response: Response) -> Any:
        return self._fail(ResponseMutation)

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> Any:
        return self._fail(ResponseMutation)

    def on_response_trailers(self, request: Request, response: Response, trailers: Headers) -> Any:
        return self._fail(TrailerMutation)

    def _fail(self, kind: Callable[..., Any]) -> Any:
        if self._how in INVALID_HEADERS:
            return kind(set_headers=INVALID_HEADERS[self._how])
        return FAILURES[self._how]()
