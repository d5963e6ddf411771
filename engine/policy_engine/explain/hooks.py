"""The chain of a request that is recorded: the same instances and counters, each step noting what it does.

A chain that nobody looks at knows nothing of this: the steps are copied once for those that are recorded.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol

from policy_engine.kernel.kernel import Kernel
from policy_engine.kernel.routes import Route, Routes
from policy_engine.sdk import ImmediateResponse, Request, Response
from policy_engine.worker.chains.compiled import CompiledChain, Condition, Step
from policy_engine.worker.chains.tracing import Tracing


class Notes(Protocol):
    """What is told of the hooks of one request."""

    def made(self, request: Request) -> None:
        """This is the request that policies see."""
        ...

    def condition(self, step: Step, condition: Condition, request: Request, response: Response | None) -> bool:
        """Evaluate and note the condition of a step; raises what the condition raises."""
        ...

    def begins(self, step: Step, arguments: tuple[Any, ...]) -> Any:
        """A hook is about to be called; returns what `returned` is to be given."""
        ...

    def returned(self, note: Any, action: Any) -> None:
        """The hook's result is there."""
        ...

    def failed(self, step: Step, error: BaseException) -> None:
        """The policy failed, in its hook, by its result or in its condition."""
        ...


_STEPS = (
    "request_headers",
    "request_body",
    "request_chunks",
    "request_trailers",
    "response_headers",
    "response_body",
    "response_chunks",
    "response_trailers",
)


class _Owner:
    """Under this, a request keeps its notes."""


_OWNER = _Owner()


def notes_of(request: Request) -> Notes | None:
    """Return the notes of a request that is recorded."""
    return request.state_of(_OWNER, _kept).get("notes")


def _kept() -> dict[str, Notes]:
    return {}


class RecordedKernel(Kernel):
    """The kernel as a recorded stream sees it: everything of the real one, but the routes and who hears of requests."""

    __slots__ = ()

    def __init__(self, kernel: Kernel, routes: Routes | None, notes: Notes) -> None:
        for name in Kernel.__slots__:
            setattr(self, name, getattr(kernel, name))
        self.routes = routes
        self.tracing = _Linked(kernel.tracing, notes)


class RecordedRoutes(Routes):
    """The routes of one snapshot, each with its steps noting, made when one is first asked for."""

    __slots__ = ("_made", "source")

    def __init__(self, source: Routes) -> None:
        self.source = source
        self.snapshot = source.snapshot
        self._made: dict[int, Route] = {}

    def get(self, key: str) -> Route | None:
        """Return the route of `key`."""
        route = self.source.get(key)
        if route is None:
            return None
        made = self._made.get(id(route))
        if made is None:
            made = self._made[id(route)] = replace(route, chain=recorded_chain(route.chain), modes={}, outer={})
        return made

    def nearest(self, key: str) -> Any:
        """Return known keys that look like `key`."""
        return self.source.nearest(key)


def recorded_chain(chain: CompiledChain) -> CompiledChain:
    """Return `chain` with every step noting."""
    noting: dict[str, Any] = {name: tuple(map(_noting, getattr(chain, name))) for name in _STEPS}
    return replace(chain, **noting)


def _noting(step: Step) -> Step:
    noting = replace(step)
    noting.hook = _hook(noting, step.hook)
    noting.on_failure = _failure(step)
    if step.condition is not None:
        noting.condition = _NotedCondition(noting, step.condition)
    return noting


def _hook(step: Step, hook: Callable[..., Any]) -> Callable[..., Any]:
    accepts = step.accepts

    def call(request: Request, *rest: Any) -> Any:
        notes = notes_of(request)
        if notes is None:
            return hook(request, *rest)
        note = notes.begins(step, (request, *rest))
        result = hook(request, *rest)
        if result is not None and type(result) not in accepts and inspect.isawaitable(result):
            return _later(notes, note, result)
        notes.returned(note, result)
        return result

    return call


async def _later(notes: Notes, note: Any, waiting: Awaitable[Any]) -> Any:
    result = await waiting
    notes.returned(note, result)
    return result


def _failure(step: Step) -> Callable[[Step, BaseException, Request], None]:
    told = step.on_failure

    def failed(noting: Step, error: BaseException, request: Request) -> None:
        notes = notes_of(request)
        if notes is not None:
            notes.failed(noting, error)
        if told is not None:
            told(noting, error, request)

    return failed


class _NotedCondition:
    """A condition whose evaluations are noted."""

    __slots__ = ("_condition", "_step")

    def __init__(self, step: Step, condition: Condition) -> None:
        self._step = step
        self._condition = condition

    @property
    def text(self) -> str:
        return self._condition.text

    @property
    def uses_response(self) -> bool:
        return self._condition.uses_response

    def evaluate(self, request: Request, response: Response | None) -> bool:
        notes = notes_of(request)
        if notes is None:
            return self._condition.evaluate(request, response)
        return notes.condition(self._step, self._condition, request, response)


class _Linked:
    """Gives a request its notes when the session has made it; else the real tracing, if there is one."""

    __slots__ = ("_notes", "_tracing")

    def __init__(self, tracing: Tracing | None, notes: Notes) -> None:
        self._tracing = tracing
        self._notes = notes

    def begin(self, request: Request) -> Any:
        request.state_of(_OWNER, _kept)["notes"] = self._notes
        self._notes.made(request)
        return None if self._tracing is None else self._tracing.begin(request)

    def answered(self, span: Any, response: ImmediateResponse) -> None:
        if self._tracing is not None:
            self._tracing.answered(span, response)

    def end(self, span: Any) -> None:
        if self._tracing is not None:
            self._tracing.end(span)

    def explained(self, condition: Condition, policy: str, version: str) -> Condition:
        return condition

    def around(self, hook: Callable[..., Any], policy: str, version: str, name: str) -> Callable[..., Any]:
        return hook
