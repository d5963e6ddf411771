"""The state of one stream on one chain while its phases run, and the ways in which an exchange ends.

`session` knows the order of messages and finds the chain. What happens on a message stands by its kind, once for both
sides: `headers_phase`, `body_phase`, `trailers_phase`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from types import CoroutineType
from typing import Any, TypeVar, cast

from policy_engine.kernel.collecting import Collection
from policy_engine.kernel.denial import denial
from policy_engine.kernel.kernel import Kernel
from policy_engine.kernel.promises import ended_without_body, name_hung_request
from policy_engine.kernel.reply import immediate_reply
from policy_engine.kernel.routes import Modes, Route
from policy_engine.kernel.sides import Side
from policy_engine.kernel.stream import Peer, Replies
from policy_engine.sdk import ImmediateResponse, Request, Response
from policy_engine.sdk.repeated_lines import RepeatedLines
from policy_engine.worker.chains.closing import close_chains
from policy_engine.worker.chains.executor import Exchange, Outcome

repeated = RepeatedLines(logging.getLogger("policy_engine.kernel"))

_Value = TypeVar("_Value")

Result = Replies | Coroutine[Any, Any, Replies]

_SMALL_DIGITS = 4
"""Of a content-length below 10,000 bytes, which every Envoy has room for."""

_INTERNAL_ERROR = ImmediateResponse(500, details="policy_engine:internal_error")


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

    def answer(self, outcome: Outcome) -> Replies:
        """End the exchange with what a policy answered, or what answers for one that failed."""
        self.kernel.statistics.immediate += 1
        # Of a policy that failed, the executor has logged why.
        return self.end(outcome.immediate or _INTERNAL_ERROR, outcome.actions, refused=outcome.failed)

    def deny(self, response: ImmediateResponse) -> Replies:
        """End the exchange with a refusal of the engine's own, and say so with the id that the client gets."""
        route = self.route.chain.route_key
        repeated.log(
            logging.INFO,
            (response.details, route),
            "a request of route %s was refused with %d (%s)",
            route,
            response.status,
            response.details,
            extra={"event": "refused", "route": route, "request_id": self.request.id},
        )
        return self.end(response, refused=True)

    def too_large(self, side: Side) -> Replies:
        """End the exchange for a body over the limit."""
        self.kernel.statistics.body_too_large += 1
        return self.deny(ImmediateResponse(side.too_large, details="policy_engine:body_too_large"))

    def end(self, response: ImmediateResponse, earlier: Sequence[Any] = (), *, refused: bool = False) -> Replies:
        """End the exchange with `response`; dynamic metadata of `earlier` actions is still published.

        `refused`: it is the engine's own, see `denial`.
        """
        self.ended = True
        self.stop_collecting()
        tracing = self.kernel.tracing
        if tracing is not None and self.request.trace is not None:
            tracing.answered(self.request.trace, response)
        return immediate_reply(denial(response, self.request.headers) if refused else response, earlier)

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
        usage = chain.usage
        usage.streams -= 1
        if usage.retired and usage.streams == 0:
            close_chains((chain,))


def then(value: _Value | Coroutine[Any, Any, _Value], done: Callable[[_Value], Result]) -> Result:
    """Go on with `done` now, or when what gives its value has been awaited."""
    return _later(value, done) if isinstance(value, CoroutineType) else done(cast(_Value, value))


async def _later(value: Coroutine[Any, Any, _Value], done: Callable[[_Value], Result]) -> Replies:
    result = done(await value)
    return result if result is None or isinstance(result, bytes | tuple) else await result
