"""Checks what a policy returned before Envoy sees it: an invalid header would make Envoy fail the whole request.

Apart from the executor so that the rules (RFC 9110, 5.1 and 5.5; Envoy's header mutation rules) stand in one place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from policy_engine.sdk.actions import (
    ChunkMutation,
    ImmediateResponse,
    RequestMutation,
    ResponseMutation,
    TrailerMutation,
)
from policy_engine.sdk.headers import HeaderChange, HeaderValue, encode_value

MAX_HEADER_CHANGES = 256
MAX_HEADER_BYTES = 64 * 1024
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}\Z")
_FORBIDDEN_IN_VALUE = re.compile(rb"[\x00\r\n]")
_TARGET = re.compile(r"(/[^\x00-\x20\x7f]*|\*)\Z")
_AUTHORITY = re.compile(r"[^\x00-\x20\x7f/?#]{1,512}\Z")
_KEPT_BY_ENGINE = {
    "content-length": "the engine keeps it right when the body changes",
    "transfer-encoding": "message framing belongs to Envoy",
    "host": "set `authority` instead",
}


class InvalidAction(Exception):
    """A policy returned something Envoy could not carry out; the message names the part, never a header's value."""


def check_action(action: Any) -> None:
    """Raise InvalidAction unless `action` can be carried out; called once per distinct action object."""
    if isinstance(action, RequestMutation):
        _check_headers(action)
        _check_body(action.body)
        if action.method is not None and not _TOKEN.match(action.method):
            raise InvalidAction("`method` is not an HTTP token (RFC 9110, 9.1)")
        if action.path is not None and not _TARGET.match(action.path):
            raise InvalidAction("`path` must start with '/' and hold no space or control character")
        if action.authority is not None and not _AUTHORITY.match(action.authority):
            raise InvalidAction("`authority` must be a host and optional port")
        _check_metadata(action.dynamic_metadata)
    elif isinstance(action, ResponseMutation):
        _check_headers(action)
        _check_body(action.body)
        if action.status is not None:
            _check_status(action.status)
        _check_metadata(action.dynamic_metadata)
    elif isinstance(action, ImmediateResponse):
        _check_status(action.status)
        _check_values(action.headers.items(), action.append_headers)
        if not isinstance(action.body, str | bytes):
            raise InvalidAction(f"`body` must be str or bytes, not {type(action.body).__name__}")
        _check_metadata(action.dynamic_metadata)
    elif isinstance(action, ChunkMutation):
        _check_body(action.data)
    elif isinstance(action, TrailerMutation):
        _check_headers(action)
    else:
        raise InvalidAction(f"a hook must return an action or None, not {type(action).__name__}")


def _check_headers(change: HeaderChange) -> None:
    _check_values(change.set_headers.items(), change.append_headers)
    for name in change.remove_headers:
        _check_name(name)


def _check_values(*groups: Iterable[tuple[str, HeaderValue]]) -> None:
    count = size = 0
    for group in groups:
        for name, value in group:
            _check_name(name)
            if not isinstance(value, str | bytes):
                raise InvalidAction(f"header {name!r}: the value must be str or bytes, not {type(value).__name__}")
            raw = encode_value(value)
            if _FORBIDDEN_IN_VALUE.search(raw):
                raise InvalidAction(f"header {name!r}: the value holds CR, LF or NUL (RFC 9110, 5.5)")
            count += 1
            size += len(name) + len(raw)
    if count > MAX_HEADER_CHANGES or size > MAX_HEADER_BYTES:
        raise InvalidAction(
            f"{count} header changes of {size} bytes; at most {MAX_HEADER_CHANGES} of {MAX_HEADER_BYTES} bytes"
        )


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _TOKEN.match(name):
        raise InvalidAction(f"header name {name!r:.80} is not an HTTP token (RFC 9110, 5.1)")
    reason = _KEPT_BY_ENGINE.get(name.lower())
    if reason is not None:
        raise InvalidAction(f"header {name!r} cannot be changed: {reason}")


def _check_body(body: object) -> None:
    if body is not None and not isinstance(body, bytes):
        raise InvalidAction(f"a body must be bytes, not {type(body).__name__}")


def _check_status(status: object) -> None:
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise InvalidAction(f"status {status!r:.40} is not a final HTTP status (200 to 599)")


def _check_metadata(metadata: Mapping[str, Mapping[str, Any]]) -> None:
    for namespace, values in metadata.items():
        if not isinstance(namespace, str) or not isinstance(values, Mapping):
            raise InvalidAction("`dynamic_metadata` must be {namespace: {key: value}}")
        _check_json(values, depth=0)


def _check_json(value: object, depth: int) -> None:
    if depth > 16:
        raise InvalidAction("`dynamic_metadata` is nested more than 16 deep")
    if value is None or isinstance(value, str | bool | int | float):
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InvalidAction("`dynamic_metadata` keys must be str")
            _check_json(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_json(inner, depth + 1)
    else:
        raise InvalidAction(f"`dynamic_metadata` holds a {type(value).__name__}; only JSON values can be sent")
