"""The base class of every policy; a separate module because it is the one thing that authors subclass."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, ClassVar, TypeVar, overload

from policy_engine.sdk.actions import (
    Chunk,
    ChunkMutation,
    Json,
    RequestAction,
    RequestChunkAction,
    ResponseAction,
    TrailerMutation,
)
from policy_engine.sdk.exchange import Request, Response
from policy_engine.sdk.expressions import Expression, ExpressionRefused, compiled
from policy_engine.sdk.headers import Headers
from policy_engine.sdk.metrics import own_metrics

Parameters = Mapping[str, Any]

_Result = TypeVar("_Result")
_Action = TypeVar("_Action")
State = TypeVar("State")


class ParameterError(ValueError):
    """Raised by a policy's constructor for parameters that the schema cannot rule out.

    `path` is a JSON Pointer into the parameters (RFC 6901), so that the operator is shown the line.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.path = path


class Policy:
    """A policy: created once per chain entry with validated parameters, closed when the chain is removed (R-31).

    Override the hooks of the phases that `policy.yaml` declares. A hook returns an action, or None for "no change".
    A hook may be plain, or `async def`, or plain and return an awaitable only when it has to wait (the fast way).
    Plain hooks run on the event loop and must not block; a policy that blocks sets `blocking = True` and all its
    hooks run in a bounded thread pool.

    An instance serves many requests at once: what it keeps for one of them goes into `self.state(request)`, and what
    later policies are to see into `request.metadata`; nothing of a request belongs on `self`.
    """

    blocking: ClassVar[bool] = False
    """True when hooks block (files, sockets, heavy computing): they then run in the policy's own thread pool."""

    failure_status: ClassVar[int] = 500
    """HTTP status that the client gets when this policy fails and its failure mode is `closed` (R-11)."""

    idle_phases: Collection[str] = ()
    """Phases, named as in `policy.yaml`, that this instance has no work in. The constructor sets it when the parameters
    leave a hook without work; the engine then does not ask Envoy for that phase on account of this policy (R-08)."""

    constant_actions: Mapping[str, RequestAction | ResponseAction] = {}
    """What this instance wants of every request, by phase: `request_headers`, `response_headers` or both. The
    constructor sets it when the parameters alone decide. The engine then does as if the phase's hook returned this
    action, without calling it; where all policies of a phase are of this kind, one answer serves all requests."""

    credentials: Collection[str] = ()
    """Names of the headers, query parameters and metadata keys that hold credentials for this instance, set by the
    constructor where a parameter chooses them. Whatever shows requests to people (`explain`, `trace`, the decision log)
    masks their values, beside those whose names already say so, such as `authorization`."""

    offload_above: ClassVar[int] = 16 * 1024
    """Bytes of arguments up to which offloaded work is done at once: so little costs less than sending it away. Choose
    it so that the slowest input of that size takes no more than 5 ms."""

    _away: Callable[[Callable[..., Any], tuple[Any, ...]], Awaitable[Any]] | None = None
    """The engine's: runs a call in a helper process. None where there is no engine, as in a plain unit test."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Make sure that every policy counts for itself, whatever it has its metrics from."""
        super().__init_subclass__(**keywords)
        own_metrics(cls)

    def __init__(self, parameters: Parameters) -> None:
        """Keep or compile `parameters`; they satisfy the schema and have its defaults filled in (R-23)."""

    async def offload(self, function: Callable[..., _Result], /, *arguments: Any, size: int | None = None) -> _Result:
        """Return `function(*arguments)`, computed where it holds up no other request when the arguments are large.

        For work that grows with a body: parsing, matching, hashing. Large means more than `offload_above` bytes of
        bytes and text; the work is then done in a helper process, which the engine starts, bounds and ends, and which
        is killed when the policy's timeout is over.

        `function` is a method of this policy (called on a copy that the helper makes with the same parameters) or a
        function of a module. Arguments and result are bytes, text, numbers and plain containers of them: give the
        body and what is needed of the request, not the request. It must depend on nothing else and change nothing:
        what it stores on `self` stays in the helper. Keep results small, or return bytes: taking a large structure
        apart holds the event loop too.

        `size` is given where bytes say little about the work: an estimate of it in bytes of ordinary arguments.
        """
        if self._away is None or (size_of(arguments) if size is None else size) <= self.offload_above:
            return function(*arguments)
        result: _Result = await self._away(function, arguments)
        return result

    @overload
    def offload_large(
        self, function: Callable[..., _Result], /, *arguments: Any, size: int | None = None
    ) -> _Result | Awaitable[_Result]: ...

    @overload
    def offload_large(
        self,
        function: Callable[..., _Result],
        /,
        *arguments: Any,
        then: Callable[[_Result], _Action],
        size: int | None = None,
    ) -> _Action | Awaitable[_Action]: ...

    def offload_large(
        self,
        function: Callable[..., Any],
        /,
        *arguments: Any,
        then: Callable[[Any], Any] | None = None,
        size: int | None = None,
    ) -> Any:
        """Return `function(*arguments)` at once for small arguments, else what `offload` returns, to be awaited.

        For the last line of a plain hook, which then costs nothing more than a call where bodies are small:
        `return self.offload_large(self._check, request.body)`. `then` makes the action of what was found; it runs on
        the event loop, and may use the request, the log and `self`.
        """
        if self._away is None or (size_of(arguments) if size is None else size) <= self.offload_above:
            found = function(*arguments)
            return found if then is None else then(found)
        away = self._away(function, arguments)
        return away if then is None else _followed(away, then)

    def condition(self, text: str, path: str = "", *, with_response: bool = False) -> Expression[bool]:
        """Compile the CEL expression `text`, which must be true or false, as the `condition` of a chain entry is.

        For the constructor: names, functions and types are checked, and a text that cannot be used raises
        ParameterError with the JSON Pointer `path`. `with_response` allows `response.*`, for what only response hooks
        evaluate.
        """
        expression: Expression[bool] = _compiled(text, path, boolean=True, with_response=with_response)
        return expression

    def expression(self, text: str, path: str = "", *, with_response: bool = False) -> Expression[Json]:
        """Compile the CEL expression `text`, which gives any value, as JSON data; see `condition`."""
        expression: Expression[Json] = _compiled(text, path, boolean=False, with_response=with_response)
        return expression

    @overload
    def state(self, request: Request) -> dict[str, Any]: ...

    @overload
    def state(self, request: Request, kind: Callable[[], State]) -> State: ...

    def state(self, request: Request, kind: Callable[[], Any] = dict) -> Any:
        """Return what this instance keeps for this request, the same object in all its hooks.

        It is made by `kind` when it is first asked for: a dict, or of a class of the policy's own, which a type checker
        then knows: `kept = self.state(request, Tally)`. No other policy sees it, not even another entry of the same
        policy in the chain. It is gone when the stream is over, after `on_stream_end`.
        """
        return request.state_of(self, kind)

    def on_request_headers(self, request: Request) -> RequestAction | Awaitable[RequestAction | None] | None:
        """Run before the request goes upstream; the body has not been read."""

    def on_request_body(self, request: Request) -> RequestAction | Awaitable[RequestAction | None] | None:
        """Run when the whole request body is in `request.body` (decoded when it was compressed)."""

    def on_request_chunk(
        self, request: Request, chunk: Chunk
    ) -> RequestChunkAction | Awaitable[RequestChunkAction | None] | None:
        """Run for every piece of a streamed request body."""

    def on_request_trailers(
        self, request: Request, trailers: Headers
    ) -> TrailerMutation | Awaitable[TrailerMutation | None] | None:
        """Run when request trailers arrive."""

    def on_response_headers(
        self, request: Request, response: Response
    ) -> ResponseAction | Awaitable[ResponseAction | None] | None:
        """Run when the upstream's response headers arrive; policies run in reverse chain order (R-02)."""

    def on_response_body(
        self, request: Request, response: Response
    ) -> ResponseAction | Awaitable[ResponseAction | None] | None:
        """Run when the whole response body is in `response.body` (decoded when it was compressed)."""

    def on_response_chunk(
        self, request: Request, response: Response, chunk: Chunk
    ) -> ChunkMutation | Awaitable[ChunkMutation | None] | None:
        """Run for every piece of a streamed response body."""

    def on_response_trailers(
        self, request: Request, response: Response, trailers: Headers
    ) -> TrailerMutation | Awaitable[TrailerMutation | None] | None:
        """Run when response trailers arrive."""

    def on_stream_end(self, request: Request) -> None:
        """Run once when the stream is over, however it ended: give up what was kept for it outside
        `metadata` and `self.state(request)`, which go by themselves."""

    def close(self) -> Awaitable[None] | None:
        """Release what the instance holds; called once, after its last request."""


def _compiled(text: str, path: str, *, boolean: bool, with_response: bool) -> Expression[Any]:
    try:
        return compiled(text, boolean=boolean, with_response=with_response)
    except ExpressionRefused as refused:
        raise ParameterError(str(refused), path) from None


async def _followed(found: Awaitable[Any], then: Callable[[Any], Any]) -> Any:
    return then(await found)


def size_of(arguments: tuple[Any, ...]) -> int:
    """Return the bytes and characters in `arguments`, as far as they are bytes and text themselves."""
    return sum(len(one) for one in arguments if isinstance(one, bytes | bytearray | memoryview | str))
