"""The test kit (R-35): run a policy or a chain in a plain unit test, without Envoy and without an engine.

It is its own module because a policy at work must not load it. It follows the rules of the engine: request phase in
chain order, response phase in reverse (R-02), short circuit (R-03), one metadata mapping (R-04), changes visible to
the policies that follow (R-05). An answer that the engine would treat as a failure is raised as an error here.

    from policy_engine.sdk.testing import load_policy, request, response, run

    def test_adds_the_header() -> None:
        outcome = run(load_policy(__file__, {"name": "x-a", "value": "1"}), request("GET", "/"))
        assert outcome.request.headers["x-a"] == "1"
"""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
import types
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from policy_engine.sdk.actions import (
    Chunk,
    ChunkMutation,
    ImmediateResponse,
    Json,
    RequestMutation,
    ResponseMutation,
    TrailerMutation,
)
from policy_engine.sdk.exchange import Request, Response
from policy_engine.sdk.header_rules import header_name, header_value
from policy_engine.sdk.headers import HeaderChange, Headers, HeaderValue, apply_edit, edit_of
from policy_engine.sdk.policy import Parameters, Policy

__all__ = ["Outcome", "Step", "load_policy", "policy_class", "request", "response", "run", "run_async"]

HeaderValues = Mapping[str, HeaderValue | Iterable[HeaderValue]]
Upstream = Response | Callable[[Request], Response]

_LONGEST_RUN = 30.0  # seconds: a policy that never answers must fail its test, not hang it


def request(
    method: str = "GET",
    target: str = "/",
    headers: HeaderValues | None = None,
    body: bytes | None = None,
    *,
    authority: str = "api.example.test",
    scheme: str = "https",
    client_address: str = "192.0.2.1",
    route: str = "test-route",
    request_id: str = "test-request",
    metadata: MutableMapping[str, Any] | None = None,
) -> Request:
    """Build a request as Envoy would send it; `target` is the path with its query string.

    A header with several values takes a list. `content-length` is added for a body unless given.
    """
    values: dict[str, HeaderValue | Iterable[HeaderValue]] = {
        ":method": method,
        ":path": target,
        ":authority": authority,
        ":scheme": scheme,
        **(headers or {}),
    }
    return Request(
        _with_length(Headers.of(values), body),
        route=route,
        request_id=request_id,
        client_address=client_address,
        body=body,
        metadata=metadata,
    )


def response(status: int = 200, headers: HeaderValues | None = None, body: bytes | None = None) -> Response:
    """Build the upstream's response; `content-length` is added for a body unless given."""
    return Response(_with_length(Headers.of({":status": str(status), **(headers or {})}), body), body=body)


@dataclass(frozen=True, slots=True)
class Step:
    """One hook that ran, and what it answered (None for "no change")."""

    policy: Policy
    hook: str
    action: RequestMutation | ResponseMutation | ImmediateResponse | ChunkMutation | TrailerMutation | None


@dataclass(slots=True)
class Outcome:
    """What became of the exchange.

    `request` is what the upstream got (or would have got, when `reached_upstream` is false), `response` what the
    client gets, `immediate` the immediate response if a policy gave one. `request_chunks` and `response_chunks` are the
    pieces of a streamed body as they were passed on. `steps` lists the hooks in the order in which they ran.
    """

    request: Request
    response: Response
    immediate: ImmediateResponse | None = None
    reached_upstream: bool = False
    dynamic_metadata: dict[str, dict[str, Json]] = field(default_factory=dict)
    request_chunks: list[bytes] = field(default_factory=list)
    response_chunks: list[bytes] = field(default_factory=list)
    request_trailers: Headers | None = None
    response_trailers: Headers | None = None
    steps: list[Step] = field(default_factory=list)

    @property
    def status(self) -> int:
        """HTTP status that the client gets."""
        return self.response.status

    @property
    def body(self) -> bytes | None:
        """Body that the client gets; None when there is none or it was streamed."""
        return self.response.body

    @property
    def metadata(self) -> MutableMapping[str, Any]:
        """The metadata shared by the policies (R-04)."""
        return self.request.metadata

    @property
    def hooks(self) -> list[str]:
        """The hooks that ran, as `Class.hook`."""
        return [f"{type(step.policy).__name__}.{step.hook}" for step in self.steps]


