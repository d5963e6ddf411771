"""What a policy may ask for: closed action types, one set per phase, so that an impossible answer cannot be written.

Actions are immutable. A policy that returns the *same* object again and again lets the engine reuse the bytes it
serialised for it; build constant actions once, in `__init__`. Hold no dict or list that is in one: the engine cannot
know then that it stays as it is, and looks at it each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from policy_engine.sdk.headers import HeaderValue
from policy_engine.sdk.query_edits import QueryValue, edited_target
from policy_engine.sdk.quick_init import quickly_made

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    # A factory because Python 3.11 takes a mapping proxy, which has no hash there, for a mutable default.
    return _NOTHING


Json = None | bool | int | float | str | Sequence[Any] | Mapping[str, Any]
DynamicMetadata = Mapping[str, Mapping[str, Json]]


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class RequestMutation:
    """Changes to the request (R-06). Within one mutation headers are removed first, then set, then appended.

    `set_query`, `append_query` and `remove_query` change query parameters, given decoded: the engine encodes them and
    leaves the others as they were written, in their order. A parameter that is set keeps the place of its first
    occurrence; a list sets several values. They apply to `path` when that is set too.

    `body=b""` clears the body; the engine keeps `content-length` right. Changing `method`, `path` or `authority`
    alters what the upstream sees; `clear_route_cache` makes Envoy choose the route anew (see docs: a new route does
    not bring its own policies). `dynamic_metadata` is `{namespace: {key: value}}` and becomes visible in Envoy.
    """

    set_headers: Mapping[str, HeaderValue] = field(default_factory=_nothing)
    append_headers: Sequence[tuple[str, HeaderValue]] = ()
    remove_headers: Sequence[str] = ()
    method: str | None = None
    path: str | None = None
    authority: str | None = None
    set_query: Mapping[str, QueryValue] = field(default_factory=_nothing)
    append_query: Sequence[tuple[str, str]] = ()
    remove_query: Sequence[str] = ()
    body: bytes | None = None
    clear_route_cache: bool = False
    dynamic_metadata: DynamicMetadata = field(default_factory=_nothing)

    @property
    def changes_query(self) -> bool:
        """Whether it changes query parameters, so that what it sets depends on the request."""
        return bool(self.set_query or self.append_query or self.remove_query)

    def applied_to(self, target: str) -> RequestMutation:
        """Return what this means for a request to `target`: the same with its whole new `path` instead."""
        path = edited_target(
            target if self.path is None else self.path,
            removed=self.remove_query,
            replaced=self.set_query,
            appended=self.append_query,
        )
        return replace(
            self,
            path=None if self.path is None and path == target else path,
            set_query=_NOTHING,
            append_query=(),
            remove_query=(),
        )

    def pseudo_headers(self) -> Mapping[str, str]:
        """The pseudo-headers this mutation sets, by their HTTP/2 names."""
        named = {":method": self.method, ":path": self.path, ":authority": self.authority}
        return {name: value for name, value in named.items() if value is not None}


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseMutation:
    """Changes to the response (R-06); fields mean the same as in `RequestMutation`, `status` is the HTTP status."""

    set_headers: Mapping[str, HeaderValue] = field(default_factory=_nothing)
    append_headers: Sequence[tuple[str, HeaderValue]] = ()
    remove_headers: Sequence[str] = ()
    status: int | None = None
    body: bytes | None = None
    dynamic_metadata: DynamicMetadata = field(default_factory=_nothing)

    def pseudo_headers(self) -> Mapping[str, str]:
        """The pseudo-headers this mutation sets: `:status` or nothing."""
        return _NOTHING if self.status is None else {":status": str(self.status)}


@dataclass(frozen=True, slots=True)
class ImmediateResponse:
    """Answer the client now: no later policy and no upstream is reached (R-03).

    Without a `body` (None) the engine writes one for statuses from 400, in the format of the route: problem details
    (RFC 9457) unless configured otherwise, a gRPC status for gRPC clients. `problem` holds what the client may be told
    beside the status, as members of those problem details (`title`, `detail`, others of your own); every format shows
    what it has a place for. A `body` of your own is sent as it is, an empty one (`b""`) too.

    `details` is for the operator: it appears in Envoy's `%RESPONSE_CODE_DETAILS%`, never in the body. `grpc_status` is
    the status for gRPC clients where the one that follows from `status` is not meant.
    """

    status: int
    body: str | bytes | None = None
    headers: Mapping[str, HeaderValue] = field(default_factory=_nothing)
    append_headers: Sequence[tuple[str, HeaderValue]] = ()
    grpc_status: int | None = None
    details: str = ""
    dynamic_metadata: DynamicMetadata = field(default_factory=_nothing)
    problem: Mapping[str, Json] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed body. `end` marks the last piece; the last piece may be empty."""

    data: bytes
    end: bool = False


@dataclass(frozen=True, slots=True)
class ChunkMutation:
    """Replace a streamed piece by `data` (empty drops it); `end` ends the stream here and drops what follows.

    Headers went out before the first chunk, so a chunk hook cannot change them; only a request chunk hook may still
    answer immediately, since the client has not seen a response yet.
    """

    data: bytes
    end: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailerMutation:
    """Changes to request or response trailers, applied as remove, set, append."""

    set_headers: Mapping[str, HeaderValue] = field(default_factory=_nothing)
    append_headers: Sequence[tuple[str, HeaderValue]] = ()
    remove_headers: Sequence[str] = ()

    def pseudo_headers(self) -> Mapping[str, str]:
        """Trailers have none (RFC 9113, 8.1)."""
        return _NOTHING


RequestChunkAction = ChunkMutation | ImmediateResponse
RequestAction = RequestMutation | ImmediateResponse
ResponseAction = ResponseMutation | ImmediateResponse
