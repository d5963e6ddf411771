"""So many requests of a client in a time; above that, 429 until there is room again."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace

from limits import RateLimitItem, parse

from policy_engine.sdk import (
    DynamicMetadata,
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestAction,
    RequestMutation,
    Response,
    ResponseMutation,
)
from policy_redis import StoreUnavailable, redis_from

from .clients import ClientKey
from .counting import LocalCounter, RedisCounter, Verdict
from .headers import told

_RESOURCE_EXHAUSTED = 8  # gRPC status codes
_UNAVAILABLE = 14
# In Envoy's access log: this request was decided without the store.
_STORE_AWAY: DynamicMetadata = {"policy_engine.rate_limit": {"store": "unavailable"}}
_UNCOUNTED = RequestMutation(dynamic_metadata=_STORE_AWAY)


class RateLimit(Policy):
    """429 above a limit, 400 without a key, 503 without a store, unless the parameters say otherwise."""

    def __init__(self, parameters: Parameters) -> None:
        self._strategy = parameters.get("strategy", "moving-window")
        self._cost = parameters.get("cost", 1)
        self._max_entries = parameters.get("max_entries", 100_000)
        self._limits = self._parsed(parameters["limits"])
        self._client = ClientKey(parameters)
        self._on_missing_key = parameters.get("on_missing_key", "deny")
        self._on_store_error = parameters.get("on_store_error", "deny")
        self._convention = parameters.get("headers", "draft")
        self._report = parameters.get("headers_on_allowed", False) and self._convention != "none"
        if not self._report:
            self.idle_phases = ("response_headers",)
        self._redis: RedisCounter | None = None
        if "redis" in parameters:
            redis = parameters["redis"]
            prefix = redis.get("prefix", "rate-limit")
            self._redis = RedisCounter(self._strategy, self._limits, redis_from(redis), prefix)
        self._local = LocalCounter(self._strategy, self._limits, self._client.identity, self._max_entries)
        self._no_key = _refusal(400, "rate_limit_key_missing", {})
        refused = _refusal(503, "rate_limit_store_unavailable", {"retry-after": "1"}, grpc_status=_UNAVAILABLE)
        self._no_store = replace(refused, dynamic_metadata=_STORE_AWAY)

    def on_request_headers(self, request: Request) -> RequestAction | Awaitable[RequestAction | None] | None:
        """Count the request; an awaitable only when Redis is asked."""
        key = self._client.of(request)
        if key is None:
            if self._on_missing_key == "deny":
                return self._no_key
            if self._on_missing_key == "allow":
                return None
            key = self._client.missing(request)
        if self._redis is None:
            return self._decide(request, self._count_here(request, key))
        return self._ask(request, self._redis, key)

    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation | None:
        """Tell how the limits stand, beside what others tell."""
        pairs = self.state(request).get("told")
        if not pairs:
            return None
        if self._convention == "draft":
            return ResponseMutation(append_headers=[(name, value) for name, value in pairs])
        return ResponseMutation(set_headers=dict(pairs))

    def close(self) -> Awaitable[None] | None:
        """Close the connections to Redis."""
        return None if self._redis is None else self._redis.close()

    async def _ask(self, request: Request, redis: RedisCounter, key: str) -> RequestAction | None:
        try:
            verdict = await redis.hit(key, self._cost, report=self._report)
        except StoreUnavailable:
            if self._on_store_error == "deny":
                return self._no_store
            if self._on_store_error == "allow":
                return _UNCOUNTED
            verdict = self._count_here(request, key)
            return self._decide(request, verdict) or _UNCOUNTED
        return self._decide(request, verdict)

    def _count_here(self, request: Request, key: str) -> Verdict:
        return self._local.hit(self._client.counter(request), key, self._cost, report=self._report)

    def _decide(self, request: Request, verdict: Verdict) -> ImmediateResponse | None:
        pairs = told(self._convention, verdict.windows)
        if verdict.allowed:
            if pairs:
                self.state(request)["told"] = pairs
            return None
        retry = {"retry-after": str(verdict.retry_after(self._cost))}
        return _refusal(429, "rate_limited", {**dict(pairs), **retry}, grpc_status=_RESOURCE_EXHAUSTED)

    def _parsed(self, texts: list[str]) -> list[RateLimitItem]:
        limits: list[RateLimitItem] = []
        for index, text in enumerate(texts):
            where = f"/limits/{index}"
            try:
                limit = parse(text)
            except ValueError:
                raise ParameterError(f"{text!r} is not a limit such as 100/minute", where) from None
            if limit in limits:
                raise ParameterError("this limit is listed twice", where)
            if self._cost > limit.amount:
                raise ParameterError("one request costs more than this limit has: all would be refused", where)
            if self._strategy == "moving-window" and limit.amount > self._max_entries:
                raise ParameterError(
                    f"moving-window keeps an entry for each of {limit.amount} requests: raise max_entries, or use "
                    "sliding-window-counter",
                    where,
                )
            limits.append(limit)
        return limits


def _refusal(status: int, reason: str, headers: dict[str, str], grpc_status: int | None = None) -> ImmediateResponse:
    return ImmediateResponse(status, headers=headers, grpc_status=grpc_status, details=reason)