def run(
    policies: Policy | Sequence[Policy],
    request: Request,
    response: Upstream | None = None,
    *,
    request_chunks: Sequence[bytes] | None = None,
    response_chunks: Sequence[bytes] | None = None,
    request_trailers: HeaderValues | None = None,
    response_trailers: HeaderValues | None = None,
) -> Outcome:
    """Send `request` through the chain and `response` (200 without a body unless given) back through it.

    `response` may also be a function of the request as sent upstream. `request_chunks` and `response_chunks` are
    bodies that arrive piece by piece: they are streamed when all policies that want the body of that direction have
    a chunk hook, else joined (R-08). The arguments are not changed, so they may be shared between tests; only
    `request.metadata` is.

    Raises what a policy raises, TypeError for an action that does not fit the hook, ValueError for a header that may
    not be set. Within a running event loop await `run_async` instead.
    """
    return asyncio.run(
        run_async(
            policies,
            request,
            response,
            request_chunks=request_chunks,
            response_chunks=response_chunks,
            request_trailers=request_trailers,
            response_trailers=response_trailers,
        )
    )


async def run_async(
    policies: Policy | Sequence[Policy],
    request: Request,
    response: Upstream | None = None,
    *,
    request_chunks: Sequence[bytes] | None = None,
    response_chunks: Sequence[bytes] | None = None,
    request_trailers: HeaderValues | None = None,
    response_trailers: HeaderValues | None = None,
) -> Outcome:
    """Do what `run` does, in the caller's event loop."""
    chain = _Chain((policies,) if isinstance(policies, Policy) else tuple(policies), request)
    try:
        async with asyncio.timeout(_LONGEST_RUN):
            await chain.request_phase(request.body, request_chunks, request_trailers)
            if chain.outcome.immediate is None:
                await chain.response_phase(response, response_chunks, response_trailers)
    finally:
        for policy in chain.policies:
            policy.on_stream_end(chain.outcome.request)
    return chain.outcome


