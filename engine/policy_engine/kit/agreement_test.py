"""Random exchanges through the kit and through a session driven by hand, message by message as Envoy sends them.

What policies were shown, what the upstream got and what the client got must be the same; what fails in the session is
raised by the kit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from policy_engine.kernel.routes import configured_mode, processing_mode
from policy_engine.sdk import (
    Chunk,
    ChunkMutation,
    Headers,
    ImmediateResponse,
    Policy,
    RequestMutation,
    ResponseMutation,
    TrailerMutation,
)
from policy_engine.sdk.hooks import HOOKS
from policy_engine.sdk.testing import request, response, run
from testsupport import envoy_messages
from testsupport.chains import engine
from testsupport.envoy_messages import ProcessingMode, Reply

Plan = dict[str, str]
"""What a policy does: the name of an act by the name of a hook."""

_ROUTE = "r"
_BODY_LIMIT = 10 * 1024 * 1024


class Special(RequestMutation):
    """A subclass of an action, which is no action."""


ACTS = (
    *("none", "set", "append", "body", "empty", "drop", "upper", "end"),
    *("deny", "refuse", "restate", "wrong", "special", "raise", "bad"),
)


def _act(name: str, hook: str, marked: str, arguments: tuple[Any, ...]) -> Any:
    mutation: type[Any] = (
        TrailerMutation if "trailers" in hook else RequestMutation if "request" in hook else ResponseMutation
    )
    match name:
        case "set":
            return mutation(set_headers={f"x-{marked}": "set"})
        case "append":
            return mutation(append_headers=[("x-many", marked), ("via", marked)], remove_headers=["x-gone"])
        case "body":
            return mutation(body=marked.encode()) if "trailers" not in hook else None
        case "empty":
            return mutation(body=b"") if "trailers" not in hook else None
        case "drop" | "upper" | "end":
            if "chunk" not in hook:
                return None
            data = {"drop": b"", "upper": arguments[-1].data.upper(), "end": b"!"}[name]
            return ChunkMutation(data, end=name == "end")
        case "deny":
            return ImmediateResponse(403, "no", {"x-denied": marked})
        case "refuse":
            return ImmediateResponse(401, headers={"x-denied": marked}, problem={"detail": marked})
        case "restate":
            return mutation(status=404) if mutation is ResponseMutation and "chunk" not in hook else None
        case "wrong":
            return "wrong"
        case "special":
            return Special(set_headers={"x-special": "1"})
        case "raise":
            raise RuntimeError("on purpose")
        case "bad":
            return mutation(set_headers={"bad name": "1"})
    return None


@dataclass
class Log:
    """What policies were shown, in order."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)


def policy_of(number: int, plan: Plan, log: Log) -> type[Policy]:
    """A policy class with the hooks of `plan`."""

    def made(hook: str, act: str) -> Callable[..., Any]:
        def call(self: Policy, *arguments: Any) -> Any:
            log.calls.append((number, hook, *(_shown(one) for one in arguments)))
            return _act(act, hook, f"p{number}", arguments)

        async def later(self: Policy, *arguments: Any) -> Any:
            await asyncio.sleep(0)
            return call(self, *arguments)

        return later if number % 2 else call

    return type(f"P{number}", (Policy,), {hook: made(hook, act) for hook, act in plan.items()})


def _shown(argument: Any) -> Any:
    if isinstance(argument, Chunk):
        return (argument.data, argument.end)
    if isinstance(argument, Headers):
        return tuple(argument.items())
    headers = [(name, value) for name, value in argument.headers.items() if name != "x-request-id"]
    return (argument.body, tuple(headers))


@dataclass(frozen=True)
class Body:
    """A message's body and what follows: `pieces` None for a whole body, `data` None for none."""

    data: bytes | None = None
    pieces: tuple[bytes, ...] | None = None
    trailers: tuple[tuple[str, str], ...] | None = None

    @property
    def arriving(self) -> tuple[bytes, ...]:
        return self.pieces if self.pieces is not None else (self.data,) if self.data else ()

    @property
    def length(self) -> dict[str, str]:
        return {} if self.data is None else {"content-length": str(len(self.data))}


