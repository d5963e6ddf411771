"""What happens when headers come: the policies of headers run, and those of the body where no body message follows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from policy_engine.kernel.accepted_codings import narrow
from policy_engine.kernel.coding_threads import encoded
from policy_engine.kernel.collecting import Collection
from policy_engine.kernel.content_coding import CODINGS, codings_of
from policy_engine.kernel.endless import REFUSAL, is_endless
from policy_engine.kernel.header_view import headers_of
from policy_engine.kernel.later import Result, then
from policy_engine.kernel.no_content import NO_FRAMING, can_have_body, without_content
from policy_engine.kernel.phases import Phases
from policy_engine.kernel.promises import doubt, name_unsent_request_body, name_unsent_response_body
from policy_engine.kernel.reply import ProcessingMode, duplex_replies, headers_reply
from policy_engine.kernel.sides import Side, first_closed
from policy_engine.kernel.stream import Replies
from policy_engine.sdk import Headers, Request, Response, ResponseOrigin
from policy_engine.sdk.headers import HeaderEdit, apply_edit
from policy_engine.worker.chains.executor import Outcome, run

_BODY_NOT_TAKEN = (408, 413)
_LENGTH_DIGITS = 15
_EVENT_STREAM = "text/event-stream"
_IDENTITY = HeaderEdit(("content-encoding",))


def request_headers(phases: Phases, *, bodiless: bool) -> Result:
    """Run the request's headers; `bodiless` when they end the request."""
    if phases.modes.endless is not None and is_endless(phases.request):
        if phases.modes.needs_end:
            return _judged_first(phases, partial(_refused_as_endless, phases))
        phases.modes = phases.modes.endless
    elif phases.modes.observed_request is not None:
        phases.modes = phases.modes.observed_request[_gathering(phases, phases.request.headers, ends=bodiless)]
    if phases.modes.response.by_override and phases.peer.doubted:
        _probe(phases, bodiless=bodiless)
    side, request = phases.modes.request, phases.request
    phases.content = not bodiless
    if side.unsent and not bodiless:
        refusal = _never_sent(phases, side)
        if refusal is not None:
            return refusal
    outcome = Outcome()
    if phases.modes.response.whole and not phases.modes.response.observed:
        narrow(request.headers, outcome)
    if bodiless:
        return _headers(phases, side, request, [request], outcome, comes=False, empty=bool(side.on_body))
    comes = bool(side.body_mode) and side.reads
    return _headers(phases, side, request, [request], outcome, comes=comes, empty=False)


def response_headers(phases: Phases, message: Any, origin: ResponseOrigin | Callable[[], ResponseOrigin]) -> Result:
    """Run the response's headers, unless a body that policies need did not come or will not."""
    modes, request = phases.modes, phases.request
    phases.stop_collecting()  # Envoy has answered by itself
    response = Response(headers_of(message.headers), origin=origin)
    if phases.awaited and phases.no_longer_awaited(modes.request) and not _nobody_took_it(modes.request, response):
        doubt(phases.peer)
        refusal = _body_never_came(phases)
        if refusal is not None:
            return refusal
    phases.exchange.response = response
    if modes.skips_response_headers:
        doubt(phases.peer)
    if modes.observed_response is not None:
        ends = message.end_of_stream or not can_have_body(request, response)
        modes = phases.modes = modes.observed_response[_gathering(phases, response.headers, ends=ends)]
    side = modes.response
    phases.content = not message.end_of_stream
    comes = empty = False
    if side.unsent and phases.content and can_have_body(request, response):
        refusal = _never_sent(phases, side)
        if refusal is not None:
            return refusal
    elif side.body_mode and side.reads and can_have_body(request, response):
        comes = not message.end_of_stream
        empty = not comes and bool(side.on_body)
        if comes and side.by_override and phases.peer.doubted and modes.guard is not None:
            name_unsent_response_body(phases.route, modes)
            phases.kernel.statistics.doubted_responses += 1
            return phases.deny(modes.guard.failure_response, by=modes.guard)
    return _headers(phases, side, response, [request, response], Outcome(), comes=comes, empty=empty)