class _Chain:
    """One exchange on its way through the policies."""

    def __init__(self, policies: tuple[Policy, ...], request: Request) -> None:
        self.policies = policies
        sent = Request(
            request.headers.copy(),
            route=request.route,
            request_id=request.id,
            client_address=request.client_address,
            metadata=request.metadata,
        )
        self.outcome = Outcome(sent, Response(Headers()))

    async def request_phase(
        self, body: bytes | None, chunks: Sequence[bytes] | None, trailers: HeaderValues | None
    ) -> None:
        request = self.outcome.request
        streamed = self._streams(self.policies, chunks, "on_request_body", "on_request_chunk")
        whole = b"".join(chunks) if chunks is not None and not streamed else body
        for policy in self.policies:
            if _has(policy, "on_request_headers"):
                action = await self._call(policy, "on_request_headers", request)
                if self._change_request(action):
                    return
        if request.body is not None:  # replaced in the headers phase: what the client sends is dropped
            whole, streamed = request.body, False
        if streamed:
            self.outcome.request_chunks = await self._stream(
                self.policies, chunks or (), "on_request_chunk", (request,)
            )
        elif whole is not None:
            request.body = whole
            for policy in self.policies:
                if _has(policy, "on_request_body"):
                    action = await self._call(policy, "on_request_body", request)
                    if self._change_request(action):
                        return
                elif _has(policy, "on_request_chunk"):
                    request.body = await self._whole_as_chunk(policy, "on_request_chunk", (request,), request.body)
                    _with_length(request.headers, request.body, replace=True)
        if trailers is not None:
            self.outcome.request_trailers = Headers.of(trailers)
            await self._trailers(self.policies, "on_request_trailers", (request,), self.outcome.request_trailers)

    async def response_phase(
        self, upstream: Upstream | None, chunks: Sequence[bytes] | None, trailers: HeaderValues | None
    ) -> None:
        outcome, request = self.outcome, self.outcome.request
        outcome.reached_upstream = True
        given = upstream(request) if callable(upstream) else upstream or response()
        answer = outcome.response = Response(given.headers.copy())
        order = self.policies[::-1]
        streamed = self._streams(order, chunks, "on_response_body", "on_response_chunk")
        whole = b"".join(chunks) if chunks is not None and not streamed else given.body
        for policy in order:
            if _has(policy, "on_response_headers"):
                action = await self._call(policy, "on_response_headers", request, answer)
                if self._change_response(action):
                    return
        if answer.body is not None:
            whole, streamed = answer.body, False
        if streamed:
            outcome.response_chunks = await self._stream(order, chunks or (), "on_response_chunk", (request, answer))
        elif whole is not None:
            answer.body = whole
            for policy in order:
                if _has(policy, "on_response_body"):
                    action = await self._call(policy, "on_response_body", request, answer)
                    if self._change_response(action):
                        return
                elif _has(policy, "on_response_chunk"):
                    answer.body = await self._whole_as_chunk(
                        policy, "on_response_chunk", (request, answer), answer.body
                    )
                    _with_length(answer.headers, answer.body, replace=True)
        if trailers is not None:
            outcome.response_trailers = Headers.of(trailers)
            await self._trailers(order, "on_response_trailers", (request, answer), outcome.response_trailers)

    async def _call(self, policy: Policy, hook: str, *arguments: Any) -> Any:
        method = getattr(policy, hook)
        answer: Any = await asyncio.to_thread(method, *arguments) if policy.blocking else method(*arguments)
        if isinstance(answer, Awaitable):
            answer = await answer
        allowed = _ALLOWED[hook]
        if answer is not None and not any(isinstance(answer, one) for one in allowed):
            names = ", ".join(one.__name__ for one in allowed)
            raise TypeError(f"{type(policy).__name__}.{hook} returned {answer!r}; it may return {names} or None")
        self.outcome.steps.append(Step(policy, hook, answer))
        return answer

    def _change_request(self, action: RequestMutation | ImmediateResponse | None) -> bool:
        request = self.outcome.request
        if action is None:
            return False
        self._publish(action.dynamic_metadata)
        if isinstance(action, ImmediateResponse):
            self._answer(action)
            return True
        _change(request.headers, action)
        if action.body is not None:
            request.body = action.body
            _with_length(request.headers, action.body, replace=True)
        return False

    def _change_response(self, action: ResponseMutation | ImmediateResponse | None) -> bool:
        answer = self.outcome.response
        if action is None:
            return False
        self._publish(action.dynamic_metadata)
        if isinstance(action, ImmediateResponse):
            self._answer(action)
            return True
        _change(answer.headers, action)
        if action.body is not None:
            answer.body = action.body
            _with_length(answer.headers, action.body, replace=True)
        return False

    def _answer(self, action: ImmediateResponse) -> None:
        body = action.body.encode() if isinstance(action.body, str) else action.body
        change = ResponseMutation(
            status=action.status, set_headers=action.headers, append_headers=action.append_headers
        )
        headers = Headers()
        _change(headers, change)
        self.outcome.immediate = action
        self.outcome.response = Response(_with_length(headers, body, replace=True), body=body)

    def _publish(self, dynamic_metadata: Mapping[str, Mapping[str, Json]]) -> None:
        for namespace, values in dynamic_metadata.items():
            self.outcome.dynamic_metadata.setdefault(namespace, {}).update(values)

    @staticmethod
    def _streams(order: Sequence[Policy], chunks: Sequence[bytes] | None, whole: str, piece: str) -> bool:
        wanting = [policy for policy in order if _has(policy, whole) or _has(policy, piece)]
        return chunks is not None and all(_has(policy, piece) for policy in wanting)

    async def _stream(
        self, order: Sequence[Policy], chunks: Sequence[bytes], hook: str, arguments: tuple[Any, ...]
    ) -> list[bytes]:
        passed: list[bytes] = []
        for index, data in enumerate(chunks):
            chunk = Chunk(data, end=index == len(chunks) - 1)
            for policy in order:
                if _has(policy, hook) and (chunk.data or chunk.end):
                    chunk = await self._chunk(policy, hook, arguments, chunk)
            if chunk.data:
                passed.append(chunk.data)
            if chunk.end:
                break
        return passed

    async def _chunk(self, policy: Policy, hook: str, arguments: tuple[Any, ...], chunk: Chunk) -> Chunk:
        change = await self._call(policy, hook, *arguments, chunk)
        return chunk if change is None else Chunk(change.data, end=chunk.end or change.end)

    async def _whole_as_chunk(self, policy: Policy, hook: str, arguments: tuple[Any, ...], body: bytes | None) -> bytes:
        return (await self._chunk(policy, hook, arguments, Chunk(body or b"", end=True))).data

    async def _trailers(
        self, order: Sequence[Policy], hook: str, arguments: tuple[Any, ...], trailers: Headers
    ) -> None:
        for policy in order:
            if _has(policy, hook):
                change = await self._call(policy, hook, *arguments, trailers)
                if change is not None:
                    _change(trailers, change)


