"""The state of one stream on one chain while its phases run, and the ways in which an exchange ends.

`session` knows the order of messages and finds the chain. What happens on a message stands by its kind, once for both
sides: `headers_phase`, `body_phase`, `trailers_phase`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from policy_engine.kernel.collecting import Collection
from policy_engine.kernel.denial import answer_to
from policy_engine.kernel.kernel import Kernel
from policy_engine.kernel.later import Result
from policy_engine.kernel.outer_policies import Outwards
from policy_engine.kernel.promises import ended_without_body, name_hung_request
from policy_engine.kernel.reply import immediate_reply
from policy_engine.kernel.routes import Modes, Route
from policy_engine.kernel.sides import Side
from policy_engine.kernel.stream import Peer, Replies
from policy_engine.sdk import ImmediateResponse, Request, Response
from policy_engine.sdk.repeated_lines import RepeatedLines
from policy_engine.worker.chains.closing import leave
from policy_engine.worker.chains.compiled import Step
from policy_engine.worker.chains.executor import Exchange, Outcome

repeated = RepeatedLines(logging.getLogger("policy_engine.kernel"))

_SMALL_DIGITS = 4
"""Of a content-length below 10,000 bytes, which every Envoy has room for."""

_INTERNAL_ERROR = ImmediateResponse(500, details="policy_engine:internal_error")
_ALL = sys.maxsize


class Phases:
    """One stream on one chain.

    - `awaited`: the sides whose body was asked for and has not begun to come.
    - `over`: the sides whose body is over for the policies, whatever still comes of it.
    - `ended`: an answer ended the exchange.
    - `replaced`: the sides in full duplex whose body was replaced before it came; its end is still to be passed on.
    - `waiting`: makes the replies for such a side, given whether Envoy has sent any of the old body, and all of it.
    - `probing`: the response's body may come without its headers; see `promises`.
    - `content`: the headers that came last do not end their message.
    - `collection`: a body that is being put together, and the reply to its headers that waits for it.
    """

    __slots__ = (
        "awaited",
        "collection",
        "content",
        "ended",
        "exchange",
        "kernel",
        "modes",
        "over",
        "peer",
        "probing",
        "replaced",
        "request",
        "route",
        "waiting",
    )

    def __init__(self, kernel: Kernel, route: Route, modes: Modes, request: Request, peer: Peer) -> None:
        self.kernel = kernel
        self.peer = peer
        self.route = route
        self.modes = modes
        self.request = request
        self.exchange = Exchange(route.chain, request)
        self.awaited: tuple[Side, ...] = ()
        self.over: tuple[Side, ...] = ()
        self.collection: Collection | None = None
        self.replaced: tuple[Side, ...] = ()
        self.waiting: Callable[[bool, bool], Replies] | None = None
        self.content = False
        self.ended = False
        self.probing = False
        route.chain.usage.streams += 1
        if kernel.tracing is not None:
            request.trace = kernel.tracing.begin(request)

    @property
    def body_limit(self) -> int:
        """The largest body in bytes: that of the route, else that of the settings."""
        limit = self.route.chain.body_limit
        return self.kernel.options.body_limit if limit is None else limit

    def view(self, side: Side) -> Request | Response | None:
        """Return the message of `side` as policies see it; None for a response whose headers never came."""
        return self.request if side is self.modes.request else self.exchange.response

    def arguments(self, side: Side, *last: Any) -> list[Any]:
        """Return what a hook of `side` is called with, `last` at the end."""
        if side is self.modes.request:
            return [self.request, *last]
        return [self.request, self.exchange.response, *last]

    def no_longer_awaited(self, side: Side) -> bool:
        """Expect no body of `side` any more; returns whether one was expected."""
        if side not in self.awaited:
            return False
        self.awaited = tuple(one for one in self.awaited if one is not side)
        return True

    def too_late(self, side: Side) -> bool:
        """Return whether an answer on `side` comes too late to reach the client, as the response's headers went out.

        Not to be asked where they still wait for what is answered here.
        """
        return side is self.modes.response or self.exchange.response is not None

    def answer(self, outcome: Outcome, *, unseen: bool = False) -> Result:
        """End the exchange with what a policy answered, or what answers for one that failed.

        `unseen`: no policy sees it, as it cannot reach the client.
        """
        self.kernel.statistics.immediate += 1
        step = outcome.step
        # Of a policy that failed, the executor has logged why.
        response = outcome.immediate or _INTERNAL_ERROR
        self.kernel.statistics.denials.count(self.route.chain.route_key, step, response)
        return self._end(response, outcome.actions, before=0 if unseen or step is None else step.entry)

    def deny(self, response: ImmediateResponse, *, by: Step | None = None, unseen: bool = False) -> Result:
        """End the exchange with a refusal of the engine's own, and say so with the id that the client gets.

        `by`: it answers for this step, which could not do its work, and policies before that see it; without, all do.
        `unseen`: none does, as they have not seen the request, or as it cannot reach the client.
        """
        route = self.route.chain.route_key
        if self.kernel.decisions is None:  # which says it else
            repeated.log(
                logging.INFO,
                (response.details, route),
                "a request of route %s was refused with %d (%s)",
                route,
                response.status,
                response.details,
                extra={"event": "refused", "route": route, "request_id": self.request.id},
            )
        return self.refuse(response, by=by, unseen=unseen)

    def refuse(self, response: ImmediateResponse, *, by: Step | None = None, unseen: bool = False) -> Result:
        """Do what `deny` does for what has been logged already."""
        decisions = self.kernel.decisions
        self.kernel.statistics.denials.count(self.route.chain.route_key, by, response)
        if decisions is not None:
            response = decisions.refused(response, self.route.chain.route_key, self.request.headers)
        before = 0 if unseen else _ALL if by is None else by.entry
        return self._end(response, (), before=before)

    def too_large(self, side: Side) -> Result:
        """End the exchange for a body over the limit, in the place of the first policy that was to read it."""
        self.kernel.statistics.body_too_large += 1
        refused = ImmediateResponse(side.too_large, details="policy_engine:body_too_large")
        return self.deny(refused, by=next(iter(side.on_body), None))

    def _end(self, response: ImmediateResponse, earlier: Sequence[Any], *, before: int) -> Result:
        """End the exchange with `response`, which the policies `before` that place of the chain see.

        Dynamic metadata of `earlier` actions is still published.
        """
        self.ended = True
        self.stop_collecting()
        kernel, request, chain = self.kernel, self.request, self.route.chain
        if kernel.tracing is not None and request.trace is not None:
            kernel.tracing.answered(request.trace, response)
        errors = chain.errors or kernel.options.errors
        answer = answer_to(request.headers, response, errors, route=chain.route_key, body=request.body)
        published = [*earlier, response]
        steps = self.route.outer_steps(before)
        if steps is None:
            return immediate_reply(answer, (), published)

        def again(other: ImmediateResponse, by: Step | None, more: list[Any]) -> Result:
            return self._end(other, more, before=0 if by is None else by.entry)

        return Outwards(self.exchange, answer, steps, published, self.body_limit, again).run()

    def stop_collecting(self) -> None:
        """Let go of a body that nobody will answer for any more."""
        if self.collection is not None:
            self.collection.drop()
            self.collection = None

    def _ended_while_awaiting(self) -> None:
        """Take note of a body that was asked for and never came."""
        request, response = self.modes.request, self.modes.response
        if response.by_override and response in self.awaited:
            broken = ended_without_body(self.peer, self.route, self.modes)
            self.kernel.statistics.broken_response_promises += broken
        elif request.by_override and request in self.awaited:
            length = self.request.headers.get("content-length") or "an unknown number of"
            if not length.isdecimal() or len(length) > _SMALL_DIGITS:
                name_hung_request(self.route, length)

    def close(self) -> None:
        """Let go of the chain; the last stream on a retired chain closes its policies."""
        self.stop_collecting()
        if self.awaited and not self.ended:
            self._ended_while_awaiting()
        chain = self.route.chain
        for hook in chain.stream_end:
            try:
                hook(self.request)
            except BaseException:  # the policy's own, also its `sys.exit()`: it does not end the worker
                repeated.log(
                    logging.ERROR,
                    ("on_stream_end", chain.route_key),
                    "on_stream_end of a policy on route %s failed",
                    chain.route_key,
                    exc_info=True,
                )
        tracing = self.kernel.tracing
        if tracing is not None and self.request.trace is not None:
            tracing.end(self.request.trace)
        self.request.forget_states()
        leave(chain)
