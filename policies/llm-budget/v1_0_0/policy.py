"""Budgets for language models: what an exchange may take is reserved before, what it took is charged after."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from inspect import isawaitable
from math import ceil
from threading import Lock
from weakref import WeakValueDictionary

from policy_body import (
    BodyBuffer,
    EventBuffer,
    NotJson,
    dump,
    is_compressed,
    matches_media,
    media_type_of,
    parse,
    problem,
)
from policy_engine.sdk import (
    Chunk,
    ChunkMutation,
    Counter,
    ImmediateResponse,
    Parameters,
    Policy,
    Request,
    RequestMutation,
    Response,
)
from policy_engine.sdk.steady_clock import steady_time
from policy_llm import Asked, Unclear, asked, asks_for_usage, prompt_size, tokens_of
from policy_redis import StoreUnavailable, redis_from

from .budgets import Budgets, Charge, NoKey, NoPrice
from .ledger import Amounts, Granted, Hold, Ledger, LocalLedger, Outcome, Refused
from .redis_ledger import RedisLedger
from .stream import Answer, EventAnswer, JsonAnswer, Paid, fed

_NAMESPACE = "policy.llm_budget"
_LARGEST = 1 << 20  # bytes of an event, or of a JSON answer whose usage is read
_EVENTS = "text/event-stream"
_JSON = ("application/json", "application/*+json", "text/json")
_IDENTITY = RequestMutation(set_headers={"accept-encoding": "identity"})
_UNAVAILABLE = 14  # gRPC status
_FAILED = 400

_ForRequest = RequestMutation | ImmediateResponse | None
_ForChunk = ChunkMutation | None


_NOTHING_ASKED = Asked()


@dataclass(frozen=True, slots=True)
class _Read:
    """A request: what is wrong with it, else what it asks for, how long its prompt is, its body when that changed."""

    fault: str = ""
    asked: Asked = _NOTHING_ASKED
    prompt_tokens: int = 0
    body: bytes | None = None


@dataclass(slots=True)
class _Exchange:
    """One request on its way: what it is charged to and what is known of its answer."""

    charge: Charge
    hold: Hold
    prompt_tokens: int
    status: int = 0
    is_upstreams: bool = False
    answer: Answer | None = None
    buffer: EventBuffer | BodyBuffer | None = None
    complete: bool = False
    settled: bool = False

    @property
    def paid(self) -> list[Paid]:
        """What it has of each budget."""
        return [Paid(*one) for one in zip(self.charge.weights, self.hold.amounts, strict=True)]

    def costs(self, prompt_tokens: int, completion_tokens: int) -> list[int]:
        """Return what so many tokens cost, budget by budget."""
        return [one * prompt_tokens + other * completion_tokens for one, other in self.charge.weights]

    def used(self) -> Amounts:
        """Return what it is charged in the end.

        Nothing for what did not reach a model, or failed there without a word about usage. Where there is no telling,
        what it held.
        """
        answer = self.answer
        if self.status and (not self.is_upstreams or self.status >= _FAILED):
            told = answer is not None and answer.told
            return [answer.cost(one) for one in self.charge.weights] if answer and told else [0] * len(self.hold.lines)
        if answer is None or answer.unreadable or (isinstance(answer, JsonAnswer) and not self.complete):
            return self.hold.amounts
        return [answer.cost(one) for one in self.charge.weights]


@dataclass(slots=True)
class _Kept:
    """What is kept for a request: its exchange, None for what is charged to nothing."""

    exchange: _Exchange | None = None


class LlmBudget(Policy):
    """429 when a budget is used up, before the request or in the middle of a stream."""

    requests = Counter(
        "Requests by what became of them.",
        labels={"outcome": ("admitted", "refused", "store_unavailable", "no_key", "no_price", "unreadable")},
    )
    streams_stopped = Counter("Streams that ended because a budget was used up.")

    def __init__(self, parameters: Parameters) -> None:
        self._budgets = Budgets(self, parameters)
        self._per_token = parameters.get("characters_per_token", 4)
        self._image_tokens = parameters.get("image_tokens", 1000)
        self._answer_reserve = parameters.get("answer_reserve", 1000)
        self._stream_reserve = parameters.get("stream_reserve", 200)
        self._asks_usage = parameters.get("ask_for_usage", True)
        self._refuses_not_json = parameters.get("not_json", "refuse") == "refuse"
        self._refuses_unreadable = parameters.get("unreadable", "deny") == "deny"
        self._denies_without_store = parameters.get("on_store_error", "deny") == "deny"
        self._ledger: Ledger
        if "redis" in parameters:
            redis = parameters["redis"]
            self._ledger = RedisLedger(redis_from(redis), redis.get("prefix", "llm-budget"))
        else:
            self._ledger = _shared_ledger(parameters.get("max_entries", 100_000))
        self._no_store = ImmediateResponse(
            503, headers={"retry-after": "1"}, grpc_status=_UNAVAILABLE, details="llm_budget_store_unavailable"
        )

    def on_request_headers(self, request: Request) -> RequestMutation:
        """Ask for an answer that can be read as it passes."""
        return _IDENTITY

    def on_request_body(self, request: Request) -> _ForRequest | Awaitable[_ForRequest]:
        """Take what the exchange needs to begin with."""
        if not request.body:
            return None
        read = self.offload_large(self._read, request.body, request.path)
        if isinstance(read, _Read):
            return self._judged(request, read)
        return self._judged_later(request, read)

    def on_response_headers(self, request: Request, response: Response) -> ImmediateResponse | None:
        """See whether the answer is the upstream's, and one that can be read."""
        exchange = self.state(request, _Kept).exchange
        if exchange is None or exchange.is_upstreams:
            return None
        exchange.status, exchange.is_upstreams = response.status, response.origin == "upstream"
        if not exchange.is_upstreams:
            return None
        kind = media_type_of(response.headers)
        is_events = kind == _EVENTS
        if is_compressed(response.headers):
            if is_events and self._refuses_unreadable and response.status < _FAILED:
                self.requests.inc(outcome="unreadable")
                return ImmediateResponse(502, details="llm_budget_answer_compressed")
        elif is_events:
            exchange.answer = EventAnswer(self._per_token, exchange.prompt_tokens)
            exchange.buffer = EventBuffer(_LARGEST)
        elif matches_media(kind, _JSON):
            exchange.answer = JsonAnswer(self._per_token, exchange.prompt_tokens)
            exchange.buffer = BodyBuffer(_LARGEST)
        return None

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> _ForChunk | Awaitable[_ForChunk]:
        """Read an answer as it passes; stop it where there is no budget left."""
        exchange = self.state(request, _Kept).exchange
        if exchange is None or not exchange.is_upstreams or response.origin != "upstream":
            return None
        answer, buffer = exchange.answer, exchange.buffer
        if answer is None or buffer is None:
            return self._settled(exchange, None) if chunk.end else None
        if answer.unreadable:
            return self._settled(exchange, None) if chunk.end else None
        whole = buffer.feed(chunk.data)
        rest = buffer.finish() if chunk.end or buffer.too_large else b""
        if buffer.too_large:
            return self._too_large(exchange, answer, whole, rest, chunk)
        exchange.complete = chunk.end
        new = self._fed(exchange, whole, rest)
        if isinstance(new, bytes) and not self._waits(exchange):
            return self._passed(exchange, chunk, new)
        return self._pass(exchange, chunk, new)

    def on_stream_end(self, request: Request) -> None:
        """Charge an exchange that ended before its answer did."""
        exchange = self.state(request, _Kept).exchange
        if exchange is not None and not exchange.settled:
            exchange.settled = True
            self._ledger.settle_later(exchange.hold, exchange.used())

    def close(self) -> Awaitable[None] | None:
        """Close the connections to Redis."""
        return self._ledger.close()

    # -- the request ---------------------------------------------------------------------------------------------------

    def _read(self, body: bytes, path: str) -> _Read:
        """Read a request; a pure function of its arguments and the parameters, so that a helper can do it."""
        try:
            document = parse(body)
            if not isinstance(document, dict):
                return _Read("The body is not a JSON object.")
            wanted = asked(document, path)
        except NotJson as error:
            return _Read(f"The body is not valid JSON: {error}.")
        except Unclear as error:
            return _Read(f"The request is not clear: {error}.")
        characters, tokens = prompt_size(document, self._image_tokens)
        changed = self._asks_usage and asks_for_usage(document)
        return _Read(
            asked=wanted,
            prompt_tokens=tokens + tokens_of(characters, self._per_token),
            body=dump(document) if changed else None,
        )

    async def _judged_later(self, request: Request, read: Awaitable[_Read]) -> _ForRequest:
        found = self._judged(request, await read)
        return await found if isawaitable(found) else found

    def _judged(self, request: Request, read: _Read) -> _ForRequest | Awaitable[_ForRequest]:
        if read.fault:
            if self._refuses_not_json:
                return problem(400, "Bad Request", read.fault, reason="llm_budget_body_unreadable")
            read = _Read(prompt_tokens=tokens_of(len(request.body or b""), self._per_token))
        try:
            charge = self._budgets.charge(request, read.asked.model, steady_time())
        except NoKey as error:
            self.requests.inc(outcome="no_key")
            return ImmediateResponse(400, details=f"llm_budget_key_missing:{error.name}")
        except NoPrice:
            self.requests.inc(outcome="no_price")
            detail = "There is no price for this model."
            return problem(403, "Forbidden", detail, reason="llm_budget_model_without_price")
        if not charge.lines:
            return RequestMutation(body=read.body)
        hold = Hold(charge.lines, [0] * len(charge.lines))
        exchange = self.state(request, _Kept).exchange = _Exchange(charge, hold, read.prompt_tokens)
        request.metadata["llm_budget"] = {"model": read.asked.model, "prompt_tokens_estimate": read.prompt_tokens}
        wanted, least = self._opening(exchange, read.asked)
        outcome = self._ledger.take(hold, wanted, least)
        if isinstance(outcome, Granted | Refused):
            return self._begun(exchange, read, outcome)
        return self._begin(exchange, read, outcome)

    def _opening(self, exchange: _Exchange, wanted: Asked) -> tuple[Amounts, Amounts]:
        """Return what to begin with, and what is enough: a stream can be stopped, a whole answer cannot."""
        prompt = exchange.prompt_tokens
        if wanted.streams:
            most = self._stream_reserve if wanted.most is None else min(self._stream_reserve, wanted.most)
            return exchange.costs(prompt, most), exchange.costs(prompt, min(1, most))
        whole = exchange.costs(prompt, self._answer_reserve if wanted.most is None else wanted.most)
        return whole, whole

    async def _begin(self, exchange: _Exchange, read: _Read, outcome: Awaitable[Outcome]) -> _ForRequest:
        try:
            return self._begun(exchange, read, await outcome)
        except StoreUnavailable:
            self.requests.inc(outcome="store_unavailable")
            if self._denies_without_store:
                # It may have been written down all the same.
                self._refund(exchange)
                return self._no_store
            metadata = {_NAMESPACE: {"store": "unavailable"}}
            return RequestMutation(body=read.body, dynamic_metadata=metadata)

    def _begun(self, exchange: _Exchange, read: _Read, outcome: Outcome) -> _ForRequest:
        if isinstance(outcome, Refused):
            self.requests.inc(outcome="refused")
            exchange.settled = True  # nothing was taken
            return self._used_up(outcome)
        self.requests.inc(outcome="admitted")
        left = {line.name: _shown(number) for line, number in zip(exchange.hold.lines, outcome.left, strict=True)}
        return RequestMutation(body=read.body, dynamic_metadata={_NAMESPACE: {"left": left}})

    def _refund(self, exchange: _Exchange) -> None:
        exchange.settled = True
        self._ledger.settle_later(exchange.hold, [0] * len(exchange.hold.lines))

    @staticmethod
    def _used_up(refused: Refused) -> ImmediateResponse:
        seconds = max(1, ceil(refused.line.until - steady_time()))
        detail = "The budget for language models is used up."
        error = {"message": detail, "type": "insufficient_quota", "code": "budget_exceeded"}
        answer = problem(
            429, "Too Many Requests", detail, reason=f"llm_budget_used_up:{refused.line.name}", more={"error": error}
        )
        headers = {**answer.headers, "retry-after": str(seconds)}
        return ImmediateResponse(answer.status, headers=headers, details=answer.details, problem=answer.problem)

    # -- the answer ----------------------------------------------------------------------------------------------------

    def _fed(self, exchange: _Exchange, whole: bytes, rest: bytes) -> bytes | Awaitable[bytes]:
        """Return what of `whole` and `rest` goes on, now or later when there is much to read."""
        result = self.offload_large(fed, exchange.answer, whole, rest, exchange.paid)
        if isinstance(result, tuple):
            out, exchange.answer = result
            return out
        return self._fed_later(exchange, result)

    @staticmethod
    async def _fed_later(exchange: _Exchange, result: Awaitable[tuple[bytes, Answer]]) -> bytes:
        out, exchange.answer = await result
        return out

    @staticmethod
    def _waits(exchange: _Exchange) -> bool:
        """Tell whether an event waits for more budget."""
        return exchange.answer is not None and exchange.answer.short

    async def _pass(self, exchange: _Exchange, chunk: Chunk, new: bytes | Awaitable[bytes]) -> _ForChunk:
        out = [new if isinstance(new, bytes) else await new]
        while self._waits(exchange):
            if not await self._more(exchange):
                self.streams_stopped.inc()
                if isinstance(exchange.answer, EventAnswer):
                    out.append(exchange.answer.stop())
                break
            more = self._fed(exchange, b"", b"")
            out.append(more if isinstance(more, bytes) else await more)
        found = self._passed(exchange, chunk, b"".join(out))
        return await found if isawaitable(found) else found

    async def _more(self, exchange: _Exchange) -> bool:
        """Take what the answer costs by now, and some ahead; tell whether there was as much."""
        answer = exchange.answer
        if answer is None:
            return True
        least = [answer.next_cost(one) for one in exchange.charge.weights]
        ahead = exchange.costs(answer.prompt_tokens, answer.completion_tokens + self._stream_reserve)
        wanted = [max(one) for one in zip(least, ahead, strict=True)]
        try:
            outcome = self._ledger.take(exchange.hold, wanted, least)
            if isawaitable(outcome):
                outcome = await outcome
        except StoreUnavailable:
            if self._denies_without_store:
                return False
            exchange.hold.amounts = wanted  # it goes on, and is charged when Redis is there again
            return True
        return isinstance(outcome, Granted)

    def _too_large(
        self, exchange: _Exchange, answer: Answer, whole: bytes, rest: bytes, chunk: Chunk
    ) -> _ForChunk | Awaitable[_ForChunk]:
        """Give up on an answer with more in one piece than is read: charged with what it holds, a stream ends here."""
        if isinstance(answer, EventAnswer) and self._refuses_unreadable:
            return self._settled(exchange, ChunkMutation(answer.unread(), end=True))
        answer.unreadable = True
        passed = ChunkMutation(whole + rest)
        if isinstance(answer, JsonAnswer):
            return self._settled(exchange, None) if chunk.end else None
        return self._settled(exchange, passed) if chunk.end else passed

    def _passed(self, exchange: _Exchange, chunk: Chunk, new: bytes) -> _ForChunk | Awaitable[_ForChunk]:
        answer = exchange.answer
        ended = answer is not None and answer.ended
        if isinstance(answer, JsonAnswer):
            action = None  # what was read is a copy
        else:
            action = None if new == chunk.data and not ended else ChunkMutation(new, end=ended)
        return self._settled(exchange, action) if ended or chunk.end else action

    def _settled(self, exchange: _Exchange, action: _ForChunk) -> _ForChunk | Awaitable[_ForChunk]:
        """Charge what was used before the last of the answer goes on: who has it all finds the budget as it is then."""
        waiting = self._ledger.settle(exchange.hold, exchange.used())
        if waiting is None:
            exchange.settled = True
            return action
        return self._settle(exchange, waiting, action)

    @staticmethod
    async def _settle(exchange: _Exchange, waiting: Awaitable[None], action: _ForChunk) -> _ForChunk:
        await waiting
        exchange.settled = True
        return action


def _shown(number: int) -> int:
    """Return what is left as a number that Envoy's metadata, of doubles, holds exactly."""
    return max(0, min(number, 2**53))


_ledgers: WeakValueDictionary[str, LocalLedger] = WeakValueDictionary()
_lock = Lock()  # constructors run on threads


def _shared_ledger(most: int) -> LocalLedger:
    """Return the one ledger of this process: budgets outlive the chains that are loaded anew."""
    with _lock:
        found = _ledgers.get("")
        if found is None:
            found = _ledgers[""] = LocalLedger(most)
        found.most = max(found.most, most)
        return found
