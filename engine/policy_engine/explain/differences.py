"""What an action changes, as differences: each header, the path, the body, the status, metadata; before and after."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from policy_engine.explain.masking import Masking
from policy_engine.explain.record import Change
from policy_engine.sdk import (
    Chunk,
    ChunkMutation,
    Headers,
    ImmediateResponse,
    RequestMutation,
    ResponseMutation,
    TrailerMutation,
)
from policy_engine.sdk.headers import apply_edit, edit_of

_PSEUDO = {":path": "path", ":method": "method", ":authority": "authority", ":status": "status"}


def changes_of(action: Any, arguments: tuple[Any, ...], masking: Masking) -> list[Change]:
    """Return what `action` changes of what its hook was called with, before the engine applies it."""
    if isinstance(action, RequestMutation):
        request = arguments[0]
        return [
            *_headers(action, request.headers, masking),
            *_body(request.body, action.body),
            *_published(action, masking),
        ]
    if isinstance(action, ResponseMutation):
        response = arguments[1]
        found = [*_headers(action, response.headers, masking), *_body(response.body, action.body)]
        return [*found, *_published(action, masking)]
    if isinstance(action, TrailerMutation):
        return [
            Change(f"trailer {one.what[7:]}", one.before, one.after) for one in _headers(action, arguments[-1], masking)
        ]
    if isinstance(action, ChunkMutation):
        return list(_chunk(arguments[-1], action))
    if isinstance(action, ImmediateResponse):
        return list(_published(action, masking))
    return []


def metadata_changes(before: Mapping[str, Any], after: Mapping[str, Any], masking: Masking) -> Iterator[Change]:
    """Yield what a hook put into the metadata that policies share, by its first keys."""
    for key in [*before, *(one for one in after if one not in before)]:
        old, new = before.get(key), after.get(key)
        if old is not new and old != new:
            yield Change(f"metadata {key}", _text(key, old, masking), _text(key, new, masking))


def _headers(action: Any, headers: Headers, masking: Masking, kind: str = "header") -> Iterator[Change]:
    edit = edit_of(action)
    names = dict.fromkeys([*edit.removed, *(name for name, _, _ in edit.changed)])
    there = {name: headers.get_all(name) for name in names}
    scratch = Headers.of(there)
    apply_edit(scratch, edit)
    for name in names:
        before, after = _joined(name, there[name], masking), _joined(name, scratch.get_all(name), masking)
        if there[name] != scratch.get_all(name):
            yield Change(_PSEUDO.get(name, f"{kind} {name}"), before, after)


def _joined(name: str, values: tuple[str, ...], masking: Masking) -> str | None:
    return ", ".join(masking.header(name, one) for one in values) if values else None


def _body(before: bytes | None, after: bytes | None) -> Iterator[Change]:
    if after is not None and after != before:
        yield Change("body", None if before is None else _bytes(before), _bytes(after))


def _chunk(before: Chunk, after: ChunkMutation) -> Iterator[Change]:
    if after.data != before.data:
        yield Change("chunk", _bytes(before.data), _bytes(after.data))
    if after.end and not before.end:
        yield Change("end of the body", None, "here")


def _published(action: Any, masking: Masking) -> Iterator[Change]:
    for namespace, values in action.dynamic_metadata.items():
        for key, value in values.items():
            yield Change(f"dynamic metadata {namespace} {key}", None, _text(key, value, masking))


def _text(key: str, value: Any, masking: Masking) -> str | None:
    if value is None:
        return None
    shown = masking.value(key, value)
    return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)


def _bytes(data: bytes) -> str:
    return f"{len(data)} bytes"
