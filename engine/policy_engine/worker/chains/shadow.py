"""Entries in shadow: they see what the others see, and what they want is counted and logged, never done.

A separate module because it is the one place that keeps a shadow apart: a policy may write into the metadata, and into
attributes of the request, without returning anything that the executor could leave out.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import fields
from typing import Any

from policy_engine.documents.error_text import said
from policy_engine.sdk import (
    Chunk,
    Headers,
    ImmediateResponse,
    Request,
    Response,
    content_codings,
)
from policy_engine.sdk.repeated_lines import RepeatedLines
from policy_engine.worker.chains.compiled import Step
from policy_engine.worker.chains.statistics import Wanted
from policy_engine.worker.chains.tracing import trace_id

logger = logging.getLogger("policy_engine.worker")
repeated = RepeatedLines(logger)

Hook = Callable[..., Any]

_CONTAINERS = (dict, list, set, bytearray)
_HEADERS = ("set_headers", "append_headers", "remove_headers")
_MOST_NAMED = 10


class OwnMetadata(MutableMapping[str, Any]):
    """The metadata of a request as a shadow sees it: what it writes, also into containers, stays with it."""

    __slots__ = ("_base", "_gone", "_own")

    def __init__(self, base: MutableMapping[str, Any]) -> None:
        self._base = base
        self._own: dict[str, Any] = {}
        self._gone: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        if name in self._own:
            return self._own[name]
        if name in self._gone:
            raise KeyError(name)
        value = self._base[name]
        if isinstance(value, _CONTAINERS):
            value = self._own[name] = _copied(value)
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        self._own[name] = value
        self._gone.discard(name)

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._own.pop(name, None)
        self._gone.add(name)

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from (name for name in list(self._base) if name not in self._own and name not in self._gone)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Apart:
    """Keeps one entry apart. Its hooks get copies of request and response, of which the request's is kept for the
    stream, so that the entry finds in later phases what it wrote in earlier ones."""

    __slots__ = ()

    def hook(self, call: Hook) -> Hook:
        """Return `call` for the executor, which gives it the request, perhaps the response, and what the phase has."""

        def apart(request: Request, *rest: Any) -> Any:
            return call(self._view(request), *(copy.copy(one) if type(one) is Response else one for one in rest))

        return apart

    def at_end(self, call: Callable[[Request], None]) -> Callable[[Request], None]:
        """Return `on_stream_end` for the end of the stream."""
        return lambda request: call(self._view(request))

    def _view(self, request: Request) -> Request:
        kept = request.state_of(self, _kept)
        view: Request | None = kept.get("view")
        if view is None:
            view = kept["view"] = request.apart(OwnMetadata(request.metadata))
        view.body = request.body
        return view


def collecting(call: Hook, limit: int) -> Hook:
    """Return a chunk hook that gives `call`, a hook of whole bodies, the body when its last piece has come.

    It holds up nothing. Bodies that are encoded, or of more than `limit` bytes, are let by unseen: in pieces they are
    on their way already.
    """

    def chunk(request: Request, *rest: Any) -> Any:
        piece: Chunk = rest[-1]
        view: Request | Response = request if len(rest) == 1 else rest[0]
        pieces: bytearray | None = request.state_of(chunk, _kept).setdefault("pieces", bytearray())
        if pieces is None:
            return None
        if len(pieces) + len(piece.data) > limit or _is_encoded(view.headers):
            request.state_of(chunk, _kept)["pieces"] = None
            return None
        pieces += piece.data
        if not piece.end:
            return None
        request.state_of(chunk, _kept)["pieces"] = None
        view.body = bytes(pieces)
        return call(request, *rest[:-1])

    return chunk


def _is_encoded(headers: Headers) -> bool:
    return "content-encoding" in headers and bool(content_codings(headers))


def note_wanted(step: Step, route_key: str, request: Request, action: Any) -> None:
    """Count and log what a shadow would have done."""
    if type(action) is ImmediateResponse:
        wanted, text = Wanted.ANSWER, f"answered with {action.status}"
    else:
        changed = _changed(action)
        if not changed:
            return
        wanted, text = Wanted.CHANGE, f"changed {', '.join(changed)}"
    _note(step, route_key, request, wanted, text)


def note_failure(step: Step, route_key: str, request: Request, error: BaseException, kind: str) -> None:
    """Count and log that a shadow failed."""
    _note(step, route_key, request, Wanted.FAILURE, f"failed ({kind}): {said(error)}")


def _note(step: Step, route_key: str, request: Request, wanted: Wanted, text: str) -> None:
    step.statistics.want(wanted)
    repeated.log(
        logging.INFO,
        ("shadow", route_key, step.label, step.method, wanted),
        "policy %s, in shadow, would have %s",
        step.label,
        text,
        extra={
            "event": "shadow",
            "route": route_key,
            "policy": step.policy,
            "policy_version": step.version,
            "hook": step.method,
            "wanted": wanted.value,
            "request_id": request.id,
            "trace_id": trace_id(request),
        },
    )


def _changed(action: Any) -> list[str]:
    """Return what an action changes, by names alone: values may be secret."""
    found = []
    for one in fields(action):
        value = getattr(action, one.name)
        if one.name in _HEADERS:
            names = [pair[0] if isinstance(pair, tuple | list) else str(pair) for pair in value][:_MOST_NAMED]
            found += [f"header {name}" for name in names]
        elif one.name == "data":
            found.append("a piece of the body")
        elif value if isinstance(value, bool | Mapping | list | tuple) else value is not None:
            found.append(one.name.replace("_", " "))
    return found


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:  # what somebody else put there cannot be copied: a shadow sees the container's own copy
        return copy.copy(value)


def _kept() -> dict[str, Any]:
    return {}
