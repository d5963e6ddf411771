"""Runs the steps of one phase: the hot loop of the product, and the one place where a policy's failure is contained.

A phase runs synchronously as long as no policy has to wait, and returns its outcome at once: no task, no future.
Only when a hook returns an awaitable does `run` return a coroutine that finishes the phase.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Coroutine, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from policy_engine.documents.error_text import said
from policy_engine.sdk import (
    Chunk,
    ChunkMutation,
    ImmediateResponse,
    Request,
    RequestMutation,
    Response,
    ResponseMutation,
    TrailerMutation,
)
from policy_engine.sdk.headers import HeaderEdit, apply_edit
from policy_engine.sdk.repeated_lines import RepeatedLines
from policy_engine.worker.chains.action_check import InvalidAction, WrongKind, check_action
from policy_engine.worker.chains.compiled import CompiledChain, Condition, Step, Way
from policy_engine.worker.chains.constant_actions import is_constant
from policy_engine.worker.chains.constant_hooks import Constant
from policy_engine.worker.chains.loop_watch import RUNNING, Watched
from policy_engine.worker.chains.shadow import note_failure, note_wanted
from policy_engine.worker.chains.statistics import SHORTEST, FailureKind
from policy_engine.worker.chains.tracing import trace_id
from policy_engine.worker.conditions.condition import ConditionError
from policy_engine.worker.offload.blocking import PoolFull

logger = logging.getLogger("policy_engine.worker")
repeated = RepeatedLines(logger)


class Exchange:
    """One stream's request and response on one chain; lives from the first phase to the last."""

    __slots__ = ("chain", "decisions", "request", "response")

    def __init__(self, chain: CompiledChain, request: Request) -> None:
        self.chain = chain
        self.request = request
        self.response: Response | None = None
        self.decisions: dict[int, bool] | None = None

    def answered(self, response: Response, steps: Iterable[Step]) -> None:
        """Let `response` be the response from now on: for `steps`, what was decided by the one before is undone."""
        self.response = response
        for step in steps:
            if self.decisions is not None and step.condition is not None and step.condition.uses_response:
                self.decisions.pop(step.entry, None)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A hook that returned an awaitable, its place in the phase, and when it was called (`perf_counter` seconds)."""

    position: int
    result: Awaitable[Any]
    began: float


class Outcome:
    """What a phase's policies asked for: mutations in the order they apply, and the answer that ended it, if any.

    `edits` are the header parts of `actions`, one for each. `restated`: the response has another status; `step` is the
    one that answered, or that failed closed.
    """

    __slots__ = ("actions", "edits", "immediate", "restated", "step")

    def __init__(self) -> None:
        self.actions: list[Any] = []
        self.edits: list[HeaderEdit] = []
        self.immediate: ImmediateResponse | None = None
        self.step: Step | None = None
        self.restated = False


def run(  # noqa: PLR0912 # a call for what a branch does would cost more than that
    exchange: Exchange, steps: tuple[Step, ...], args: list[Any], outcome: Outcome, start: int = 0
) -> Outcome | Coroutine[Any, Any, Outcome]:
    """Run `steps` from `start` with `args` (the hook's arguments; the chunk in them is replaced as it changes).

    Never raises for what a policy does: a failure becomes the step's failure response, or is skipped when its
    failure mode is `open` (R-11). Only a step's `on_failure` may raise, which the engine's own steps do not have.
    """
    running = RUNNING
    if running.mark is not exchange.chain.mark:
        running.show(exchange.chain.mark)
    for position in range(start, len(steps)):
        step = steps[position]
        if step.condition is not None and not _applies(exchange, step, step.condition, outcome):
            if outcome.immediate is not None:
                return outcome
            continue
        statistics = step.statistics
        hook = step.hook
        if type(hook) is Constant:
            statistics.buckets[0] += 1
            outcome.actions.append(hook.action)
            outcome.edits.append(hook.edit)
            apply_edit(args[-1].headers, hook.edit)
            continue
        began = running.since = perf_counter()
        try:
            running.step = step
            result = hook(*args)
            running.step = None
        except BaseException as error:  # `sys.exit()` in a policy fails that policy, it does not end the worker
            running.step = None
            statistics.observe(perf_counter() - began)
            if _fail(exchange, step, error, outcome):
                return outcome
            continue
        if result is not None and type(result) not in step.accepts and inspect.isawaitable(result):
            return _finish(exchange, steps, args, outcome, _Waiting(position, result, began))
        took = perf_counter() - began
        if took <= SHORTEST:
            statistics.seconds += took
            statistics.buckets[0] += 1
        else:
            statistics.observe(took)
        if result is None:
            continue
        if result is step.usual:
            # A constant action after its first time: most actions are, and `_settle` has nothing to find out.
            edit = step.edit
            outcome.actions.append(result)
            outcome.edits.append(edit)
            apply_edit((exchange.request if type(result) is RequestMutation else args[-1]).headers, edit)
        elif _settle(exchange, step, args, result, outcome):
            return outcome
    return outcome


async def _finish(
    exchange: Exchange,
    steps: tuple[Step, ...],
    args: list[Any],
    outcome: Outcome,
    waiting: _Waiting,
) -> Outcome:
    """Await the hook that waits, then run the rest of the phase."""
    step, began = steps[waiting.position], waiting.began
    try:
        result = await _within(step, waiting.result, exchange.chain.mark)
    except Exception as error:
        RUNNING.since = began
        step.statistics.observe(perf_counter() - began)
        if _fail(exchange, step, error, outcome):
            return outcome
    else:
        RUNNING.since = began
        step.statistics.observe(perf_counter() - began)
        if result is not None and _settle(exchange, step, args, result, outcome):
            return outcome
    rest = run(exchange, steps, args, outcome, waiting.position + 1)
    return rest if isinstance(rest, Outcome) else await rest


async def _within(step: Step, waiting: Awaitable[Any], mark: bytes) -> Any:
    """Await what a hook returned for at most the step's timeout, in a task of its own.

    `asyncio.timeout` would wait for a policy that swallows its cancellation; a stream must never hang on one (R-12).
    """
    task = asyncio.ensure_future(Watched(step, waiting, mark))
    try:
        done, _ = await asyncio.wait((task,), timeout=step.timeout)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        task.cancel()
        task.add_done_callback(_forget)
        raise TimeoutError(f"no answer within {step.timeout:g} s")
    if task.cancelled():
        raise RuntimeError("the hook cancelled itself")
    return task.result()


def _forget(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()  # marks it as retrieved: the failure has been reported already


def _applies(exchange: Exchange, step: Step, condition: Condition, outcome: Outcome) -> bool:
    """Return whether the step runs; a condition that cannot be evaluated fails the policy, which may end the chain."""
    decision = None if exchange.decisions is None else exchange.decisions.get(step.entry)
    if decision is None:
        try:
            decision = condition.evaluate(exchange.request, exchange.response)
        except Exception as error:
            _remember(exchange, step, decision=False)
            _fail(exchange, step, error, outcome)
            return False
        _remember(exchange, step, decision)
    if not decision:
        step.statistics.skipped += 1
    return decision


def _remember(exchange: Exchange, step: Step, decision: bool) -> None:
    if exchange.decisions is None:
        exchange.decisions = {}
    exchange.decisions[step.entry] = decision


def _settle(exchange: Exchange, step: Step, args: list[Any], action: Any, outcome: Outcome) -> bool:
    """Take a hook's result; returns True when the chain ends here."""
    kind = type(action)
    if action is step.checked:
        edit = step.edit
    else:
        try:
            action, edit = _checked(exchange.request, step, action)
        except InvalidAction as error:
            return _fail(exchange, step, error, outcome)
        if edit.whole:
            _keep(step, action, edit)
    if (step.shadow or step.way is not None) and _set_aside(exchange, step, action):
        return False
    if kind is ImmediateResponse:
        step.statistics.short_circuits += 1
        decisions = step.decisions
        outcome.immediate = action if decisions is None else decisions.answered(step, action, exchange.request)
        outcome.step = step
        return True
    outcome.actions.append(action)
    outcome.edits.append(edit)
    if kind is RequestMutation:
        apply_edit(exchange.request.headers, edit)
        if action.body is not None:
            exchange.request.body = action.body
    elif kind is ResponseMutation and exchange.response is not None:
        apply_edit(exchange.response.headers, edit)
        outcome.restated |= action.status is not None
        if action.body is not None:
            exchange.response.body = action.body
    else:
        _pass_on(args, action, edit)
    return False


def _keep(step: Step, action: Any, edit: HeaderEdit) -> None:
    """Remember an action that asks for nothing but `edit`, if it is constant; most that come once come once only."""
    if action is not step.seen:
        step.seen = action
    elif is_constant(action):
        step.checked, step.edit = action, edit
        restates = type(action) is ResponseMutation and action.status is not None
        step.usual = None if restates or step.shadow or step.way is not None else action


def _pass_on(args: list[Any], action: Any, edit: HeaderEdit) -> None:
    """Let the next hook of a phase of chunks or trailers have what this one made of them."""
    if type(action) is ChunkMutation:
        args[-1] = Chunk(action.data, action.end or args[-1].end)
    elif type(action) is TrailerMutation:
        apply_edit(args[-1], edit)


def _set_aside(exchange: Exchange, step: Step, action: Any) -> bool:
    """Take what an alternative or a shadow wants; returns whether it is not to be done."""
    if step.way is not None and type(action) is ImmediateResponse:
        _close_way(exchange, step, step.way, action)
        return True
    if step.shadow:
        note_wanted(step, exchange.chain.route_key, exchange.request, action)
    return step.shadow


def _checked(request: Request, step: Step, action: Any) -> tuple[Any, HeaderEdit]:
    """Return the action as it is carried out, and its header part; raises InvalidAction.

    What a change of the query comes to depends on the request: the same action is another one for each.
    """
    if type(action) not in step.accepts:
        raise WrongKind(action, step.accepts)
    edit = check_action(action)
    if not edit.whole and type(action) is RequestMutation and action.changes_query:
        action = action.applied_to(request.target)
        edit = check_action(action)
    return action, edit


def _fail(exchange: Exchange, step: Step, error: BaseException, outcome: Outcome) -> bool:
    """Count and log a failure; returns True when it ends the chain (failure mode `closed`)."""
    kind = failure_kind(error)
    if step.on_failure is not None:
        step.on_failure(step, error, exchange.request)
    if step.way is not None:
        _close_way(exchange, step, step.way, step.failure_response)
    if step.shadow:
        note_failure(step, exchange.chain.route_key, exchange.request, error, kind.value)
        return False
    step.statistics.failures[kind] += 1
    if step.fails_open and step.way is None:
        step.statistics.failed_open[kind] += 1
    repeated.log(
        logging.WARNING,
        (exchange.chain.route_key, step.label, kind),
        "policy %s failed (%s), %s: %s",
        step.label,
        kind.value,
        _consequence(step),
        said(error),
        extra={
            "event": "policy_failed",
            "route": exchange.chain.route_key,
            "policy": step.policy,
            "policy_version": step.version,
            "failure": kind.value,
            "failure_mode": "open" if step.fails_open else "closed",
            "request_id": exchange.request.id,
            "trace_id": trace_id(exchange.request),
        },
        exc_info=error if kind is FailureKind.EXCEPTION else None,
    )
    decisions, answer = step.decisions, step.failure_response
    if step.fails_open or step.way is not None:
        if decisions is not None:
            decisions.failed_open(step, error, exchange.request)
        return False
    outcome.immediate = answer if decisions is None else decisions.answered(step, answer, exchange.request, error)
    outcome.step = step
    return True


def _consequence(step: Step) -> str:
    if step.way is not None:
        return "the alternatives decide"
    return "skipped" if step.fails_open else "request denied"


def _close_way(exchange: Exchange, step: Step, way: Way, answer: ImmediateResponse) -> None:
    """Let the next alternative decide; the policy takes no part in the rest of the exchange."""
    way.refuse(exchange.request, answer)
    _remember(exchange, step, decision=False)


def failure_kind(error: BaseException) -> FailureKind:
    """Return as what a failure is counted."""
    if isinstance(error, ConditionError):
        return FailureKind.CONDITION
    if isinstance(error, InvalidAction):
        return FailureKind.INVALID_ACTION
    if isinstance(error, PoolFull):
        return FailureKind.OVERLOADED
    if isinstance(error, TimeoutError):
        return FailureKind.TIMEOUT
    return FailureKind.EXCEPTION
