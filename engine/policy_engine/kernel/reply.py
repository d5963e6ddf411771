"""Translates what policies asked for into serialised `ProcessingResponse` messages.

The only module that makes ext_proc replies (header changes as bytes come from `wire`), so that Envoy's rules for them
stand in one place: `content-length` must match a replaced body (envoy `mutation_utils.cc`, `processor_state.cc`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from policy_engine.kernel import wire
from policy_engine.kernel.stream import Replies
from policy_engine.sdk import Chunk, RequestMutation
from policy_engine.sdk.headers import HeaderEdit

ProcessingMode = processing_mode_pb2.ProcessingMode
STREAMING = (ProcessingMode.STREAMED, ProcessingMode.FULL_DUPLEX_STREAMED)

DECISION_NAMESPACE = "policy_engine"
"""Of the dynamic metadata that tells Envoy what was decided: `%DYNAMIC_METADATA(policy_engine:…)%` in access logs."""

_HEADERS_TAGS = {"request_headers": b"\x0a", "response_headers": b"\x12"}
_CLEAR_ROUTE_CACHE = bytes(ext_proc.CommonResponse(clear_route_cache=True).SerializeToString())
_REPLACE = ext_proc.CommonResponse.CONTINUE_AND_REPLACE


def mode_override(mode: processing_mode_pb2.ProcessingMode) -> bytes:
    """Return the bytes to put behind a request-headers reply; serialised fields of a message may be concatenated."""
    return bytes(ext_proc.ProcessingResponse(mode_override=mode).SerializeToString())


def headers_reply(
    field: str, edits: Sequence[HeaderEdit] = (), actions: Sequence[Any] = (), *, body: bytes | None = None
) -> bytes:
    """Return the reply to `request_headers` or `response_headers` (`field`); `body` replaces the whole message.

    `edits` are the header parts of `actions`.
    """
    if body is None and edits:
        for edit in edits:
            if not edit.whole:
                break
        else:
            return wire.mutation_reply(_HEADERS_TAGS[field], wire.header_mutation(edits))
    common = wire.mutation_field(wire.header_mutation(edits)) if edits else b""
    if body is not None:
        # Envoy drops content-length itself here and frames the new body (processor_state.cc, CONTINUE_AND_REPLACE).
        common += ext_proc.CommonResponse(status=_REPLACE, body_mutation=_body_mutation(body)).SerializeToString()
    return wire.headers_reply(_HEADERS_TAGS[field], common + _clear_route_cache(actions)) + _metadata(actions)


def body_reply(
    field: str,
    edits: Sequence[HeaderEdit],
    actions: Sequence[Any],
    *,
    body: bytes | None,
    had_content_length: bool,
) -> bytes:
    """Return the reply to a buffered body; `body` is the new body on the wire, None when it did not change."""
    if body is not None and had_content_length:
        # Envoy refuses a mutated body whose length differs from content-length.
        edits = [*edits, HeaderEdit((), (("content-length", str(len(body)).encode(), False),))]
    reply = ext_proc.ProcessingResponse()
    common = getattr(reply, field).response
    common.SetInParent()
    common.MergeFromString(
        (wire.mutation_field(wire.header_mutation(edits)) if edits else b"") + _clear_route_cache(actions)
    )
    if body is not None:
        common.body_mutation.CopyFrom(_body_mutation(body))
    return bytes(reply.SerializeToString()) + _metadata(actions)


def trailers_reply(field: str, edits: Sequence[HeaderEdit] = ()) -> bytes:
    """Return the reply to `request_trailers` or `response_trailers`."""
    reply = ext_proc.ProcessingResponse()
    part = getattr(reply, field)
    part.SetInParent()
    part.header_mutation.MergeFromString(wire.header_mutation(edits))
    return bytes(reply.SerializeToString())


def chunk_reply(field: str, data: bytes | None) -> bytes:
    """Return the reply to one chunk in mode STREAMED; None leaves the chunk as it is."""
    reply = ext_proc.ProcessingResponse()
    common = getattr(reply, field).response
    common.SetInParent()
    if data is not None:
        common.body_mutation.CopyFrom(_body_mutation(data))
    return bytes(reply.SerializeToString())


def duplex_chunk_reply(field: str, data: bytes, end: bool) -> bytes:
    """Return one piece of body for mode FULL_DUPLEX_STREAMED, where Envoy forwards exactly what it is sent."""
    reply = ext_proc.ProcessingResponse()
    streamed = getattr(reply, field).response.body_mutation.streamed_response
    streamed.body = data
    streamed.end_of_stream = end
    return bytes(reply.SerializeToString())


def piece_reply(field: str, mode: int, before: Chunk, after: Chunk) -> bytes:
    """Return the reply to the chunk `before`, of which policies made `after`, in the streaming `mode`."""
    if mode == ProcessingMode.FULL_DUPLEX_STREAMED:
        return duplex_chunk_reply(field, after.data, after.end)
    return chunk_reply(field, None if after.data is before.data else after.data)


def duplex_replies(
    headers: str,
    field: str,
    edits: Sequence[HeaderEdit],
    actions: Sequence[Any],
    data: bytes,
    *,
    came: bool,
    end: bool,
) -> Replies:
    """Return the reply to `headers` and behind it the whole body of `field`, for mode FULL_DUPLEX_STREAMED.

    `end` is whether nothing more comes of the message, as trailers would; `came` whether Envoy has sent any of a body:
    it takes no pieces before, only a new body with the reply to headers.
    """
    if data and not came:
        return headers_reply(headers, edits, actions, body=data)
    first = headers_reply(headers, edits, actions)
    return (first, duplex_chunk_reply(field, data, end)) if data or end else (first,)


def passed_reply(field: str, mode: int, message: Any) -> bytes:
    """Return the reply that lets a body, or the piece of one, pass as it came; `message` is Envoy's `HttpBody`.

    In full duplex Envoy forwards only what it is sent back.
    """
    if mode == ProcessingMode.FULL_DUPLEX_STREAMED:
        return duplex_chunk_reply(field, message.body, message.end_of_stream)
    return chunk_reply(field, None)


def dropped_reply(field: str, mode: int) -> bytes | None:
    """Return the reply to what still comes of a body that a policy has ended."""
    return None if mode == ProcessingMode.FULL_DUPLEX_STREAMED else chunk_reply(field, b"")


@dataclass(slots=True)
class Answer:
    """What Envoy is to answer the client itself; `changed` are headers as in `HeaderEdit`."""

    status: int
    changed: list[tuple[str, bytes, bool]]
    body: bytes
    grpc_status: int | None = None
    details: str = ""


def immediate_reply(answer: Answer, edits: Sequence[HeaderEdit] = (), published: Sequence[Any] = ()) -> bytes:
    """Return the reply that ends the request here; `edits` are made to the answer's headers.

    Dynamic metadata of the `published` actions goes with it.
    """
    own = HeaderEdit((), tuple(answer.changed))
    mutation = wire.header_mutation([own, *map(_without_status, edits)] if edits else (own,))
    reply = wire.immediate_response(answer.status, mutation, answer.body, answer.grpc_status, answer.details)
    return reply + _metadata(published)


def _without_status(edit: HeaderEdit) -> HeaderEdit:
    """Return `edit` for an answer, which has its status in a field of its own."""
    if not any(name == ":status" for name, _, _ in edit.changed):
        return edit
    return HeaderEdit(edit.removed, tuple([one for one in edit.changed if one[0] != ":status"]))


def _clear_route_cache(actions: Sequence[Any]) -> bytes:
    for action in actions:
        if type(action) is RequestMutation and action.clear_route_cache:
            return _CLEAR_ROUTE_CACHE
    return b""


def _body_mutation(body: bytes) -> Any:
    return ext_proc.BodyMutation(body=body) if body else ext_proc.BodyMutation(clear_body=True)


def _metadata(actions: Sequence[Any]) -> bytes:
    """Return `ProcessingResponse.dynamic_metadata` of all actions; later ones win key by key."""
    published = [action.dynamic_metadata for action in actions if getattr(action, "dynamic_metadata", None)]
    if not published:
        return b""
    reply = ext_proc.ProcessingResponse()
    for namespaces in published:
        for namespace, values in namespaces.items():
            reply.dynamic_metadata.get_or_create_struct(namespace).update(plain_json(values))
    return bytes(reply.SerializeToString())


def plain_json(value: Any) -> Any:
    """Return JSON data with dicts for mappings: neither protobuf's `Struct` nor `json` takes another."""
    if isinstance(value, Mapping):
        return {key: plain_json(inner) for key, inner in value.items()}
    return [plain_json(inner) for inner in value] if isinstance(value, list | tuple) else value