def _headers(  # what every step of this phase is given
    phases: Phases,
    side: Side,
    view: Request | Response,
    arguments: list[Any],
    begun: Outcome,
    *,
    comes: bool,
    empty: bool,
) -> Result:
    """Run the headers of `side`. Its body `comes` in messages of its own, or is `empty` and policies still read it.

    Envoy sends no body message for a message without one; a policy that reads bodies must not be skipped. `begun` has
    what the engine itself changes, before all policies.
    """
    if comes:
        phases.awaited += (side,)
        if _announces_too_much(side, view.headers, phases):
            return _too_large(phases, side, view, arguments)
    if empty:
        view.body = b""
    elif not side.on_headers and not begun.actions:
        if not (comes and side.collects):
            return side.pass_reply
        phases.collection = Collection(phases.kernel, begun)
        return None
    elif side.constant is not None and not comes and not begun.edits:
        for edit in side.constant.edits:
            apply_edit(view.headers, edit)
        return side.constant.answer()
    outcome = run(phases.exchange, side.on_headers, arguments, begun)
    if isinstance(outcome, Outcome):
        return _headers_done(phases, side, view, outcome, arguments, empty=empty)
    return then(outcome, partial(_headers_done, phases, side, view, arguments=arguments, empty=empty))


def _too_large(phases: Phases, side: Side, view: Request | Response, arguments: list[Any]) -> Result:
    """Refuse a body for what its headers announce, unless policies of headers replace it."""
    if side is phases.modes.response:
        return phases.too_large(side)  # a response that goes nowhere is shown to nobody

    def refuse(outcome: Outcome) -> Result:
        if view.body is not None:
            return _headers_done(phases, side, view, outcome, arguments, empty=False)
        return phases.too_large(side)

    return _judged_first(phases, refuse)


def _refused_as_endless(phases: Phases, _judged: Outcome) -> Result:
    """Answer in the place of the first policy that would wait for the end of a body."""
    sides = (phases.modes.request, phases.modes.response)
    waiting = [step.entry for side in sides for step in side.on_body if not step.fails_open]
    first = next((step for side in sides for step in side.on_body if step.entry == min(waiting)), None)
    return phases.deny(REFUSAL, by=first)


def _judged_first(phases: Phases, refuse: Callable[[Outcome], Result]) -> Result:
    """Refuse a request after the policies of headers, unless one of them answers.

    Who may not send it is not told more than that, and policies that see the answer have seen the request.
    """

    def judged(outcome: Outcome) -> Result:
        return phases.answer(outcome) if outcome.immediate is not None else refuse(outcome)

    return then(run(phases.exchange, phases.modes.request.on_headers, [phases.request], Outcome()), judged)


def _headers_done(
    phases: Phases, side: Side, view: Request | Response, outcome: Outcome, arguments: list[Any], *, empty: bool
) -> Result:
    if outcome.immediate is not None:
        return phases.answer(outcome)
    replaced = view.body != (b"" if empty else None)
    if not side.on_body or not (replaced or empty):
        return _reply(phases, side, view, outcome, replaced=replaced)
    return then(
        run(phases.exchange, side.on_body, arguments, outcome),
        partial(_reply, phases, side, view, replaced=replaced),
    )


def _reply(phases: Phases, side: Side, view: Request | Response, outcome: Outcome, *, replaced: bool) -> Result:
    if outcome.immediate is not None:
        return phases.answer(outcome)
    if (replaced or outcome.restated) and without_content(phases.exchange, view):
        return _without_content(phases, side, outcome)
    if replaced or view.body:
        return _replaced(phases, side, outcome, view)
    if side.collects and side in phases.awaited:
        phases.collection = Collection(phases.kernel, outcome)
        return None
    edits = outcome.edits
    if not edits:
        return side.pass_reply
    cached = side.cached
    # Edits have no equality but their identity.
    if cached.edits != edits:
        cached.edits, cached.reply = edits, headers_reply(side.headers, edits, outcome.actions) + side.override
    return cached.reply


def _without_content(phases: Phases, side: Side, outcome: Outcome) -> Replies:
    """Return the reply to a response's headers that ends the response with them, whatever of it is still to come."""
    phases.no_longer_awaited(side)
    phases.over += (side,)
    # Nothing can be replaced where nothing follows; to a HEAD request nothing does (RFC 9110, 9.3.2).
    follows = phases.content and phases.request.method != "HEAD"
    edits = [*outcome.edits, NO_FRAMING]
    return _with_body(phases, side, edits, outcome, b"" if follows else None)


