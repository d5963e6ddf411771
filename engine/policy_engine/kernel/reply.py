"""Translates what policies asked for into serialised `ProcessingResponse` messages.

The only module that writes ext_proc replies, so that Envoy's rules for them stand in one place: headers are removed
before they are set, `content-length` must match a replaced body (envoy `mutation_utils.cc`, `processor_state.cc`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from policy_engine.sdk import ImmediateResponse, RequestMutation, ResponseMutation
from policy_engine.sdk.headers import HeaderChange, encode_value

_APPEND = base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
_OVERWRITE = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_REPLACE = ext_proc.CommonResponse.CONTINUE_AND_REPLACE


def mode_override(mode: processing_mode_pb2.ProcessingMode) -> bytes:
    """Return the bytes to put behind a request-headers reply; serialised fields of a message may be concatenated."""
    return bytes(ext_proc.ProcessingResponse(mode_override=mode).SerializeToString())


def headers_reply(field: str, actions: Sequence[Any], *, body: bytes | None = None) -> bytes:
    """Return the reply to `request_headers` or `response_headers` (`field`); `body` replaces the whole message."""
    reply = ext_proc.ProcessingResponse()
    common = getattr(reply, field).response
    common.SetInParent()
    _fill_headers(common, actions)
    if body is not None:
        # Envoy drops content-length itself here and frames the new body (processor_state.cc, CONTINUE_AND_REPLACE).
        common.status = _REPLACE
        _fill_body(common, body)
    _fill_metadata(reply, actions)
    return bytes(reply.SerializeToString())


def body_reply(field: str, actions: Sequence[Any], *, body: bytes | None, had_content_length: bool) -> bytes:
    """Return the reply to a buffered body; `body` is the new body on the wire, None when it did not change."""
    reply = ext_proc.ProcessingResponse()
    common = getattr(reply, field).response
    common.SetInParent()
    _fill_headers(common, actions)
    if body is not None:
        _fill_body(common, body)
        if had_content_length:
            # Envoy refuses a mutated body whose length differs from content-length.
            _set(common.header_mutation, "content-length", str(len(body)).encode(), append=False)
    _fill_metadata(reply, actions)
    return bytes(reply.SerializeToString())


def trailers_reply(field: str, actions: Sequence[Any]) -> bytes:
    """Return the reply to `request_trailers` or `response_trailers`."""
    reply = ext_proc.ProcessingResponse()
    part = getattr(reply, field)
    part.SetInParent()
    fold_headers(part.header_mutation, actions)
    return bytes(reply.SerializeToString())


def chunk_reply(field: str, data: bytes | None) -> bytes:
    """Return the reply to one chunk in mode STREAMED; None leaves the chunk as it is."""
    reply = ext_proc.ProcessingResponse()
    common = getattr(reply, field).response
    common.SetInParent()
    if data is not None:
        _fill_body(common, data)
    return bytes(reply.SerializeToString())


def duplex_chunk_reply(field: str, data: bytes, end: bool) -> bytes:
    """Return one piece of body for mode FULL_DUPLEX_STREAMED, where Envoy forwards exactly what it is sent."""
    reply = ext_proc.ProcessingResponse()
    streamed = getattr(reply, field).response.body_mutation.streamed_response
    streamed.body = data
    streamed.end_of_stream = end
    return bytes(reply.SerializeToString())


def immediate_reply(response: ImmediateResponse, earlier: Sequence[Any] = ()) -> bytes:
    """Return the reply that ends the request here; dynamic metadata of `earlier` actions is still published."""
    reply = ext_proc.ProcessingResponse()
    immediate = reply.immediate_response
    immediate.status.code = response.status
    immediate.body = response.body if isinstance(response.body, bytes) else response.body.encode()
    for name, value in response.headers.items():
        _set(immediate.headers, name.lower(), encode_value(value), append=False)
    for name, value in response.append_headers:
        _set(immediate.headers, name.lower(), encode_value(value), append=True)
    if response.grpc_status is not None:
        immediate.grpc_status.status = response.grpc_status
    immediate.details = response.details
    _fill_metadata(reply, [*earlier, response])
    return bytes(reply.SerializeToString())


def fold_headers(mutation: Any, actions: Iterable[HeaderChange]) -> None:
    """Fold the changes of `actions`, in order, into one HeaderMutation; the last writer of a header wins.

    Envoy removes all `remove_headers` before it sets anything, so "set, then removed by a later policy" must not be
    sent as both.
    """
    removed: dict[str, None] = {}
    changed: dict[str, list[tuple[bytes, bool]]] = {}
    for action in actions:
        for name in action.remove_headers:
            key = name.lower()
            changed.pop(key, None)
            removed[key] = None
        for name, value in action.set_headers.items():
            changed[name.lower()] = [(encode_value(value), False)]
        for name, value in action.append_headers:
            changed.setdefault(name.lower(), []).append((encode_value(value), True))
        for name, text in action.pseudo_headers().items():
            changed[name] = [(encode_value(text), False)]
    mutation.remove_headers.extend(removed)
    for name, values in changed.items():
        for value, append in values:
            _set(mutation, name, value, append=append)


def _fill_headers(common: Any, actions: Sequence[Any]) -> None:
    if not actions:
        return
    if len(actions) == 1:
        action = actions[0]
        mutation = common.header_mutation
        mutation.remove_headers.extend(name.lower() for name in action.remove_headers)
        for name, value in action.set_headers.items():
            _set(mutation, name.lower(), encode_value(value), append=False)
        for name, value in action.append_headers:
            _set(mutation, name.lower(), encode_value(value), append=True)
        for name, text in action.pseudo_headers().items():
            _set(mutation, name, encode_value(text), append=False)
    else:
        fold_headers(common.header_mutation, actions)
    if any(type(action) is RequestMutation and action.clear_route_cache for action in actions):
        common.clear_route_cache = True


def _set(mutation: Any, name: str, value: bytes, *, append: bool) -> None:
    option = mutation.set_headers.add(append_action=_APPEND if append else _OVERWRITE)
    option.header.key = name
    option.header.raw_value = value
    if append:
        option.append.value = True  # Envoy reads an unset `append` beside action 0 as "overwrite"


def _fill_body(common: Any, body: bytes) -> None:
    if body:
        common.body_mutation.body = body
    else:
        common.body_mutation.clear_body = True


def _fill_metadata(reply: Any, actions: Sequence[Any]) -> None:
    for action in actions:
        if isinstance(action, RequestMutation | ResponseMutation | ImmediateResponse):
            for namespace, values in action.dynamic_metadata.items():
                reply.dynamic_metadata.get_or_create_struct(namespace).update(dict(values))