_ALLOWED: Mapping[str, tuple[type[Any], ...]] = {
    "on_request_headers": (RequestMutation, ImmediateResponse),
    "on_request_body": (RequestMutation, ImmediateResponse),
    "on_request_chunk": (ChunkMutation,),
    "on_request_trailers": (TrailerMutation,),
    "on_response_headers": (ResponseMutation, ImmediateResponse),
    "on_response_body": (ResponseMutation, ImmediateResponse),
    "on_response_chunk": (ChunkMutation,),
    "on_response_trailers": (TrailerMutation,),
}


def _has(policy: Policy, hook: str) -> bool:
    phase = hook.removeprefix("on_").replace("_chunk", "_body")
    return getattr(type(policy), hook) is not getattr(Policy, hook) and phase not in policy.idle_phases


def _change(headers: Headers, change: HeaderChange) -> None:
    for name, value in (*change.set_headers.items(), *change.append_headers):
        header_name(name)
        header_value(value)
    for name in change.remove_headers:
        header_name(name)
    apply_edit(headers, edit_of(change))


def _with_length(headers: Headers, body: bytes | None, *, replace: bool = False) -> Headers:
    if body is not None and (replace or "content-length" not in headers):
        apply_edit(headers, edit_of(ResponseMutation(set_headers={"content-length": str(len(body))})))
    return headers


_ENTRYPOINT = re.compile(r"^entrypoint:[ \t]*(['\"]?)([\w.]+):(\w+)\1[ \t]*(?:#.*)?$", re.MULTILINE)
_packages: dict[Path, str] = {}


def load_policy(where: str | PathLike[str], parameters: Parameters | None = None) -> Policy:
    """Create the policy that lives in directory `where`, or beside file `where`: `load_policy(__file__, {...})`.

    `parameters` reach the constructor as they are given: the engine's schema check and defaults are not applied.
    Raises FileNotFoundError or ValueError when there is no `policy.yaml` with an entrypoint, TypeError when the
    entrypoint is not a policy class, and whatever the constructor raises.
    """
    return policy_class(where)(dict(parameters or {}))


def policy_class(where: str | PathLike[str]) -> type[Policy]:
    """Import the class that the `entrypoint:` line of `policy.yaml` names, without creating it.

    Each directory is a package of its own, so two versions of one policy can be in one process. Only the one line
    `entrypoint: module:Class` is read, at the left margin, as the SDK has no YAML parser.
    """
    path = Path(where).absolute()
    directory = path if path.is_dir() else path.parent
    found = _ENTRYPOINT.search((directory / "policy.yaml").read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{directory / 'policy.yaml'} has no line 'entrypoint: module:Class'")
    name = _packages.get(directory)
    if name is None:
        name = _packages[directory] = f"_policy_under_test_{len(_packages)}"
        package = types.ModuleType(name, f"The policy in {directory}.")
        package.__path__ = [str(directory)]
        sys.modules[name] = package
    module = importlib.import_module(f"{name}.{found[2]}")
    chosen = getattr(module, found[3], None)
    if not (isinstance(chosen, type) and issubclass(chosen, Policy)):
        raise TypeError(f"{directory}: entrypoint {found[2]}:{found[3]} is not a subclass of policy_engine.sdk.Policy")
    return chosen
