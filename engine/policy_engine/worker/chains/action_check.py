"""Checks what a policy returned before Envoy sees it: an invalid header would make Envoy fail the whole request.

Apart from the executor so that the rules (RFC 9110, 5.1 and 5.5; Envoy's header mutation rules) stand in one place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from policy_engine.sdk.actions import (
    ChunkMutation,
    ImmediateResponse,
    RequestMutation,
    ResponseMutation,
    TrailerMutation,
)
from policy_engine.sdk.headers import NO_EDIT, HeaderEdit, HeaderValue, encode_value

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


class WrongKind(InvalidAction):
    """A hook returned what is no action of its phase."""

    def __init__(self, action: Any, accepts: frozenset[type]) -> None:
        allowed = ", ".join(sorted(kind.__name__ for kind in accepts))
        super().__init__(f"the hook returned {type(action).__name__}; it may return {allowed} or None")


def check_action(action: Any) -> HeaderEdit:
    """Return the header part of `action` ready to be applied and sent; called once per distinct action object.

    Raises InvalidAction unless the whole of `action` can be carried out.
    """
    if isinstance(action, RequestMutation):
        changed = _checked_values(action.set_headers, action.append_headers)
        if action.method is not None or action.path is not None or action.authority is not None:
            changed += _request_pseudo_headers(action)
        whole = action.body is None and not action.dynamic_metadata and not action.clear_route_cache
        if not whole:
            _check_body(action.body)
            _check_metadata(action.dynamic_metadata)
        return HeaderEdit(_checked_names(action.remove_headers), tuple(changed), whole)
    if isinstance(action, ResponseMutation):
        changed = _checked_values(action.set_headers, action.append_headers)
        if action.status is not None:
            _check_status(action.status)
            changed.append((":status", str(action.status).encode(), False))
        whole = action.body is None and not action.dynamic_metadata
        if not whole:
            _check_body(action.body)
            _check_metadata(action.dynamic_metadata)
        return HeaderEdit(_checked_names(action.remove_headers), tuple(changed), whole)
    if isinstance(action, ImmediateResponse):
        _check_status(action.status)
        _checked_values(action.headers, action.append_headers)
        if not isinstance(action.body, str | bytes):
            raise InvalidAction(f"`body` must be str or bytes, not {type(action.body).__name__}")
        _check_metadata(action.dynamic_metadata)
        return NO_EDIT
    if isinstance(action, ChunkMutation):
        _check_body(action.data)
        return NO_EDIT
    if isinstance(action, TrailerMutation):
        changed = _checked_values(action.set_headers, action.append_headers)
        return HeaderEdit(_checked_names(action.remove_headers), tuple(changed))
    raise InvalidAction(f"a hook must return an action or None, not {type(action).__name__}")


def _checked_names(names: Sequence[str]) -> tuple[str, ...]:
    return tuple([_checked_name(name) for name in names]) if names else ()


def _request_pseudo_headers(action: RequestMutation) -> list[tuple[str, bytes, bool]]:
    found = []
    if action.method is not None:
        if not _TOKEN.match(action.method):
            raise InvalidAction("`method` is not an HTTP token (RFC 9110, 9.1)")
        found.append((":method", action.method.encode(), False))
    if action.path is not None:
        if not _TARGET.match(action.path):
            raise InvalidAction("`path` must start with '/' and hold no space or control character")
        found.append((":path", encode_value(action.path), False))
    if action.authority is not None:
        if not _AUTHORITY.match(action.authority):
            raise InvalidAction("`authority` must be a host and optional port")
        found.append((":authority", encode_value(action.authority), False))
    return found


def _checked_values(
    replaced: Mapping[str, HeaderValue], appended: Sequence[tuple[str, HeaderValue]]
) -> list[tuple[str, bytes, bool]]:
    changed = [(_checked_name(name), _checked_value(name, value), False) for name, value in replaced.items()]
    if appended:
        changed += [(_checked_name(name), _checked_value(name, value), True) for name, value in appended]
    size = sum([len(name) + len(raw) for name, raw, _ in changed])
    if len(changed) > MAX_HEADER_CHANGES or size > MAX_HEADER_BYTES:
        raise InvalidAction(
            f"{len(changed)} header changes of {size} bytes; at most {MAX_HEADER_CHANGES} of {MAX_HEADER_BYTES} bytes"
        )
    return changed


def _checked_name(name: object) -> str:
    # The same few names come again and again: looking one up costs 50 ns, checking it 500.
    return (_GOOD_NAMES.get(name) if isinstance(name, str) else None) or _new_name(name)


def _new_name(name: object) -> str:
    if not isinstance(name, str) or not _TOKEN.match(name):
        raise InvalidAction(f"header name {name!r:.80} is not an HTTP token (RFC 9110, 5.1)")
    lower = name.lower()
    reason = _KEPT_BY_ENGINE.get(lower)
    if reason is not None:
        raise InvalidAction(f"header {name!r} cannot be changed: {reason}")
    if len(_GOOD_NAMES) >= _MOST_GOOD_NAMES:
        _GOOD_NAMES.clear()
    _GOOD_NAMES[name] = lower
    return lower


_GOOD_NAMES: dict[str, str] = {}
_MOST_GOOD_NAMES = 1024


def _checked_value(name: str, value: object) -> bytes:
    if isinstance(value, str):
        raw = value.encode("utf-8", "surrogateescape")
    elif isinstance(value, bytes):
        raw = value
    else:
        raise InvalidAction(f"header {name!r}: the value must be str or bytes, not {type(value).__name__}")
    if _FORBIDDEN_IN_VALUE.search(raw):
        raise InvalidAction(f"header {name!r}: the value holds CR, LF or NUL (RFC 9110, 5.5)")
    return raw


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
