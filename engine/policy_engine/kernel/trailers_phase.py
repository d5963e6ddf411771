"""What happens when trailers come: first what they tell of the body, then the policies of trailers.

Envoy sends no body message for a body without DATA, and marks no chunk before trailers as the last.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import fields, replace
from typing import Any

from policy_engine.kernel.body_phase import put_together
from policy_engine.kernel.header_view import headers_of
from policy_engine.kernel.later import Result, then
from policy_engine.kernel.phases import Phases
from policy_engine.kernel.promises import name_trailers_only
from policy_engine.kernel.reply import STREAMING, ProcessingMode, duplex_chunk_reply, trailers_reply
from policy_engine.kernel.sides import Side, first_closed
from policy_engine.kernel.stream import Replies
from policy_engine.sdk import Chunk, Headers
from policy_engine.worker.chains.executor import Outcome, run

_GRPC_ERRORS = frozenset(map(str, range(1, 17)))
_NO_CHANGE = ("dynamic_metadata", "clear_route_cache")


def trailers(phases: Phases, side: Side, message: Any) -> Result:
    """Run the trailers of `side`; before them its body, when only they tell that it is over."""
    view = phases.view(side)
    if view is None:
        return trailers_reply(side.trailers)
    awaited = phases.no_longer_awaited(side)
    if side in phases.replaced and phases.waiting is not None:
        waiting, phases.waiting = phases.waiting, None
        return _before_trailers(phases, side, waiting(False, False), message)
    if side.collects and phases.collection is not None:
        return then(
            put_together(phases, side, view, end=False),
            lambda replies: _before_trailers(phases, side, replies, message),
        )
    if awaited:
        view.body = b""
        return _without_body(phases, side, headers_of(message.trailers), lambda: _trailers(phases, side, message))
    if side.on_chunk and side.body_mode in STREAMING and side not in phases.over:
        phases.over += (side,)
        return _last_chunk(phases, side, lambda: _trailers(phases, side, message))
    return _trailers(phases, side, message)


def _trailers(phases: Phases, side: Side, message: Any) -> Result:
    if not side.on_trailers:
        return trailers_reply(side.trailers)

    def done(outcome: Outcome) -> Result:
        if outcome.immediate is not None:
            return phases.answer(outcome, unseen=phases.too_late(side))
        return trailers_reply(side.trailers, outcome.edits)

    arguments = phases.arguments(side, headers_of(message.trailers))
    return then(run(phases.exchange, side.on_trailers, arguments, Outcome()), done)


def _without_body(phases: Phases, side: Side, trailers: Headers, go_on: Callable[[], Result]) -> Result:
    """Run the policies of bodies on a body without DATA: Envoy asks about its trailers only.

    They may refuse. What they change cannot be sent any more: as if they had failed, which is no way round them. The
    error that a gRPC upstream tells in its trailers stays the one that the client gets.
    """

    def done(outcome: Outcome) -> Result:
        if outcome.immediate is not None:
            return phases.answer(outcome)
        closed = first_closed(side.on_body)
        if closed is None or not any(map(_changes, outcome.actions)):
            return go_on()
        name_trailers_only(phases.route)
        error = _grpc_error(trailers)
        refusal = closed.failure_response
        return phases.deny(refusal if error is None else replace(refusal, grpc_status=error), by=closed)

    return then(run(phases.exchange, side.on_body, phases.arguments(side), Outcome()), done)


def _last_chunk(phases: Phases, side: Side, go_on: Callable[[], Result]) -> Result:
    """Tell policies of chunks that the body is over.

    What they held back until now goes out in full duplex; in STREAMED nothing can be added any more, which is a
    failure.
    """
    arguments, unseen = phases.arguments(side, Chunk(b"", end=True)), phases.too_late(side)

    def done(outcome: Outcome) -> Result:
        if outcome.immediate is not None:
            return phases.answer(outcome, unseen=unseen)
        data, closed = arguments[-1].data, first_closed(side.on_chunk)
        if not data:
            return go_on()
        if side.body_mode == ProcessingMode.FULL_DUPLEX_STREAMED:
            return _in_front(duplex_chunk_reply(side.body, data, end=False), go_on())
        return go_on() if closed is None else phases.deny(closed.failure_response, by=closed, unseen=unseen)

    return then(run(phases.exchange, side.on_chunk, arguments, Outcome()), done)


def _before_trailers(phases: Phases, side: Side, first: Replies, message: Any) -> Result:
    """Go on behind the replies `first` to headers and body.

    One alone ended the exchange, or put a body where none came, after which Envoy waits for no reply to trailers.
    """
    if not isinstance(first, tuple):
        return first
    return _in_front(first, _trailers(phases, side, message))


def _grpc_error(trailers: Headers) -> int | None:
    """Return the error in these trailers, None when there is none (gRPC over HTTP/2, "Responses")."""
    status = trailers.get("grpc-status") or ""
    return int(status) if status in _GRPC_ERRORS else None


def _changes(action: Any) -> bool:
    """Tell whether an action changes the message, other than an empty body to an empty one."""
    return any(getattr(action, field.name) for field in fields(action) if field.name not in _NO_CHANGE)


def _in_front(first: Replies, rest: Result) -> Result:
    """Return the replies of `rest` with `first` before them."""
    return _in_front_later(first, rest) if isinstance(rest, Coroutine) else _joined(first, rest)


async def _in_front_later(first: Replies, rest: Coroutine[Any, Any, Replies]) -> Replies:
    return _joined(first, await rest)


def _joined(*some: Replies) -> Replies:
    return tuple(reply for one in some for reply in ((one,) if isinstance(one, bytes) else one or ()))
