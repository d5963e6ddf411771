"""Tells at the terminal what became of each request, for `policy-engine dev`: one line, policy by policy.

It is the kernel's tracing there. Names of headers are shown and no values, as those may be credentials.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from policy_engine.documents.error_text import said
from policy_engine.sdk import (
    ChunkMutation,
    ImmediateResponse,
    Request,
    RequestMutation,
    Response,
    ResponseMutation,
    TrailerMutation,
)
from policy_engine.worker.chains.compiled import Condition

_LONGEST_TARGET = 100
_LONGEST_ERROR = 120


@dataclass(slots=True)
class Told:
    """What is known of one stream so far; `status` is 0 while nobody has told one."""

    request: Request
    began: float = field(default_factory=perf_counter)
    method: str = ""
    target: str = ""
    status: int = 0
    answered: bool = False
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        milliseconds = (perf_counter() - self.began) * 1000
        by = "" if self.answered else " by the upstream"
        status = f"{self.status}{by}" if self.status else "on to the upstream"
        notes = "; ".join(self.notes) or "no policy ran"
        return f"{self.method} {self.target}  {status}  {milliseconds:.1f} ms  [{self.request.route}]  {notes}"


class RequestLines:
    """Writes a line when a stream is over; what the methods are for, `worker.chains.tracing.Tracing` says."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def close(self) -> None:
        """Nothing is left to be written."""

    def begin(self, request: Request) -> Told:
        """See `Tracing`."""
        target = request.target
        shown = target if len(target) <= _LONGEST_TARGET else target[:_LONGEST_TARGET] + "…"
        return Told(request, method=request.method, target=shown)

    def answered(self, span: Told, response: ImmediateResponse) -> None:
        """See `Tracing`."""
        span.status, span.answered = response.status, True
        if response.details.startswith("policy_engine:"):
            span.notes.append(f"the engine refused it ({response.details})")

    def end(self, span: Told) -> None:
        """See `Tracing`."""
        self._write(_printable(str(span)))

    def explained(self, condition: Condition, policy: str, version: str) -> Condition:
        """Return `condition` with a note on each time that it is false or fails."""
        return _NotedCondition(condition, f"{policy} {version}")

    def around(self, hook: Callable[..., Any], policy: str, version: str, name: str) -> Callable[..., Any]:
        """Return `hook` with a note on each call."""
        label, phase = f"{policy} {version}", name.removeprefix("on_").replace("_", " ")

        def noted(request: Request, *rest: Any) -> Any:
            told: Told | None = request.trace
            if told is None:
                return hook(request, *rest)
            if rest and isinstance(rest[0], Response) and not told.answered:
                told.status = rest[0].status
            try:
                result = hook(request, *rest)
            except BaseException as error:
                told.notes.append(_failure(label, phase, error))
                raise
            if hasattr(result, "__await__"):
                return _awaited(told, label, phase, result)
            told.notes.append(_action(label, phase, result))
            return result

        return noted


class _NotedCondition:
    def __init__(self, condition: Condition, label: str) -> None:
        self._condition = condition
        self._label = label

    @property
    def uses_response(self) -> bool:
        """Whether the response decides."""
        return bool(getattr(self._condition, "uses_response", False))

    def evaluate(self, request: Request, response: Response | None) -> bool:
        """Return what the condition says."""
        told: Told | None = request.trace
        try:
            runs = self._condition.evaluate(request, response)
        except Exception as error:
            if told is not None:
                told.notes.append(f"{self._label} failed ({_short(error)})")
            raise
        if told is not None and not runs:
            told.notes.append(f"{self._label} skipped, its condition is false")
        return runs


async def _awaited(told: Told, label: str, phase: str, waiting: Awaitable[Any]) -> Any:
    try:
        result = await waiting
    except BaseException as error:
        told.notes.append(_failure(label, phase, error))
        raise
    told.notes.append(_action(label, phase, result))
    return result


def _failure(label: str, phase: str, error: BaseException) -> str:
    return f"{label} FAILED at {phase}: {_short(error)}"


def _short(error: BaseException) -> str:
    text = said(error)
    return text if len(text) <= _LONGEST_ERROR else text[:_LONGEST_ERROR] + "…"


def _action(label: str, phase: str, action: Any) -> str:
    if isinstance(action, ImmediateResponse):
        why = f" ({action.details})" if action.details else ""
        return f"{label} answered {action.status} at {phase}{why}"
    changes = ", ".join(_changes(action))
    return f"{label} {changes} at {phase}" if changes else f"{label} at {phase}"


def _changes(action: Any) -> Iterator[str]:
    if isinstance(action, RequestMutation | ResponseMutation | TrailerMutation):
        names = [*action.set_headers, *(name for name, _ in action.append_headers)]
        if names:
            yield f"set {' '.join(map(str, names))}"
        if action.remove_headers:
            yield f"removed {' '.join(map(str, action.remove_headers))}"
    if isinstance(action, RequestMutation):
        for name in ("method", "path", "authority"):
            if getattr(action, name) is not None:
                yield f"changed the {name}"
        if action.changes_query:
            yield "changed the query"
    if isinstance(action, ResponseMutation) and action.status is not None:
        yield f"changed the status to {action.status}"
    if isinstance(action, ChunkMutation):
        yield f"made the piece {len(action.data)} bytes"
    if isinstance(action, RequestMutation | ResponseMutation) and action.body is not None:
        yield f"made the body {len(action.body)} bytes"


def _printable(text: str) -> str:
    """Return text that cannot move a terminal's cursor."""
    return "".join(one if one.isprintable() else "�" for one in text)
