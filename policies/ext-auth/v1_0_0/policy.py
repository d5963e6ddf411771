"""Another server decides: it is told of the request, and what it answers lets the request through or ends it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from concurrent.futures import Future

from policy_body import dump
from policy_engine.sdk import (
    ExpressionFailed,
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestAction,
    RequestMutation,
    Response,
    ResponseMutation,
    dependency,
    digest_key,
    header_name,
)
from policy_http import Answer, CallFailed, HttpClient, Kept, Remembered, seconds, server_from

from .decisions import Decision, Denied, Reader, apart
from .questions import forward_auth, opa_input

_NO_DECISION = Denied(ImmediateResponse(503, headers={"retry-after": "5"}, details="ext_auth_unavailable"))
_Action = RequestAction | Awaitable[RequestAction | None] | None


class ExtAuth(Policy):
    """What the server denies ends with its answer, and without an answer with 503.

    Else `metadata["ext_auth"]` has the status, or the result of OPA.
    """

    def __init__(self, parameters: Parameters) -> None:
        server = server_from(parameters["server"], "/server")
        asked, allowed, denied = (parameters.get(name, {}) for name in ("request", "allowed", "denied"))
        self._opa = parameters.get("format", "forward-auth") == "opa"
        self._names = _names(asked.get("headers", ("authorization", "cookie")), "/request/headers")
        self._metadata: Sequence[str] = asked.get("metadata", ())
        if self._metadata and not self._opa:
            raise ParameterError("metadata goes with format opa only", "/request/metadata")
        self._max_body: int | None = asked.get("max_body_bytes")
        upstream = _names(allowed.get("headers_to_upstream", ()), "/allowed/headers_to_upstream")
        client = _names(allowed.get("headers_to_client", ()), "/allowed/headers_to_client")
        self._reader = Reader(
            frozenset(upstream),
            frozenset(client),
            frozenset(_names(denied.get("headers", ("www-authenticate", "location")), "/denied/headers")),
            denied.get("max_body_bytes", 0),
            self._opa,
        )
        self._upstream = upstream
        self._target = server.target
        self._client = HttpClient(server)
        self._dependency = dependency("ext-auth", server.shown)
        self.idle_phases = {
            "request_body" if self._max_body is None else "request_headers",
            *(() if client else ("response_headers",)),
        }
        self._key = None
        if "cache" in parameters:
            cache = parameters["cache"]
            if self._max_body is not None:
                raise ParameterError(
                    "a decision over a body is not remembered: the key does not hold the body", "/cache"
                )
            self._key = self.expression(cache["key"], "/cache/key")
            self._ttl = seconds(cache.get("ttl", "10s"), "/cache/ttl")
            self._denied_ttl = seconds(cache.get("denied_ttl", "0s"), "/cache/denied_ttl")
            self._remembered: Remembered[Decision] = Remembered(cache.get("size", 10_000))

    def on_request_headers(self, request: Request) -> _Action:
        """Ask, or know what was said before; not called where the body goes along."""
        key = self._key_of(request)
        if key is None:
            return self._decide(request, self._ask(request, None))
        found = self._remembered.find(key, lambda: self._ask(request, None))
        return self._decide_as_others(request, found) if isinstance(found, Future) else self._act(request, apart(found))

    def on_request_body(self, request: Request) -> _Action:
        """Ask with the body."""
        body = request.body or b""
        if len(body) > (self._max_body or 0):
            return ImmediateResponse(413, details="ext_auth_body_too_large")
        return self._decide(request, self._ask(request, body))

    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation | None:
        """Give the client what the server has for it."""
        lines = self.state(request).get("client")
        return ResponseMutation(append_headers=lines) if lines else None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    async def _decide(self, request: Request, call: Future[Kept[Decision]]) -> RequestAction | None:
        return self._act(request, await self._decision(call))

    async def _decide_as_others(self, request: Request, call: Future[Kept[Decision]]) -> RequestAction | None:
        return self._act(request, apart(await self._decision(call)))

    async def _decision(self, call: Future[Kept[Decision]]) -> Decision:
        try:
            return (await self._client.wait(call)).value
        except CallFailed as error:
            self._dependency.failed(str(error))
            return _NO_DECISION

    def _act(self, request: Request, decision: Decision) -> RequestAction | None:
        if isinstance(decision, Denied):
            return decision.answer
        request.metadata["ext_auth"] = decision.facts
        if decision.client:
            self.state(request)["client"] = decision.client
        if not self._upstream:
            return None
        # What is not set must not be what the client sent.
        missing = [name for name in self._upstream if name not in decision.upstream]
        return RequestMutation(remove_headers=missing, set_headers=decision.upstream)

    def _ask(self, request: Request, body: bytes | None) -> Future[Kept[Decision]]:
        if self._opa:
            call = opa_input(request, self._target, self._names, body, self._metadata)
        else:
            call = forward_auth(request, self._target, self._names, body)
        return self._client.start(call, self._read)

    def _read(self, answer: Answer) -> Kept[Decision]:
        decision = self._reader.read(answer)
        self._dependency.answered()
        denied = isinstance(decision, Denied)
        if self._key is None:
            return Kept(decision, 0)
        return Kept(decision, self._denied_ttl if denied else self._ttl, cheap=denied)

    def _key_of(self, request: Request) -> bytes | None:
        """Return the hash of the key; None for what is asked each time, as where the key cannot be told."""
        if self._key is None:
            return None
        try:
            return digest_key(dump(self._key.evaluate(request))).encode()
        except (ExpressionFailed, ValueError):
            return None


def _names(names: Sequence[str], path: str) -> tuple[str, ...]:
    found = []
    for index, name in enumerate(names):
        try:
            found.append(header_name(name))
        except ValueError as error:
            raise ParameterError(str(error), f"{path}/{index}") from None
    return tuple(dict.fromkeys(found))
