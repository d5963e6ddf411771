"""A chain of instances that a test has made, compiled by the engine's compiler; what fails in it is raised."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from policy_engine.kit.held_time import Stopwatch
from policy_engine.kit.loading import definition_of, parameters_of
from policy_engine.kit.outcome import Step
from policy_engine.sdk import ImmediateResponse, Policy, Request
from policy_engine.sdk.hooks import REQUEST_PHASES, Phase, names_of, phases_of
from policy_engine.sdk.metrics import metrics_of
from policy_engine.worker.chains.action_check import InvalidAction, WrongKind
from policy_engine.worker.chains.compiled import CompiledChain
from policy_engine.worker.chains.compiled import Step as CompiledStep
from policy_engine.worker.chains.compiler import Compiler, Entry, active_phases, asked_of
from policy_engine.worker.chains.needs import Asked, asked_by, expressions_in
from policy_engine.worker.chains.spec import FailureMode
from policy_engine.worker.chains.statistics import PolicyStatistics
from policy_engine.worker.conditions.condition import compile_condition

_VERSION = "v0.0.0"
_BODY_HOOKS = frozenset(name for phase in (Phase.REQUEST_BODY, Phase.RESPONSE_BODY) for name in names_of(phase))


@dataclass(frozen=True, slots=True)
class ChainEntry:
    """A policy in a chain with what a chain file may say of it beside its parameters.

    `condition` is a CEL expression. `failure_mode` is `closed` or `open`: what fails then is handled as the engine does
    it; without, it is raised.
    """

    policy: Policy
    condition: str | None = None
    failure_mode: str | None = None


def entry(policy: Policy, *, condition: str | None = None, failure_mode: str | None = None) -> ChainEntry:
    """Return a policy with its chain entry's settings, to be given to `run`; see `ChainEntry`."""
    return ChainEntry(policy, condition, None if failure_mode is None else FailureMode(failure_mode))


_Series = tuple[type[Policy], str, tuple[tuple[str, str], ...]]
"""A class of policies, the name of one of its metrics, and labels with their values."""


class KitChain:
    """The compiled chain, the hooks that ran on it, and what failed at the end of the stream."""

    def __init__(
        self,
        compiler: Compiler,
        route_key: str,
        entries: Sequence[Policy | ChainEntry],
        seconds: float,
        given: Asked,
    ) -> None:
        self._policies = [one.policy if isinstance(one, ChainEntry) else one for one in entries]
        self._failures: list[BaseException] = []
        self._classes = tuple(dict.fromkeys(type(one) for one in self._policies))
        self._before = self._counts()
        self._stopwatch = Stopwatch()
        self.steps: list[Step] = []
        made = [_entry(index, one, seconds, given) for index, one in enumerate(entries)]
        self.compiled = self._recorded(compiler.assemble(route_key, "", made))

    def counted(self) -> list[tuple[str, dict[str, str], float]]:
        """Return what the policies' metrics grew by since the chain was made, those that did not left out."""
        now = self._counts()
        grown = ((key, value - self._before.get(key, 0.0)) for key, value in now.items())
        return [(name, dict(labels), amount) for (_, name, labels), amount in grown if amount]

    def _counts(self) -> dict[_Series, float]:
        """Return every count of the policies' classes; of a histogram the values and, with `_sum`, their sum."""
        found: dict[_Series, float] = {}
        for policy_class in self._classes:
            for metric in metrics_of(policy_class):
                for ending, labels, value in metric.samples():
                    name = metric.name if ending == "_bucket" else metric.name + ending
                    if labels.pop("le", "+Inf") == "+Inf":
                        found[policy_class, name, tuple(sorted(labels.items()))] = value
        return found

    def raise_failure(self) -> None:
        """Raise what failed where the engine would have gone on."""
        if self._failures:
            raise self._failures[0]

    def refuse_late(self, answer: ImmediateResponse | None) -> None:
        """Raise RuntimeError when `answer` stands for a failure that no hook had: a change that cannot be sent."""
        for step in (one for steps in _steps_of(self.compiled) for one in steps):
            failure = step.failure_response
            if step.on_failure is not None and answer is not None and answer.details == failure.details:
                raise RuntimeError(
                    f"{step.policy} changes the message when that can no longer be sent (a body of which nothing "
                    "came before its trailers, or data held back until trailers in a body that Envoy streams)"
                )

    def _recorded(self, chain: CompiledChain) -> CompiledChain:
        for steps in _steps_of(chain):
            for step in steps:
                step.hook = self._noting(step, self._timed(step))
        return replace(chain, stream_end=tuple(map(self._at_end, chain.stream_end)))

    def offloading(self) -> AbstractContextManager[None]:
        """Let the policies offload while the exchange goes on."""
        return self._stopwatch.offloading(self._policies)

    def _timed(self, step: CompiledStep) -> Callable[..., Any]:
        policy_class = type(self._policies[step.entry])
        if policy_class.blocking or step.method not in _BODY_HOOKS:
            return step.hook
        return self._stopwatch.timed(f"{policy_class.__name__}.{step.method}", step.hook)

    def _noting(self, step: CompiledStep, hook: Callable[..., Any]) -> Callable[..., Any]:
        policy, method = self._policies[step.entry], step.method

        def note(action: Any) -> Any:
            self.steps.append(Step(policy, method, action))
            return action

        async def later(waiting: Any) -> Any:
            return note(await waiting)

        def call(*arguments: Any) -> Any:
            result = hook(*arguments)
            return later(result) if inspect.isawaitable(result) else note(result)

        return call

    def _at_end(self, hook: Callable[[Request], None]) -> Callable[[Request], None]:
        def call(request: Request) -> None:
            try:
                hook(request)
            except BaseException as error:
                self._failures.append(error)
                raise

        return call


def _entry(index: int, policy: Policy | ChainEntry, seconds: float, given: Asked) -> Entry:
    """Return the entry of a policy; one that has no `policy.yaml` may see what the request is `given`."""
    one = policy if isinstance(policy, ChainEntry) else ChainEntry(policy)
    policy_class, name = type(one.policy), type(one.policy).__name__
    phases = active_phases(one.policy, phases_of(policy_class))
    definition = definition_of(policy_class)
    condition, expressions = None, () if one.condition is None else (one.condition,)
    asked = given | asked_by(expressions)
    if definition is not None:
        asked = asked_of(definition, (*expressions, *expressions_in(parameters_of(one.policy))))
    if one.condition is not None:
        condition = compile_condition(one.condition, phase_has_response=not phases_of(policy_class) & REQUEST_PHASES)
    return Entry(
        index,
        name,
        _VERSION,
        one.policy,
        phases,
        PolicyStatistics("", name, _VERSION),
        condition,
        seconds,
        one.failure_mode == FailureMode.OPEN,
        _raise if one.failure_mode is None else None,
        asked,
    )


def _raise(step: CompiledStep, error: BaseException, _: Request) -> NoReturn:
    where = f"{step.policy}.{step.method}"
    if isinstance(error, WrongKind):
        raise TypeError(f"{where}: {error}") from None
    if isinstance(error, InvalidAction):
        raise ValueError(f"{where}: {error}") from None
    raise error


def _steps_of(chain: CompiledChain) -> tuple[tuple[CompiledStep, ...], ...]:
    return (
        chain.request_headers,
        chain.request_body,
        chain.request_chunks,
        chain.request_trailers,
        chain.response_headers,
        chain.response_body,
        chain.response_chunks,
        chain.response_trailers,
    )
