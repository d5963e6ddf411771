"""A shared cache (RFC 9111): a stored response is the answer, and what may be stored is on its way back."""

from __future__ import annotations

from collections.abc import Awaitable
from inspect import isawaitable

from policy_engine.sdk import (
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestAction,
    Response,
    ResponseAction,
    ResponseMutation,
    header_name,
    steady_clock,
)
from policy_redis import redis_from, seconds

from .answering import answer
from .asking import Asked, Requests, digests, usable
from .entries import Entry
from .stores import MemoryStore, RedisStore
from .storing import Responses

_SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))


class Cache(Policy):
    """GET and HEAD are answered from the store when it has a fresh response; other methods make it forget."""

    def __init__(self, parameters: Parameters) -> None:
        self._status_header = _status_header(parameters)
        self._requests = Requests(parameters)
        self._responses = Responses(
            parameters,
            default_ttl=seconds(parameters.get("default_ttl", "0s"), "/default_ttl"),
            max_ttl=seconds(parameters.get("max_ttl", "1d"), "/max_ttl"),
            dropped=() if self._status_header is None else (self._status_header,),
        )
        max_variants = parameters.get("max_variants", 16)
        self._redis: RedisStore | None = None
        if "redis" in parameters:
            redis = parameters["redis"]
            self._redis = RedisStore(redis_from(redis), redis.get("prefix", "cache"), max_variants)
        self._store = self._redis or MemoryStore(parameters.get("max_bytes", 67_108_864), max_variants)
        self._miss = (
            None if self._status_header is None else ResponseMutation(set_headers={self._status_header: "miss"})
        )
        self._not_cached = ImmediateResponse(504, details="cache_only_if_cached")

    def on_request_headers(self, request: Request) -> RequestAction | Awaitable[RequestAction | None] | None:
        """Answer from the store; an awaitable only when the store is Redis."""
        if request.method not in ("GET", "HEAD"):
            if request.method not in _SAFE:
                self.state(request)["changes"] = self._requests.key(request)
            return None
        asked = self._requests.asked(request)
        if asked is None:
            return None
        found = self._store.find(asked.key, lambda vary: self._requests.variant(request, vary))
        return self._later(request, asked, found) if isawaitable(found) else self._found(request, asked, found)

    def on_response_headers(
        self, request: Request, response: Response
    ) -> ResponseAction | Awaitable[ResponseAction | None] | None:
        """Say that it was a miss; forget what a successful POST, PUT, … has changed (RFC 9111, 4.4)."""
        state = self.state(request)
        if not state:
            return None
        if "changes" not in state:
            return self._miss
        if 200 <= response.status < 400:
            forgotten = self._store.forget(state["changes"])
            if forgotten is not None:
                return forgotten
        return None

    def on_response_body(self, request: Request, response: Response) -> Awaitable[None] | None:
        """Store the upstream's response to a GET if it may be; what others answered in its place is not its content."""
        state = self.state(request)
        if not state.get("storable") or response.origin != "upstream":
            return None
        storable = self._responses.entry(
            response,
            authenticated=state["authenticated"] or self._requests.known(request),
            requested=state["at"],
            received=steady_clock.steady_time(),
        )
        if storable is None:
            return None
        vary, entry = storable
        return self._store.store(state["key"], vary, self._requests.variant_of(state["seen"], vary), entry)

    def close(self) -> Awaitable[None] | None:
        """Close the connections to Redis."""
        return None if self._redis is None else self._redis.close()

    async def _later(self, request: Request, asked: Asked, found: Awaitable[Entry | None]) -> RequestAction | None:
        return self._found(request, asked, await found)

    def _found(self, request: Request, asked: Asked, entry: Entry | None) -> RequestAction | None:
        now = steady_clock.steady_time()
        if entry is not None and usable(entry, asked.directives, now):
            return answer(request, entry, now, self._status_header)
        if "only-if-cached" in asked.directives:
            return self._not_cached
        self.state(request).update(
            key=asked.key,
            storable=asked.storable and request.method == "GET",
            at=now,
            authenticated=asked.authenticated,
            seen=digests(request.headers),
        )
        return None


def _status_header(parameters: Parameters) -> str | None:
    if "status_header" not in parameters:
        return None
    try:
        return header_name(parameters["status_header"])
    except ValueError as error:
        raise ParameterError(str(error), "/status_header") from None
