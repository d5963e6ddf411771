"""The two sides of an exchange, request and response, as data: what a phase has to know of the side it runs on.

The phases are written once for a side. A side is made per chain and per body modes of Envoy's configuration, so that
a message finds its steps, its names and its ready replies without a decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from policy_engine.kernel.reply import STREAMING, ProcessingMode, headers_reply
from policy_engine.sdk.headers import HeaderEdit
from policy_engine.worker.chains.compiled import CompiledChain, Step
from policy_engine.worker.chains.constant_hooks import Constant
from policy_engine.worker.chains.needs import BodyMode
from policy_engine.worker.chains.statistics import PolicyStatistics

Steps = tuple[Step, ...]

GATHERED = (int(ProcessingMode.BUFFERED), int(ProcessingMode.BUFFERED_PARTIAL))
"""Modes in which Envoy waits for a body."""

OBSERVED = (BodyMode.OBSERVED, BodyMode.OBSERVED_IN_PIECES)


def is_observed(needed: BodyMode, body_mode: int) -> bool:
    """Return whether shadows alone read a body that comes in this mode, and that has to go on as it is."""
    return needed in OBSERVED and body_mode in GATHERED


@dataclass(slots=True, eq=False)
class CachedReply:
    """The last reply to headers and the very edits it was made of.

    Constant actions have the same edits again and again, and make the same reply of them.
    """

    edits: list[HeaderEdit] = field(default_factory=list)
    reply: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class ConstantHeaders:
    """What becomes of the headers of a side where all its policies want the same of every request."""

    statistics: tuple[PolicyStatistics, ...]
    edits: tuple[HeaderEdit, ...]
    reply: bytes

    def answer(self) -> bytes:
        """Count a run of each policy, too short to be measured, and return the reply."""
        for one in self.statistics:
            one.buckets[0] += 1
        return self.reply


def _constant(steps: Steps, headers: str, override: bytes) -> ConstantHeaders | None:
    hooks = [step.hook for step in steps if step.condition is None and isinstance(step.hook, Constant)]
    if len(hooks) < len(steps):
        return None
    edits = tuple(hook.edit for hook in hooks)
    return ConstantHeaders(
        statistics=tuple(step.statistics for step in steps),
        edits=edits,
        reply=headers_reply(headers, edits) + override,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One side of an exchange on one chain.

    - `headers`, `body`, `trailers`: the fields of its messages in `ProcessingRequest` and `ProcessingResponse`.
    - `on_headers`, `on_body`, `on_chunk`, `on_trailers`: the steps for each, in the order they run.
    - `body_mode`: the `ProcessingMode` value its body arrives in; `by_override`: only the override makes Envoy send it.
    - `whole`: policies get its body whole; `collects`: in full duplex, so that the engine has to put it together.
    - `in_pieces`: Envoy's own configuration sends no whole body; `unsent`: none at all. Both for policies that need it.
      What shadows alone read counts as nobody's promise.
    - `observed`: of its body only shadows see what Envoy's buffer holds.
    - `override`: bytes to put behind each reply to its headers; `pass_reply`: the reply that changes nothing.
    - `constant`: what is known of its headers before a request comes, None where a policy has to be asked.
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
    whole: bool
    collects: bool
    in_pieces: bool
    unsent: bool
    observed: bool
    override: bytes
    pass_reply: bytes
    constant: ConstantHeaders | None
    too_large: int
    undecodable: int
    cached: CachedReply = field(default_factory=CachedReply)

    @property
    def reads(self) -> bool:
        """Whether policies read its body."""
        return bool(self.on_body or self.on_chunk)


def request_side(chain: CompiledChain, body_mode: int, static_mode: int, override: bytes) -> Side:
    """Return the side of the request; `static_mode` is the body mode of Envoy's own configuration."""
    arrival = _arrival(
        chain.needs.request_body,
        body_mode,
        static_mode,
        reads=bool(chain.request_body),
        streams=bool(chain.request_chunks),
    )
    return Side(
        headers="request_headers",
        body="request_body",
        trailers="request_trailers",
        on_headers=chain.request_headers,
        on_body=chain.request_body,
        on_chunk=chain.request_chunks,
        on_trailers=chain.request_trailers,
        body_mode=body_mode,
        by_override=arrival.by_override,
        whole=arrival.whole,
        collects=arrival.collects,
        in_pieces=arrival.in_pieces,
        unsent=arrival.unsent,
        observed=arrival.observed,
        override=override,
        pass_reply=headers_reply("request_headers") + override,
        constant=_constant(chain.request_headers, "request_headers", override),
        too_large=413,
        undecodable=415,
    )


def response_side(chain: CompiledChain, body_mode: int, static_mode: int, override: bytes = b"") -> Side:
    """Return the side of the response; an `override` with its headers is for bodies that nobody relies on."""
    arrival = _arrival(
        chain.needs.response_body,
        body_mode,
        static_mode,
        reads=bool(chain.response_body),
        streams=bool(chain.response_chunks),
    )
    return Side(
        headers="response_headers",
        body="response_body",
        trailers="response_trailers",
        on_headers=chain.response_headers,
        on_body=chain.response_body,
        on_chunk=chain.response_chunks,
        on_trailers=chain.response_trailers,
        body_mode=body_mode,
        by_override=arrival.by_override,
        whole=arrival.whole,
        collects=arrival.collects,
        in_pieces=arrival.in_pieces,
        unsent=arrival.unsent,
        observed=arrival.observed,
        override=override,
        pass_reply=headers_reply("response_headers") + override,
        constant=_constant(chain.response_headers, "response_headers", override),
        too_large=502,
        undecodable=502,
    )


class _Arrival(NamedTuple):
    """The fields of a side that tell how its body comes."""

    by_override: bool
    whole: bool
    collects: bool
    in_pieces: bool
    unsent: bool
    observed: bool


def _arrival(needed: BodyMode, body_mode: int, static_mode: int, *, reads: bool, streams: bool) -> _Arrival:
    """Return how a body that comes in `body_mode` reaches the policies of a side; `streams`: all take it in chunks."""
    observed = is_observed(needed, body_mode)
    needs_whole = reads and needed not in OBSERVED and not (streams and body_mode in STREAMING)
    # After part of a body in BUFFERED_PARTIAL the rest goes by without a message.
    partial = body_mode == ProcessingMode.STREAMED or static_mode == ProcessingMode.BUFFERED_PARTIAL
    return _Arrival(
        by_override=bool(body_mode) and not static_mode and not observed,
        whole=needs_whole,
        collects=needs_whole and body_mode == ProcessingMode.FULL_DUPLEX_STREAMED,
        in_pieces=needs_whole and partial,
        unsent=reads and needed not in OBSERVED and body_mode == ProcessingMode.NONE,
        observed=observed,
    )


def first_closed(steps: Sequence[Step]) -> Step | None:
    """Return the first step that fails closed: its failure response answers for what no policy could check."""
    return next((step for step in steps if not step.fails_open), None)
