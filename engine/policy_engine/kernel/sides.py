"""The two sides of an exchange, request and response, as data: what a phase has to know of the side it runs on.

The phases are written once for a side. A side is made per chain and per body modes of Envoy's configuration, so that
a message finds its steps, its names and its ready replies without a decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any

from policy_engine.kernel.reply import ProcessingMode, headers_reply
from policy_engine.worker.chains.compiled import CompiledChain, Step
from policy_engine.worker.chains.needs import BodyMode

Steps = tuple[Step, ...]

GATHERED = (int(ProcessingMode.BUFFERED), int(ProcessingMode.BUFFERED_PARTIAL))
"""Modes in which Envoy waits for a body."""

OBSERVED = (BodyMode.OBSERVED, BodyMode.OBSERVED_IN_PIECES)


def is_observed(needed: BodyMode, body_mode: int) -> bool:
    """Return whether shadows alone read a body that comes in this mode, and that has to go on as it is."""
    return needed in OBSERVED and body_mode in GATHERED


@dataclass(slots=True, eq=False)
class CachedReply:
    """The last reply to headers and the very action objects it was made of.

    Constant actions make the same reply again and again: comparing identities costs 50 ns, serialising 3 µs.
    """

    actions: list[Any] = field(default_factory=list)
    reply: bytes = b""

    def matches(self, actions: list[Any]) -> bool:
        """Return whether `actions` are the same objects, in the same order."""
        mine = self.actions
        return len(mine) == len(actions) and all(map(is_, mine, actions))


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One side of an exchange on one chain.

    - `headers`, `body`, `trailers`: the fields of its messages in `ProcessingRequest` and `ProcessingResponse`.
    - `on_headers`, `on_body`, `on_chunk`, `on_trailers`: the steps for each, in the order they run.
    - `body_mode`: the `ProcessingMode` value its body arrives in; `by_override`: only the override makes Envoy send it.
      What shadows alone read counts as nobody's promise.
    - `observed`: of its body only shadows see what Envoy's buffer holds.
    - `override`: bytes to put behind each reply to its headers; `pass_reply`: the reply that changes nothing.
    - `too_large`, `undecodable`: HTTP status for a body over the limit, and for one that cannot be decoded.
    """

    headers: str
    body: str
    trailers: str
    on_headers: Steps
    on_body: Steps
    on_chunk: Steps
    on_trailers: Steps
    body_mode: int
    by_override: bool
    observed: bool
    override: bytes
    pass_reply: bytes
    too_large: int
    undecodable: int
    cached: CachedReply = field(default_factory=CachedReply)


def request_side(chain: CompiledChain, body_mode: int, static_mode: int, override: bytes) -> Side:
    """Return the side of the request; `static_mode` is the body mode of Envoy's own configuration."""
    observed = is_observed(chain.needs.request_body, body_mode)
    return Side(
        headers="request_headers",
        body="request_body",
        trailers="request_trailers",
        on_headers=chain.request_headers,
        on_body=chain.request_body,
        on_chunk=chain.request_chunks,
        on_trailers=chain.request_trailers,
        body_mode=body_mode,
        by_override=bool(body_mode) and not static_mode and not observed,
        observed=observed,
        override=override,
        pass_reply=headers_reply("request_headers") + override,
        too_large=413,
        undecodable=415,
    )


def response_side(chain: CompiledChain, body_mode: int, static_mode: int, override: bytes = b"") -> Side:
    """Return the side of the response; an `override` with its headers is for bodies that nobody relies on."""
    observed = is_observed(chain.needs.response_body, body_mode)
    return Side(
        headers="response_headers",
        body="response_body",
        trailers="response_trailers",
        on_headers=chain.response_headers,
        on_body=chain.response_body,
        on_chunk=chain.response_chunks,
        on_trailers=chain.response_trailers,
        body_mode=body_mode,
        by_override=bool(body_mode) and not static_mode and not observed,
        observed=observed,
        override=override,
        pass_reply=headers_reply("response_headers") + override,
        too_large=502,
        undecodable=502,
    )


def first_closed(steps: Sequence[Step]) -> Step | None:
    """Return the first step that fails closed: its failure response answers for what no policy could check."""
    return next((step for step in steps if not step.fails_open), None)