@dataclass(frozen=True)
class Exchange:
    """What the client sends and the upstream answers."""

    method: str
    sent: Body
    status: int
    answered: Body
    repeated: bool = False

    @property
    def headers(self) -> dict[str, Any]:
        many = {"accept": ["a", "b"], "x-many": ["1", "2"], "cookie": ["c=1", "d=2"]} if self.repeated else {}
        return {"x-gone": "1", **many}

    @property
    def arrives(self) -> Body:
        return Body() if self.method == "HEAD" or self.status in (204, 304) else self.answered


@dataclass
class Seen:
    """What came of an exchange; `client` is None when a policy failed, and `calls` are then those until it did."""

    upstream: tuple[Any, ...] | None = None
    client: tuple[Any, ...] | None = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)


def _headers_of(pairs: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if name not in ("x-request-id", "content-length") and not name.startswith(":"):
            found.setdefault(name, []).append(value)
    return found


def _answered(pairs: Any) -> dict[str, list[str]]:
    """The headers of an answer, without the content type that Envoy adds to a body which has none."""
    found = _headers_of(pairs)
    return {name: values for name, values in found.items() if (name, values) != ("content-type", ["text/plain"])}


def _trailers_of(headers: Headers | None) -> Any:
    return None if headers is None else _headers_of(headers.items())


def through_kit(plans: list[Plan], exchange: Exchange, run: Callable[..., Any] = run) -> Seen:
    """Run the exchange in the kit."""
    log = Log()
    seen = Seen(calls=log.calls)
    policies = [policy_of(number, plan, log)({}) for number, plan in enumerate(plans)]
    sent, answered = exchange.sent, exchange.answered
    try:
        outcome = run(
            policies,
            request(
                exchange.method,
                "/",
                exchange.headers,
                sent.data,
                scheme="http",
                authority="host.example",
                request_id="",
            ),
            response(exchange.status, exchange.headers, answered.data),
            request_chunks=sent.pieces,
            response_chunks=answered.pieces,
            request_trailers=None if sent.trailers is None else dict(sent.trailers),
            response_trailers=None if answered.trailers is None else dict(answered.trailers),
        )
    except (RuntimeError, TypeError, ValueError):
        return seen
    if outcome.reached_upstream:
        body = (outcome.request.body or b"") + b"".join(outcome.request_chunks)
        seen.upstream = (_headers_of(outcome.request.headers.items()), body, _trailers_of(outcome.request_trailers))
    body = (outcome.body or b"") + b"".join(outcome.response_chunks)
    if outcome.immediate is not None:
        seen.client = (outcome.status, _answered(outcome.response.headers.items()), body)
    else:
        headers = _headers_of(outcome.response.headers.items())
        seen.client = (outcome.status, headers, body, _trailers_of(outcome.response_trailers))
    return seen


class Denied(Exception):
    """The engine answered for good."""


class Driver:
    """A session and the messages to it; applies replies in the plainest way."""

    def __init__(self, plans: list[Plan], exchange: Exchange, log: Log) -> None:
        classes = [policy_of(number, plan, log) for number, plan in enumerate(plans)]
        made = engine(*classes)
        needs = made.kernel.snapshot.chains[_ROUTE].needs  # type: ignore[union-attr] # it was activated
        wanted = configured_mode(needs)
        buffered = processing_mode(needs, (0, 0))
        self.exchange = exchange
        self.session = made.session()
        self.chain = made.kernel.snapshot.chains[_ROUTE]  # type: ignore[union-attr] # it was activated
        # Bodies in pieces come on a route whose configuration has what the chain can do; whole ones are asked for.
        self.request_mode = (wanted if exchange.sent.pieces is not None else buffered).request_body_mode
        self.response_mode = (wanted if exchange.answered.pieces is not None else buffered).response_body_mode
        self.mode = wanted
        self.late = False

    @property
    def failed(self) -> bool:
        """Whether a policy failed, or could not be given what it was to see."""
        steps = [*self.chain.request_headers, *self.chain.request_body, *self.chain.request_chunks]
        steps += [*self.chain.request_trailers, *self.chain.response_headers, *self.chain.response_body]
        steps += [*self.chain.response_chunks, *self.chain.response_trailers]
        return self.late or any(sum(step.statistics.failures.values()) for step in steps)

    async def receive(self, message: bytes) -> list[Any]:
        replies = self.session.receive(message)
        if isinstance(replies, Coroutine):
            replies = await replies
        parsed = [Reply.FromString(one) for one in ((replies,) if isinstance(replies, bytes) else replies or ())]
        for one in parsed:
            if one.WhichOneof("response") == "immediate_response":
                self.late = one.immediate_response.details.startswith("policy_failed:")
                raise Denied(one.immediate_response)
        return parsed

    async def part(self, side: str, first: bytes, headers: list[tuple[str, str]], body: Body, modes: Any) -> Any:
        """Send one message through; returns its headers, body and trailers as they go on."""
        body_mode, trailer_mode = modes
        trailers = None if body.trailers is None else list(body.trailers)
        (reply,) = await self.receive(first)
        common = getattr(reply, f"{side}_headers").response
        headers = _mutated(headers, common.header_mutation)
        if common.status == common.CONTINUE_AND_REPLACE:
            return headers, common.body_mutation.body, trailers
        data = b"".join(body.arriving)
        if body_mode == ProcessingMode.BUFFERED and body.arriving:
            (reply,) = await self.receive(envoy_messages.body(side, data, end=True))
            common = getattr(reply, f"{side}_body").response
            headers = _mutated(headers, common.header_mutation)
            if common.body_mutation.WhichOneof("mutation"):
                data = common.body_mutation.body
        elif body_mode == ProcessingMode.FULL_DUPLEX_STREAMED:
            pieces = list(body.arriving)
            replies: list[Any] = []
            for number, piece in enumerate(pieces):
                end = number + 1 == len(pieces) and trailers is None
                replies += await self.receive(envoy_messages.body(side, piece, end=end))
            if trailers is not None:
                replies += await self.receive(envoy_messages.trailers(side, trailers))
            data = _streamed(side, replies)
            for one in replies:
                if one.WhichOneof("response") == f"{side}_trailers" and trailers is not None:
                    trailers = _mutated(trailers, getattr(one, f"{side}_trailers").header_mutation)
            return headers, data, trailers
        if trailers is not None and trailer_mode == ProcessingMode.SEND:
            (reply,) = await self.receive(envoy_messages.trailers(side, trailers))
            trailers = _mutated(trailers, getattr(reply, f"{side}_trailers").header_mutation)
        return headers, data, trailers


def _streamed(side: str, replies: list[Any]) -> bytes:
    data = b""
    for one in replies:
        if one.WhichOneof("response") == f"{side}_body":
            piece = getattr(one, f"{side}_body").response.body_mutation.streamed_response
            data += piece.body
            if piece.end_of_stream:
                break
    return data


_JOINED = {
    "request": {"accept": ",", "via": ",", "cookie": "; "},
    "response": {"via": ",", "cookie": "; "},
    "trailers": {},
}


def _mutated(pairs: list[tuple[str, str]], mutation: Any) -> list[tuple[str, str]]:
    pairs = [pair for pair in pairs if pair[0] not in mutation.remove_headers]
    for one in mutation.set_headers:
        name, value = one.header.key, one.header.raw_value.decode()
        if not one.append.value:
            pairs = [pair for pair in pairs if pair[0] != name]
        pairs.append((name, value))
    return pairs


def _as_sent(values: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, one) for name, many in values.items() for one in (many if isinstance(many, list) else [many])]