def _replaced(phases: Phases, side: Side, outcome: Outcome, view: Request | Response) -> Result:
    """Return the headers reply with a new body, encoded as its `content-encoding` says, or without that header."""
    phases.no_longer_awaited(side)
    codings, edits = codings_of(view.headers), outcome.edits
    if not CODINGS.issuperset(codings):
        codings, edits = (), [*edits, _IDENTITY]
    return then(
        encoded(view.body or b"", codings),
        lambda body: _with_body(phases, side, edits, outcome, body),
    )


def _with_body(
    phases: Phases, side: Side, edits: Sequence[HeaderEdit], outcome: Outcome, body: bytes | None
) -> Replies:
    """Return the headers reply with a new body; in full duplex it waits for a piece of the old one, if that comes.

    Envoy fails a message for which it is sent a body before it has sent any, and one that ends before it has sent all.
    """
    if body is None or not phases.content or side.body_mode != ProcessingMode.FULL_DUPLEX_STREAMED:
        return headers_reply(side.headers, edits, outcome.actions, body=body) + side.override
    phases.replaced += (side,)
    phases.waiting = lambda came, end: duplex_replies(
        side.headers, side.body, edits, outcome.actions, body, came=came, end=end
    )
    return None


def _announces_too_much(side: Side, headers: Headers, phases: Phases) -> bool:
    """Tell whether a body to be buffered will exceed the limit, ours or Envoy's, by its `content-length`.

    Waiting for it would be a trap: when more than Envoy's own buffer holds arrives before our reply to the headers,
    Envoy stops reading and the request hangs until its idle timeout (1.36.2, shown by `runtime_limits_test`).
    """
    if not side.whole:
        return False
    limit = phases.body_limit
    held = phases.kernel.options.envoy_buffer_limit
    if held is not None and not side.collects:
        limit = min(limit, held)
    length = _length(headers)
    return length is not None and length > limit


def _length(headers: Headers) -> int | None:
    """Return the `content-length`, None without one; of one with too many digits, something too large."""
    length = headers.get("content-length") or ""
    if not length.isdecimal():
        return None
    # The digits are counted first: int() of a number without end is slow.
    return int(length) if len(length) <= _LENGTH_DIGITS else sys.maxsize


def _gathering(phases: Phases, headers: Headers, *, ends: bool) -> int:
    """Return the mode in which a body may come that only shadows read, so that it reaches its end unchanged.

    Envoy refuses what is over its buffer, unless it may send the beginning alone; then it drops the length (1.36.2).
    An event stream is not held until it ends.
    """
    length = _length(headers)
    if ends or (length is not None and length <= phases.body_limit):
        return int(ProcessingMode.BUFFERED)
    if length is not None or (headers.get("content-type") or "").lower().startswith(_EVENT_STREAM):
        return int(ProcessingMode.NONE)
    return int(ProcessingMode.BUFFERED_PARTIAL)


def _probe(phases: Phases, *, bodiless: bool) -> None:
    """Ask what shows whether Envoy takes overrides, unless the request's own body will show it."""
    modes = phases.modes
    if modes.probe is not None and (bodiless or not modes.request.by_override):
        phases.modes, phases.probing = modes.probe, True


def _nobody_took_it(side: Side, response: Response) -> bool:
    """Return whether a request body that was to come, and has not, cannot have gone past the policies that read it.

    Where Envoy's own configuration sends the body it goes nowhere without them: Envoy answered by itself (413, 408), or
    the upstream did before there was a body. Where only an override does, these two statuses say as much, or Envoy.
    """
    return not side.by_override or response.status in _BODY_NOT_TAKEN or response.origin == "envoy"


def _never_sent(phases: Phases, side: Side) -> Result:
    """Say that Envoy will not send a body that policies need; the failure modes decide, as after `_body_never_came`."""
    closed = first_closed(side.on_body)
    if side is phases.modes.request:
        phases.kernel.statistics.broken_promises += 1
        name_unsent_request_body(phases.route, side.on_body, closed)
    else:
        phases.kernel.statistics.broken_response_promises += 1
        name_unsent_response_body(phases.route, phases.modes)
    return None if closed is None else phases.deny(closed.failure_response, by=closed)


def _body_never_came(phases: Phases) -> Result:
    """The response is here, the request body that was asked for never came: Envoy's configuration forbids it."""
    side = phases.modes.request
    if side.observed:
        return None
    phases.kernel.statistics.broken_promises += 1
    steps = side.on_body or side.on_chunk
    closed = first_closed(steps)
    name_unsent_request_body(phases.route, steps, closed)
    return None if closed is None else phases.deny(closed.failure_response, by=closed)
