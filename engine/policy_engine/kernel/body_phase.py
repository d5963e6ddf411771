"""What happens when a body comes: whole and decoded for policies of bodies, or chunk by chunk for those of chunks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from policy_engine.kernel.coding_threads import decoded, encoded
from policy_engine.kernel.collecting import NO_ROOM
from policy_engine.kernel.content_coding import BodyTooLarge, UndecodableBody, codings_of
from policy_engine.kernel.later import Result, then
from policy_engine.kernel.no_content import NO_FRAMING, without_content
from policy_engine.kernel.phases import Phases
from policy_engine.kernel.promises import honour, name_body_in_pieces
from policy_engine.kernel.reply import (
    body_reply,
    chunk_reply,
    dropped_reply,
    duplex_chunk_reply,
    duplex_replies,
    passed_reply,
    piece_reply,
)
from policy_engine.kernel.sides import Side, first_closed
from policy_engine.kernel.stream import Replies
from policy_engine.sdk import Chunk, ImmediateResponse, Request, Response
from policy_engine.sdk.headers import HeaderEdit
from policy_engine.sdk.repeated_lines import RepeatedLines
from policy_engine.worker.chains.executor import Outcome, run

repeated = RepeatedLines(logging.getLogger("policy_engine.kernel"))


def body(phases: Phases, side: Side, message: Any) -> Result:
    """Run the body of `side`, or one chunk of it, as the mode has it; `message` is Envoy's `HttpBody`."""
    phases.no_longer_awaited(side)
    if side.by_override:
        honour(phases.peer, phases.route)
    view = phases.view(side)
    if side in phases.replaced:
        waiting, phases.waiting = phases.waiting, None
        if waiting is not None:
            return waiting(True, message.end_of_stream)
        return duplex_chunk_reply(side.body, b"", end=True) if message.end_of_stream else None
    if not side.reads:
        return passed_reply(side.body, side.body_mode, message)
    if view is None:
        return _unguarded(phases, side, message)
    over = side in phases.over
    if side.observed:
        return chunk_reply(side.body, None) if over else _observed(phases, side, view, message)
    if not side.whole or side.collects:
        if over:
            return dropped_reply(side.body, side.body_mode)
        return _collected(phases, side, view, message) if side.collects else _chunk(phases, side, message)
    if over or (side.in_pieces and not message.end_of_stream):
        return _in_pieces(phases, side)
    phases.over += (side,)
    return _buffered(phases, side, view, message.body)


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


def _collected(phases: Phases, side: Side, view: Request | Response, message: Any) -> Result:
    """Take a piece of a body that policies need whole; the last one brings the reply to all of it."""
    collection = phases.collection
    if collection is None:
        return None
    if collection.size + len(message.body) > phases.body_limit:
        return phases.too_large(side)
    if not collection.add(message.body):
        return phases.deny(NO_ROOM)
    return put_together(phases, side, view, end=True) if message.end_of_stream else None


def put_together(phases: Phases, side: Side, view: Request | Response, *, end: bool) -> Result:
    """Run the policies of bodies on what was collected, with all of it there; `end`: no trailers follow."""
    collection = phases.collection
    if collection is None:
        return None
    phases.collection = None
    phases.over += (side,)
    data = collection.take()

    def reply(edits: Sequence[HeaderEdit], actions: Sequence[Any], changed: bytes | None) -> Replies:
        body = data if changed is None else changed
        return duplex_replies(side.headers, side.body, edits, actions, body, came=bool(data) or end, end=end)

    return _Whole(phases, side, view, collection.outcome, reply).run(data)


def _buffered(phases: Phases, side: Side, view: Request | Response, data: bytes) -> Result:
    def reply(edits: Sequence[HeaderEdit], actions: Sequence[Any], changed: bytes | None) -> Replies:
        has_length = "content-length" in view.headers and NO_FRAMING not in edits
        return body_reply(side.body, edits, actions, body=changed, had_content_length=has_length)

    return _Whole(phases, side, view, Outcome(), reply).run(data)


@dataclass(frozen=True, slots=True)
class _Whole:
    """The policies of bodies on a whole body, after those of its headers if their reply still waits.

    `reply` makes the reply of header edits, actions and the new body, None for one that did not change.
    """

    phases: Phases
    side: Side
    view: Request | Response
    outcome: Outcome
    reply: Callable[[Sequence[HeaderEdit], Sequence[Any], bytes | None], Replies]

    def run(self, data: bytes) -> Result:
        """Decode the body and run the policies on it."""
        codings = codings_of(self.view.headers)
        try:
            whole = decoded(data, codings, self.phases.body_limit)
        except (BodyTooLarge, UndecodableBody) as error:
            return self._refused(error)
        return self._policies(whole, codings) if isinstance(whole, bytes) else self._later(whole, codings)

    async def _later(self, pending: Coroutine[Any, Any, bytes], codings: tuple[str, ...]) -> Replies:
        try:
            whole = await pending
        except (BodyTooLarge, UndecodableBody) as error:
            result = self._refused(error)
        else:
            result = self._policies(whole, codings)
        return await result if isinstance(result, Coroutine) else result

    def _policies(self, whole: bytes, codings: tuple[str, ...]) -> Result:
        phases, view = self.phases, self.view
        view.body = whole
        before = len(self.outcome.actions)

        def done(outcome: Outcome) -> Result:
            if outcome.immediate is not None:
                return phases.answer(outcome)
            if outcome.restated and without_content(phases.exchange, view):
                return self.reply([*outcome.edits, NO_FRAMING], outcome.actions, b"")
            if all(action.body is None for action in outcome.actions[before:]):
                return self.reply(outcome.edits, outcome.actions, None)
            return then(
                encoded(view.body or b"", codings),
                lambda changed: self.reply(outcome.edits, outcome.actions, changed),
            )

        return then(run(phases.exchange, self.side.on_body, phases.arguments(self.side), self.outcome), done)

    def _refused(self, error: BodyTooLarge | UndecodableBody) -> Result:
        if isinstance(error, BodyTooLarge):
            return self.phases.too_large(self.side)
        if first_closed(self.side.on_body) is not None:
            return _undecodable(self.phases, self.side, error)
        _undecodable(self.phases, self.side, error)
        return self.reply(self.outcome.edits, self.outcome.actions, None)


def _undecodable(phases: Phases, side: Side, error: UndecodableBody) -> Result:
    """No policy can read this body: the failure modes of those that need it decide (R-11); None lets it pass."""
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
        return None
    return phases.deny(ImmediateResponse(side.undecodable, details="policy_engine:undecodable_body"), by=closed)


def _in_pieces(phases: Phases, side: Side) -> Result:
    """More of a body that was to come whole: Envoy streams it as its own configuration says, policies saw part."""
    closed = first_closed(side.on_body)
    name_body_in_pieces(phases.route, side.body, side.on_body, closed)
    if closed is None:
        return chunk_reply(side.body, None)
    return phases.deny(closed.failure_response, by=closed, unseen=phases.too_late(side))


def _unguarded(phases: Phases, side: Side, message: Any) -> Result:
    """A body without the headers it belongs to, which are with the client: the probe has done its work."""
    guard = phases.modes.guard
    if guard is None:
        return passed_reply(side.body, side.body_mode, message)
    phases.kernel.statistics.doubted_responses += 1
    return phases.deny(guard.failure_response, unseen=True)