def _kept(pairs: list[tuple[str, str]], where: str) -> dict[str, list[str]]:
    found = _headers_of(pairs)
    joined = _JOINED[where]
    return {name: [joined[name].join(many)] if name in joined else many for name, many in found.items()}


def through_session(plans: list[Plan], exchange: Exchange) -> Seen:
    """Drive a session by hand."""
    log = Log()
    seen = Seen(calls=log.calls)
    driver = Driver(plans, exchange, log)

    async def drive() -> None:
        sent, arrives = exchange.sent, exchange.arrives
        pairs = [*_as_sent(exchange.headers), *sent.length.items()]
        end = not sent.arriving and sent.trailers is None
        static = tuple(
            mode if pieces is not None else 0
            for mode, pieces in (
                (driver.request_mode, sent.pieces),
                (driver.response_mode, exchange.answered.pieces),
            )
        )
        if ProcessingMode.FULL_DUPLEX_STREAMED in static:  # then no override can ask for the other side's
            static = (driver.request_mode, driver.response_mode)
        first = envoy_messages.request_headers(
            _ROUTE,
            pairs,
            method=exchange.method,
            end=end,
            body_modes=static,  # type: ignore[arg-type] # a pair
        )
        modes = (driver.request_mode, driver.mode.request_trailer_mode)
        headers, body, trailers = await driver.part("request", first, pairs, sent, modes)
        seen.upstream = (_kept(headers, "request"), body, None if trailers is None else _kept(trailers, "trailers"))
        answered = [(":status", str(exchange.status)), *_as_sent(exchange.headers), *exchange.answered.length.items()]
        end = not arrives.arriving and arrives.trailers is None
        if driver.mode.response_header_mode == ProcessingMode.SEND:
            first = envoy_messages.response_headers(exchange.status, answered[1:], end=end)
            modes = (driver.response_mode, driver.mode.response_trailer_mode)
            answered, body, trailers = await driver.part("response", first, answered, arrives, modes)
        else:
            body = b"".join(arrives.arriving)
            trailers = None if arrives.trailers is None else list(arrives.trailers)
        if exchange.method == "HEAD":
            body = b""
        status = int(dict(answered)[":status"])
        seen.client = (
            status,
            _kept(answered, "response"),
            body,
            None if trailers is None else _kept(trailers, "trailers"),
        )

    try:
        asyncio.run(drive())
    except Denied as error:
        answer = error.args[0]
        body = b"" if exchange.method == "HEAD" else answer.body
        headers = _kept(_mutated([], answer.headers), "response")
        if not answer.body:
            headers.pop("content-type", None)
        seen.client = (answer.status.code, headers, body)
    finally:
        driver.session.close()
    if driver.failed:
        seen.upstream = seen.client = None
    return seen


