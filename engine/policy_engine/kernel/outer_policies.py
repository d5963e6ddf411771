"""An answer on its way out: policies before the one that answered see it as if it came from upstream (R-03).

Innermost first; headers and then the body, whole. An answer is one message, so there are no trailers. One of them may
answer again: then those before it see that answer. Each time fewer policies are left, so this ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from policy_engine.kernel.coding_threads import decoded, encoded
from policy_engine.kernel.content_coding import CODINGS, BodyTooLarge, UndecodableBody, codings_of
from policy_engine.kernel.later import Result, then
from policy_engine.kernel.no_content import can_have_body
from policy_engine.kernel.reply import Answer, immediate_reply
from policy_engine.kernel.sides import Steps, first_closed
from policy_engine.sdk import Headers, ImmediateResponse, Response
from policy_engine.sdk.headers import HeaderEdit
from policy_engine.sdk.statuses import WITHOUT_CONTENT
from policy_engine.worker.chains.compiled import Step
from policy_engine.worker.chains.executor import Exchange, Outcome, run

Again = Callable[[ImmediateResponse, Step | None, list[Any]], Result]
"""Ends the exchange with another answer, which a step gave or which stands for its failure.

The list is of actions whose dynamic metadata is to be published.
"""

_IDENTITY = HeaderEdit(("content-encoding",))
_TEXT = ("content-type", b"text/plain", False)


@dataclass(frozen=True, slots=True, eq=False)
class OuterSteps:
    """The steps that an answer passes, in their order."""

    on_headers: Steps
    on_body: Steps


@dataclass(slots=True, eq=False)
class Outwards:
    """The way of one answer; `published` are the actions so far whose dynamic metadata goes with it.

    `body_limit` is in bytes, for a body that a policy has sent compressed.
    """

    exchange: Exchange
    answer: Answer
    steps: OuterSteps
    published: list[Any]
    body_limit: int
    again: Again

    def run(self) -> Result:
        """Run the steps; returns the reply to Envoy."""
        exchange, steps = self.exchange, self.steps
        response = Response(_headers_of(self.answer), origin="policy")
        exchange.answered(response, (*steps.on_headers, *steps.on_body))
        outcome = run(exchange, steps.on_headers, [exchange.request, response], Outcome())
        return then(outcome, lambda done: self._body(response, done))

    def _body(self, response: Response, outcome: Outcome) -> Result:
        if outcome.immediate is not None:
            return self.again(outcome.immediate, outcome.step, [*self.published, *outcome.actions])
        if not self.steps.on_body or not can_have_body(self.exchange.request, response):
            return self._reply(response, outcome)
        if response.body is not None:
            return self._whole(response, outcome, response.body)
        try:
            whole = decoded(self.answer.body, codings_of(response.headers), self.body_limit)
        except (BodyTooLarge, UndecodableBody):
            return self._undecodable(response, outcome)
        return (
            self._whole(response, outcome, whole) if isinstance(whole, bytes) else self._later(response, outcome, whole)
        )

    async def _later(self, response: Response, outcome: Outcome, pending: Any) -> Any:
        try:
            result = self._whole(response, outcome, await pending)
        except (BodyTooLarge, UndecodableBody):
            result = self._undecodable(response, outcome)
        return result if result is None or isinstance(result, bytes | tuple) else await result

    def _whole(self, response: Response, outcome: Outcome, body: bytes) -> Result:
        response.body = body
        outcome_then = run(self.exchange, self.steps.on_body, [self.exchange.request, response], outcome)
        return then(outcome_then, lambda done: self._reply(response, done))

    def _undecodable(self, response: Response, outcome: Outcome) -> Result:
        """No policy can read this body: the failure modes of those that need it decide, as for one of an upstream."""
        closed = first_closed(self.steps.on_body)
        if closed is None:
            return self._reply(response, outcome)
        refused = ImmediateResponse(502, details="policy_engine:undecodable_body")
        return self.again(refused, closed, [*self.published, *outcome.actions])

    def _reply(self, response: Response, outcome: Outcome) -> Result:
        if outcome.immediate is not None:
            return self.again(outcome.immediate, outcome.step, [*self.published, *outcome.actions])
        answer, edits = self.answer, outcome.edits
        if outcome.restated:
            answer.status = response.status
        replaced = any(action.body is not None for action in outcome.actions)
        if answer.status in WITHOUT_CONTENT:
            answer.body = b""
        elif replaced:
            codings = codings_of(response.headers)
            if not CODINGS.issuperset(codings):
                codings, edits = (), [*edits, _IDENTITY]
            return then(encoded(response.body or b"", codings), lambda body: self._sent(body, edits, outcome))
        return self._sent(answer.body, edits, outcome)

    def _sent(self, body: bytes, edits: list[HeaderEdit], outcome: Outcome) -> bytes:
        self.answer.body = body
        return immediate_reply(self.answer, edits, [*self.published, *outcome.actions])


def _headers_of(answer: Answer) -> Headers:
    """Return the headers as the client would get them if nobody changed them (Envoy adds type and length)."""
    lines = [(":status", b"%d" % answer.status, False), *answer.changed]
    if answer.body:
        if not any(name == "content-type" for name, _, _ in answer.changed):
            lines.append(_TEXT)
        lines.append(("content-length", b"%d" % len(answer.body), False))

    def load() -> dict[str, list[bytes]]:
        index: dict[str, list[bytes]] = {}
        for name, value, append in lines:
            if append:
                index.setdefault(name, []).append(value)
            else:
                index[name] = [value]
        return index

    return Headers.lazy(load)
