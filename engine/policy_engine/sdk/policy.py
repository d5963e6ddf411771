"""The base class of every policy; a separate module because it is the one thing that authors subclass."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping
from typing import Any, ClassVar

from policy_engine.sdk.actions import (
    Chunk,
    ChunkMutation,
    RequestAction,
    RequestChunkAction,
    ResponseAction,
    TrailerMutation,
)
from policy_engine.sdk.exchange import Request, Response
from policy_engine.sdk.headers import Headers

Parameters = Mapping[str, Any]


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

    An instance serves many requests at once: keep per-request state in `request.metadata`, not on `self`.
    """

    blocking: ClassVar[bool] = False
    """True when hooks block (files, sockets, heavy computing): they then run in the policy's own thread pool."""

    failure_status: ClassVar[int] = 500
    """HTTP status that the client gets when this policy fails and its failure mode is `closed` (R-11)."""

    idle_phases: Collection[str] = ()
    """Phases, named as in `policy.yaml`, that this instance has no work in. The constructor sets it when the parameters
    leave a hook without work; the engine then does not ask Envoy for that phase on account of this policy (R-08)."""

    def __init__(self, parameters: Parameters) -> None:
        """Keep or compile `parameters`; they satisfy the schema and have its defaults filled in (R-23)."""

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
        """Run once when the stream is over, however it ended: drop per-request state kept outside `metadata`."""

    def close(self) -> Awaitable[None] | None:
        """Release what the instance holds; called once, after its last request."""