PIECES = st.lists(st.sampled_from([b"", b"one", b"two", b"three"]), max_size=3).map(tuple)
TRAILERS = st.sampled_from([None, None, (("x-t", "1"),), (("x-t", "1"), ("x-gone", "2"))])
BODIES = st.one_of(
    st.builds(Body, trailers=TRAILERS),
    st.builds(Body, data=st.sampled_from([b"", b"whole"]), trailers=TRAILERS),
    st.builds(Body, pieces=PIECES, trailers=TRAILERS),
)
EXCHANGES = st.builds(
    Exchange,
    method=st.sampled_from(["GET", "POST", "HEAD"]),
    sent=BODIES,
    status=st.sampled_from([200, 200, 204, 304]),
    answered=BODIES,
    repeated=st.booleans(),
)
PLANS = st.lists(
    st.dictionaries(
        st.sampled_from([hook.name for hook in HOOKS]),
        st.sampled_from((*["none", "set", "append"] * 3, *ACTS)),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=3,
)


def agreement(plans: list[Plan], exchange: Exchange, run: Callable[..., Any] = run) -> tuple[Seen, Seen]:
    """The same exchange both ways."""
    return through_kit(plans, exchange, run), through_session(plans, exchange)


TRAILED = Body(pieces=(b"one", b"two"), trailers=(("x-t", "1"),))
TRAILED_GET = Exchange("GET", TRAILED, 200, TRAILED)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PLANS, EXCHANGES)
@example([{"on_request_body": "body"}], Exchange("GET", Body(), 200, Body()))
@example([{"on_request_chunk": "deny"}], Exchange("POST", Body(pieces=(b"one",)), 200, Body()))
@example([{"on_request_chunk": "upper"}], Exchange("POST", TRAILED, 200, Body()))
@example([{"on_response_body": "upper"}, {"on_response_chunk": "upper"}, {"on_request_headers": "deny"}], TRAILED_GET)
@example([{"on_response_headers": "deny"}, {"on_response_headers": "refuse"}], Exchange("GET", Body(), 200, Body()))
@example([{"on_request_headers": "special"}], Exchange("GET", Body(), 200, Body()))
@example([{"on_response_body": "body"}], Exchange("HEAD", Body(), 200, Body(data=b"whole")))
@example([{"on_response_chunk": "deny"}], Exchange("GET", Body(), 200, Body(data=b"whole")))
def test_the_kit_and_a_session_as_envoy_drives_it_agree(plans: list[Plan], exchange: Exchange) -> None:
    kit, session = agreement(plans, exchange)
    calls = session.calls if session.client is not None else session.calls[: len(kit.calls)]
    assert kit.calls == calls
    assert kit.client == session.client
    assert kit.upstream == session.upstream or session.client is None
