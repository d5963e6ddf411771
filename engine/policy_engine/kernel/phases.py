"""The phases of one stream on one chain: which policies run on a message, and what is answered.

Apart from `session`, which knows the order of messages and finds the chain: here a chain is given, always.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from policy_engine.kernel.body_after_trailers import changes, in_front
from policy_engine.kernel.content_coding import CODINGS, BodyTooLarge, UndecodableBody, codings_of, decode, encode
from policy_engine.kernel.header_view import headers_of
from policy_engine.kernel.kernel import Kernel
from policy_engine.kernel.promises import (
    doubt,
    ended_without_body,
    honour,
    name_body_in_pieces,
    name_trailers_only,
    name_unsent_request_body,
    name_unsent_response_body,
)
from policy_engine.kernel.reply import (
    ProcessingMode,
    body_reply,
    chunk_reply,
    dropped_reply,
    duplex_chunk_reply,
    headers_reply,
    immediate_reply,
    piece_reply,
    trailers_reply,
)
from policy_engine.kernel.routes import CachedReply, Modes, Route
from policy_engine.kernel.stream import Peer, Replies
from policy_engine.sdk import Chunk, Headers, ImmediateResponse, Request, Response
from policy_engine.sdk.headers import HeaderEdit
from policy_engine.worker.chains.closing import close_chains
from policy_engine.worker.chains.compiled import Step
from policy_engine.worker.chains.executor import Exchange, Outcome, run

logger = logging.getLogger("policy_engine.kernel")

Result = Replies | Coroutine[Any, Any, Replies]

PASS_RESPONSE_HEADERS = headers_reply("response_headers")
_NO_BODY_STATUSES = (204, 304)
_LENGTH_DIGITS = 15
_STREAMING = (ProcessingMode.STREAMED, ProcessingMode.FULL_DUPLEX_STREAMED)


class Phases:
    """Runs a chain's phases for one stream. `ended` is True once an answer ended the exchange.

    `probing`: the response's body may come without its headers; see `promises`.
    """

    __slots__ = (
        "_exchange",
        "_kernel",
        "_modes",
        "_peer",
        "_request",
        "_request_body_due",
        "_request_over",
        "_response",
        "_response_body_due",
        "_response_over",
        "_route",
        "ended",
        "probing",
    )

    def __init__(self, kernel: Kernel, route: Route, modes: Modes, request: Request, peer: Peer) -> None:
        self._kernel = kernel
        self._peer = peer
        self._route = route
        self._modes = modes
        self._request = request
        self._exchange = Exchange(route.chain, request)
        self._response = self._exchange.response
        self._request_body_due = False
        self._request_over = False
        self._response_body_due = False
        self._response_over = False
        self.ended = False
        self.probing = False
        route.chain.usage.streams += 1
        if kernel.tracing is not None:
            request.trace = kernel.tracing.begin(request)

    @property
    def route(self) -> Route:
        """The route whose chain runs."""
        return self._route

    def close(self) -> None:
        """Let go of the chain; the last stream on a retired chain closes its policies."""
        if self._response_body_due and self._modes.response_by_override and not self.ended:
            broken = ended_without_body(self._peer, self._route, self._modes)
            self._kernel.statistics.broken_response_promises += broken
        chain = self._route.chain
        for hook in chain.stream_end:
            try:
                hook(self._request)
            except BaseException:  # the policy's own, also its `sys.exit()`: it does not end the worker
                logger.exception("on_stream_end of a policy on route %s failed", chain.route_key)
        tracing = self._kernel.tracing
        if tracing is not None and self._request.trace is not None:
            tracing.end(self._request.trace)
        usage = chain.usage
        usage.streams -= 1
        if usage.retired and usage.streams == 0:
            close_chains((chain,))

    # -- request -------------------------------------------------------------------------------------------------

    def request_headers(self, *, bodiless: bool) -> Result:
        """Run the request-headers phase, and the body phase too when there will be no body message."""
        chain, request = self._route.chain, self._request
        if self._modes.response_by_override and self._peer.doubted:
            self._probe(bodiless=bodiless)
        self._request_body_due = bool(self._modes.request_body) and not bodiless
        if not bodiless and self._announces_too_much(self._modes.request_body, request.headers):
            return self._too_large(413)
        if bodiless and chain.request_body:
            # Envoy sends no body message for a request without one; a policy that reads bodies must not be skipped.
            request.body = b""
        elif not chain.request_headers:
            return self._modes.pass_reply
        outcome = run(self._exchange, chain.request_headers, [request], Outcome())
        if isinstance(outcome, Outcome):
            return self._request_headers_done(outcome)
        return _later(outcome, self._request_headers_done)

    def _request_headers_done(self, outcome: Outcome) -> Result:
        if outcome.immediate is not None:
            return self._answer(outcome)
        chain, request = self._route.chain, self._request
        if request.body is None or not chain.request_body:
            return self._request_replaced(outcome, replaced=request.body is not None)
        # A body without a body message: a policy replaced it, or the request has none.
        replaced = request.body != b""
        return self._then(
            run(self._exchange, chain.request_body, [request], outcome),
            lambda done: self._request_replaced(done, replaced=replaced),
        )

    def _request_replaced(self, outcome: Outcome, *, replaced: bool) -> Replies:
        if outcome.immediate is not None:
            return self._answer(outcome)
        body, override = self._request.body, self._modes.override
        if replaced or body:
            self._request_body_due = False
            return _replaced("request_headers", outcome, self._request) + override
        if not outcome.actions:
            return self._modes.pass_reply
        return _cached("request_headers", self._route.request_headers, outcome) + override

    def request_body(self, message: Any) -> Result:
        """Run the request-body phase on a whole body, or on one chunk of it, as the mode has it."""
        self._request_body_due = False
        mode, chain = self._modes.request_body, self._route.chain
        if self._modes.request_by_override:
            honour(self._peer, self._route)
        if mode == ProcessingMode.BUFFERED:
            if self._request_over:
                return self._in_pieces("request_body", chain.request_body)
            self._request_over = True
            return self._buffered_request(message)
        chunk = Chunk(message.body, message.end_of_stream)
        if self._request_over:
            return dropped_reply("request_body", mode)
        args: list[Any] = [self._request, chunk]

        def done(outcome: Outcome) -> Replies:
            if outcome.immediate is not None:
                return self._answer(outcome)
            self._request_over = args[-1].end
            return piece_reply("request_body", mode, chunk, args[-1])

        return self._then(run(self._exchange, chain.request_chunks, args, Outcome()), done)

    def _buffered_request(self, message: Any) -> Result:
        request, steps = self._request, self._route.chain.request_body
        codings = codings_of(request.headers.get("content-encoding"))
        try:
            request.body = decode(message.body, codings, self._kernel.options.body_limit)
        except BodyTooLarge:
            return self._too_large(413)
        except UndecodableBody as error:
            return self._undecodable(steps, "request_body", 415, error)
        return self._then(
            run(self._exchange, steps, [request], Outcome()),
            lambda outcome: self._body_done("request_body", outcome, request, codings),
        )

    def request_trailers(self, message: Any) -> Result:
        """Run the request-trailers phase; before it the body phase, when only trailers follow the headers."""
        if self._request_body_due:
            self._request_body_due = False
            self._request.body = b""
            steps = self._route.chain.request_body
            return self._then(
                run(self._exchange, steps, [self._request], Outcome()),
                lambda outcome: self._bodiless(outcome, steps, lambda: self._request_trailers(message)),
            )
        mode, chunks = self._modes.request_body, self._route.chain.request_chunks
        if chunks and mode in _STREAMING and not self._request_over:
            self._request_over = True
            args = [self._request, Chunk(b"", end=True)]
            return self._last_chunk("request_body", chunks, mode, args, lambda: self._request_trailers(message))
        return self._request_trailers(message)

    def _request_trailers(self, message: Any) -> Result:
        steps = self._route.chain.request_trailers
        if not steps:
            return trailers_reply("request_trailers")
        return self._then(
            run(self._exchange, steps, [self._request, headers_of(message.trailers)], Outcome()),
            lambda outcome: self._trailers_done("request_trailers", outcome),
        )

    # -- response ------------------------------------------------------------------------------------------------

    def response_headers(self, message: Any) -> Result:
        """Run the response-headers phase, and the body phase too when there will be no body message."""
        modes = self._modes
        if self._request_body_due:
            self._request_body_due = False
            if modes.request_by_override:
                doubt(self._peer)
            refusal = self._body_never_came()
            if refusal is not None:
                return refusal
        response = Response(headers_of(message.headers))
        self._response = self._exchange.response = response
        bodiless = message.end_of_stream
        if modes.skips_response_headers:
            doubt(self._peer)
        if modes.response_body and not bodiless and self._can_have_body(response):
            if modes.response_by_override and self._peer.doubted and modes.guard is not None:
                name_unsent_response_body(self._route, modes)
                self._kernel.statistics.doubted_responses += 1
                return self._end(modes.guard.failure_response)
            self._response_body_due = True
        if not bodiless and self._announces_too_much(self._modes.response_body, response.headers):
            return self._too_large(502)
        outcome = run(self._exchange, self._route.chain.response_headers, [self._request, response], Outcome())
        if isinstance(outcome, Outcome):
            return self._response_headers_done(outcome, response, bodiless=bodiless)
        return _later(outcome, lambda done: self._response_headers_done(done, response, bodiless=bodiless))

    def _response_headers_done(self, outcome: Outcome, response: Response, *, bodiless: bool) -> Result:
        if outcome.immediate is not None:
            return self._answer(outcome)
        steps = self._route.chain.response_body
        replaced = response.body is not None
        if not steps or not (replaced or (bodiless and self._can_have_body(response))):
            return self._response_replaced(outcome, response, replaced=replaced)
        response.body = response.body or b""
        return self._then(
            run(self._exchange, steps, [self._request, response], outcome),
            lambda done: self._response_replaced(done, response, replaced=replaced),
        )

    def _response_replaced(self, outcome: Outcome, response: Response, *, replaced: bool) -> Replies:
        if outcome.immediate is not None:
            return self._answer(outcome)
        if replaced or response.body:
            self._response_body_due = False
            return _replaced("response_headers", outcome, response)
        if not outcome.actions:
            return PASS_RESPONSE_HEADERS
        return _cached("response_headers", self._route.response_headers, outcome)

    def response_body(self, message: Any) -> Result:
        """Run the response-body phase on a whole body, or on one chunk of it, as the mode has it."""
        mode, chain, response = self._modes.response_body, self._route.chain, self._response
        self._response_body_due = False
        if self._modes.response_by_override:
            honour(self._peer, self._route)
        if response is None:
            return self._unguarded_body()
        if mode == ProcessingMode.BUFFERED:
            if self._response_over:
                return self._in_pieces("response_body", chain.response_body)
            self._response_over = True
            return self._buffered_response(response, message)
        chunk = Chunk(message.body, message.end_of_stream)
        if self._response_over:
            return dropped_reply("response_body", mode)
        args: list[Any] = [self._request, response, chunk]

        def done(outcome: Outcome) -> Replies:
            if outcome.immediate is not None:
                return self._answer(outcome)
            self._response_over = args[-1].end
            return piece_reply("response_body", mode, chunk, args[-1])

        return self._then(run(self._exchange, chain.response_chunks, args, Outcome()), done)

    def _buffered_response(self, response: Response, message: Any) -> Result:
        steps = self._route.chain.response_body
        codings = codings_of(response.headers.get("content-encoding"))
        try:
            response.body = decode(message.body, codings, self._kernel.options.body_limit)
        except BodyTooLarge:
            return self._too_large(502)
        except UndecodableBody as error:
            return self._undecodable(steps, "response_body", 502, error)
        return self._then(
            run(self._exchange, steps, [self._request, response], Outcome()),
            lambda outcome: self._body_done("response_body", outcome, response, codings),
        )

    def response_trailers(self, message: Any) -> Result:
        """Run the response-trailers phase; before it the body phase, when only trailers follow the headers."""
        if self._response_body_due and self._response is not None:
            self._response_body_due = False
            self._response.body = b""
            steps = self._route.chain.response_body
            return self._then(
                run(self._exchange, steps, [self._request, self._response], Outcome()),
                lambda outcome: self._bodiless(outcome, steps, lambda: self._response_trailers(message)),
            )
        mode, chunks = self._modes.response_body, self._route.chain.response_chunks
        if chunks and mode in _STREAMING and not self._response_over and self._response is not None:
            self._response_over = True
            args = [self._request, self._response, Chunk(b"", end=True)]
            return self._last_chunk("response_body", chunks, mode, args, lambda: self._response_trailers(message))
        return self._response_trailers(message)

    def _response_trailers(self, message: Any) -> Result:
        steps = self._route.chain.response_trailers
        if not steps or self._response is None:
            return trailers_reply("response_trailers")
        return self._then(
            run(self._exchange, steps, [self._request, self._response, headers_of(message.trailers)], Outcome()),
            lambda outcome: self._trailers_done("response_trailers", outcome),
        )

    # -- what the phases share -----------------------------------------------------------------------------------

    def _then(self, outcome: Outcome | Coroutine[Any, Any, Outcome], done: Callable[[Outcome], Result]) -> Result:
        """Go on with `done` now, or when the phase's policies have been awaited."""
        if isinstance(outcome, Outcome):
            return done(outcome)
        return _later(outcome, done)

    def _body_done(self, field: str, outcome: Outcome, view: Request | Response, codings: tuple[str, ...]) -> Replies:
        if outcome.immediate is not None:
            return self._answer(outcome)
        replaced = any(action.body is not None for action in outcome.actions)
        return body_reply(
            field,
            outcome.edits,
            outcome.actions,
            body=encode(view.body or b"", codings) if replaced else None,
            had_content_length="content-length" in view.headers,
        )

    def _last_chunk(
        self, field: str, steps: tuple[Step, ...], mode: int, args: list[Any], go_on: Callable[[], Result]
    ) -> Result:
        """Tell chunk policies that the body is over: with trailers behind it, Envoy marks no chunk as the last.

        What they held back until now goes out in full duplex; in STREAMED nothing can be added any more, which is a
        failure.
        """

        def done(outcome: Outcome) -> Result:
            if outcome.immediate is not None:
                return self._answer(outcome)
            data, closed = args[-1].data, _first_closed(steps)
            if not data:
                return go_on()
            if mode == ProcessingMode.FULL_DUPLEX_STREAMED:
                return in_front(duplex_chunk_reply(field, data, end=False), go_on())
            return go_on() if closed is None else self._end(closed.failure_response)

        return self._then(run(self._exchange, steps, args, Outcome()), done)

    def _bodiless(self, outcome: Outcome, steps: tuple[Step, ...], go_on: Callable[[], Result]) -> Result:
        """Body policies ran for a body without a DATA frame: Envoy sends no body message, and asks about trailers only.

        They may refuse. What they change cannot be sent any more: as if they had failed, which is no way round them.
        """
        if outcome.immediate is not None:
            return self._answer(outcome)
        closed = _first_closed(steps)
        if closed is None or not any(map(changes, outcome.actions)):
            return go_on()
        name_trailers_only(self._route)
        return self._end(closed.failure_response)

    def _trailers_done(self, field: str, outcome: Outcome) -> Replies:
        return self._answer(outcome) if outcome.immediate is not None else trailers_reply(field, outcome.edits)

    def _answer(self, outcome: Outcome) -> Replies:
        self._kernel.statistics.immediate += 1
        return self._end(outcome.immediate or _INTERNAL_ERROR, outcome.actions)

    def _end(self, response: ImmediateResponse, earlier: Sequence[Any] = ()) -> Replies:
        self.ended = True
        tracing = self._kernel.tracing
        if tracing is not None and self._request.trace is not None:
            tracing.answered(self._request.trace, response)
        return immediate_reply(response, earlier)

    def _announces_too_much(self, mode: int, headers: Headers) -> bool:
        """Tell whether a body to be buffered will exceed the limit, by its `content-length`.

        Waiting for it would be a trap: when more than Envoy's own buffer holds arrives before our reply to the headers,
        Envoy stops reading and the request hangs until its idle timeout (1.36.2, shown by `runtime_limits_test`).
        """
        if mode != ProcessingMode.BUFFERED:
            return False
        length = headers.get("content-length") or ""
        # The digits are counted first: int() of a number without end is slow.
        return length.isdecimal() and (len(length) > _LENGTH_DIGITS or int(length) > self._kernel.options.body_limit)

    def _too_large(self, status: int) -> Replies:
        self._kernel.statistics.body_too_large += 1
        return self._end(ImmediateResponse(status, details="policy_engine:body_too_large"))

    def _undecodable(self, steps: tuple[Step, ...], field: str, status: int, error: UndecodableBody) -> Replies:
        """No policy can read this body: the failure modes of those that need it decide (R-11)."""
        closed = _first_closed(steps)
        logger.warning(
            "%s of route %s cannot be decoded (%s), %s",
            field,
            self._route.chain.route_key,
            error,
            "policies that read it are skipped" if closed is None else f"denied for {closed.label}",
            extra={"event": "undecodable_body", "route": self._route.chain.route_key},
        )
        if closed is None:
            return chunk_reply(field, None)
        return self._end(ImmediateResponse(status, details="policy_engine:undecodable_body"))

    def _can_have_body(self, response: Response) -> bool:
        return self._request.method != "HEAD" and response.status not in _NO_BODY_STATUSES and response.status >= 200

    def _probe(self, *, bodiless: bool) -> None:
        """Ask what shows whether Envoy takes overrides, unless the request's own body will show it."""
        modes = self._modes
        if modes.probe is not None and (bodiless or not modes.request_by_override):
            self._modes, self.probing = modes.probe, True

    def _unguarded_body(self) -> Replies:
        """A body without the headers it belongs to, which are with the client: the probe has done its work."""
        guard = self._modes.guard
        if guard is None:
            return chunk_reply("response_body", None)
        self._kernel.statistics.doubted_responses += 1
        return self._end(guard.failure_response)

    def _in_pieces(self, field: str, steps: tuple[Step, ...]) -> Replies:
        """More of a body that was to come whole: Envoy streams it as its own configuration says, policies saw part."""
        closed = _first_closed(steps)
        name_body_in_pieces(self._route, field, steps, closed)
        return chunk_reply(field, None) if closed is None else self._end(closed.failure_response)

    def _body_never_came(self) -> Replies:
        """The response is here, the request body that was asked for never came: Envoy's configuration forbids it."""
        self._kernel.statistics.broken_promises += 1
        steps = self._route.chain.request_body or self._route.chain.request_chunks
        closed = _first_closed(steps)
        name_unsent_request_body(self._route, steps, closed)
        return None if closed is None else self._end(closed.failure_response)


