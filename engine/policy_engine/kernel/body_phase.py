"""What happens when a body comes: whole and decoded for policies of bodies, or chunk by chunk for those of chunks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from policy_engine.kernel.coding_threads import decoded, encoded
from policy_engine.kernel.content_coding import BodyTooLarge, UndecodableBody, codings_of
from policy_engine.kernel.later import Result, then
from policy_engine.kernel.no_content import NO_FRAMING, without_content
from policy_engine.kernel.phases import Phases
from policy_engine.kernel.promises import honour, name_body_in_pieces
from policy_engine.kernel.reply import ProcessingMode, body_reply, chunk_reply, dropped_reply, piece_reply
from policy_engine.kernel.sides import Side, first_closed
from policy_engine.kernel.stream import Replies
from policy_engine.sdk import Chunk, ImmediateResponse, Request, Response
from policy_engine.sdk.repeated_lines import RepeatedLines
from policy_engine.worker.chains.executor import Outcome, run

repeated = RepeatedLines(logging.getLogger("policy_engine.kernel"))


def body(phases: Phases, side: Side, message: Any) -> Result:
    """Run the body of `side`, or one chunk of it, as the mode has it; `message` is Envoy's `HttpBody`."""
    phases.no_longer_awaited(side)
    if side.by_override:
        honour(phases.peer, phases.route)
    view = phases.view(side)
    if view is None:
        return _unguarded(phases, side)
    over = side in phases.over
    if side.observed:
        return chunk_reply(side.body, None) if over else _observed(phases, side, view, message)
    if side.body_mode != ProcessingMode.BUFFERED:
        return dropped_reply(side.body, side.body_mode) if over else _chunk(phases, side, message)
    if over:
        return _in_pieces(phases, side)
    phases.over += (side,)
    return _buffered(phases, side, view, message)


def _chunk(phases: Phases, side: Side, message: Any) -> Result:
    chunk = Chunk(message.body, message.end_of_stream)
    arguments = phases.arguments(side, chunk)

    def done(outcome: Outcome) -> Result:
        if outcome.immediate is not None:
            return phases.answer(outcome, unseen=phases.too_late(side))
        if arguments[-1].end:
            phases.over += (side,)
        return piece_reply(side.body, side.body_mode, chunk, arguments[-1])

    return then(run(phases.exchange, side.on_chunk, arguments, Outcome()), done)


def _observed(phases: Phases, side: Side, view: Request | Response, message: Any) -> Result:
    """Show a whole body to policies in shadow; it goes on as it is, also when it is not whole or cannot be decoded."""
    phases.over += (side,)
    as_it_is = chunk_reply(side.body, None)
    if not message.end_of_stream and view.headers.get("content-length") != str(len(message.body)):
        return as_it_is

    def show(whole: bytes) -> Result:
        view.body = whole

        def seen(_: Outcome) -> Replies:
            view.body = None  # nobody else was to see it
            return as_it_is

        return then(run(phases.exchange, side.on_body, phases.arguments(side), Outcome()), seen)

    try:
        whole = decoded(message.body, codings_of(view.headers), phases.body_limit)
    except (BodyTooLarge, UndecodableBody):
        return as_it_is
    return show(whole) if isinstance(whole, bytes) else _observed_later(whole, show, as_it_is)


async def _observed_later(
    pending: Coroutine[Any, Any, bytes], show: Callable[[bytes], Result], as_it_is: bytes
) -> Replies:
    try:
        whole = await pending
    except (BodyTooLarge, UndecodableBody):
        return as_it_is
    result = show(whole)
    return await result if isinstance(result, Coroutine) else result


def _buffered(phases: Phases, side: Side, view: Request | Response, message: Any) -> Result:
    codings = codings_of(view.headers)
    try:
        whole = decoded(message.body, codings, phases.body_limit)
    except (BodyTooLarge, UndecodableBody) as error:
        return _refused(phases, side, error)
    if isinstance(whole, bytes):
        return _whole(phases, side, view, whole, codings)
    return _whole_later(phases, side, view, whole, codings)


async def _whole_later(
    phases: Phases,
    side: Side,
    view: Request | Response,
    pending: Coroutine[Any, Any, bytes],
    codings: tuple[str, ...],
) -> Replies:
    try:
        whole = await pending
    except (BodyTooLarge, UndecodableBody) as error:
        result = _refused(phases, side, error)
    else:
        result = _whole(phases, side, view, whole, codings)
    return await result if isinstance(result, Coroutine) else result


def _whole(phases: Phases, side: Side, view: Request | Response, whole: bytes, codings: tuple[str, ...]) -> Result:
    """Run the policies of bodies on the `whole` body, which came in these `codings`."""
    view.body = whole

    def done(outcome: Outcome) -> Result:
        if outcome.immediate is not None:
            return phases.answer(outcome)
        if outcome.restated and without_content(phases.exchange, view):
            return body_reply(
                side.body, [*outcome.edits, NO_FRAMING], outcome.actions, body=b"", had_content_length=False
            )
        if all(action.body is None for action in outcome.actions):
            return reply(outcome, None)
        return then(encoded(view.body or b"", codings), lambda changed: reply(outcome, changed))

    def reply(outcome: Outcome, changed: bytes | None) -> bytes:
        has_length = "content-length" in view.headers
        return body_reply(side.body, outcome.edits, outcome.actions, body=changed, had_content_length=has_length)

    return then(run(phases.exchange, side.on_body, phases.arguments(side), Outcome()), done)


def _refused(phases: Phases, side: Side, error: BodyTooLarge | UndecodableBody) -> Result:
    return phases.too_large(side) if isinstance(error, BodyTooLarge) else _undecodable(phases, side, error)


def _undecodable(phases: Phases, side: Side, error: UndecodableBody) -> Result:
    """No policy can read this body: the failure modes of those that need it decide (R-11)."""
    closed = first_closed(side.on_body)
    repeated.log(
        logging.WARNING,
        (side.body, phases.route.chain.route_key),
        "%s of route %s cannot be decoded (%s), %s",
        side.body,
        phases.route.chain.route_key,
        error,
        "policies that read it are skipped" if closed is None else f"denied for {closed.label}",
        extra={
            "event": "undecodable_body",
            "route": phases.route.chain.route_key,
            "request_id": phases.request.id,
        },
    )
    if closed is None:
        return chunk_reply(side.body, None)
    return phases.deny(ImmediateResponse(side.undecodable, details="policy_engine:undecodable_body"), by=closed)


def _in_pieces(phases: Phases, side: Side) -> Result:
    """More of a body that was to come whole: Envoy streams it as its own configuration says, policies saw part."""
    closed = first_closed(side.on_body)
    name_body_in_pieces(phases.route, side.body, side.on_body, closed)
    if closed is None:
        return chunk_reply(side.body, None)
    return phases.deny(closed.failure_response, by=closed, unseen=phases.too_late(side))


def _unguarded(phases: Phases, side: Side) -> Result:
    """A body without the headers it belongs to, which are with the client: the probe has done its work."""
    guard = phases.modes.guard
    if guard is None:
        return chunk_reply(side.body, None)
    phases.kernel.statistics.doubted_responses += 1
    return phases.deny(guard.failure_response, unseen=True)