_INTERNAL_ERROR = ImmediateResponse(500, details="policy_engine:internal_error")


async def _later(outcome: Coroutine[Any, Any, Outcome], done: Callable[[Outcome], Result]) -> Replies:
    result = done(await outcome)
    return result if result is None or isinstance(result, bytes | tuple) else await result


def _cached(field: str, cached: CachedReply, outcome: Outcome) -> bytes:
    """Return the reply for the phase's actions, serialised anew only when an action is another object than before."""
    if not cached.matches(outcome.actions):
        cached.actions, cached.reply = outcome.actions, headers_reply(field, outcome.edits, outcome.actions)
    return cached.reply


def _first_closed(steps: tuple[Step, ...]) -> Step | None:
    return next((step for step in steps if not step.fails_open), None)


_IDENTITY = HeaderEdit(("content-encoding",))


def _replaced(field: str, outcome: Outcome, view: Request | Response) -> bytes:
    """Return the headers reply with a new body, encoded as its `content-encoding` says, or without that header."""
    codings, edits = codings_of(view.headers.get("content-encoding")), outcome.edits
    if not CODINGS.issuperset(codings):
        codings, edits = (), [*edits, _IDENTITY]
    return headers_reply(field, edits, outcome.actions, body=encode(view.body or b"", codings))
