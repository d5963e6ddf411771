"""Turns what a configuration asks for into what a request runs: instances built, conditions compiled, phases cut out.

There is one compiler for every source of configuration (file, xDS), so that both mean the same by a chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from policy_engine.limits import BLOCKING_THREADS, BODY_LIMIT, CONSTRUCTION_SECONDS, POLICY_TIMEOUT
from policy_engine.sdk import (
    Chunk,
    ChunkMutation,
    ImmediateResponse,
    Policy,
    Request,
    RequestMutation,
    Response,
    ResponseMutation,
)
from policy_engine.sdk.hooks import (
    ON_REQUEST_BODY,
    ON_REQUEST_CHUNK,
    ON_REQUEST_HEADERS,
    ON_REQUEST_TRAILERS,
    ON_RESPONSE_BODY,
    ON_RESPONSE_CHUNK,
    ON_RESPONSE_HEADERS,
    ON_RESPONSE_TRAILERS,
    REQUEST_PHASES,
    Hook,
    Phase,
    chunk_hook,
    phases_of,
)
from policy_engine.worker.chains import any_of
from policy_engine.worker.chains.action_check import WrongKind, check_action
from policy_engine.worker.chains.any_of import Alternative, Group, Verdict
from policy_engine.worker.chains.compiled import CompiledChain, Condition, Decisions, Snapshot, Step, Way
from policy_engine.worker.chains.constant_hooks import constant_hook
from policy_engine.worker.chains.error_answers import ErrorAnswers
from policy_engine.worker.chains.needs import NOTHING_ASKED, Asked, BodyMode, Part, asked_by, expressions_in, needs_of
from policy_engine.worker.chains.route_patterns import is_pattern, ties
from policy_engine.worker.chains.shadow import Apart, collecting
from policy_engine.worker.chains.sharing import InShare
from policy_engine.worker.chains.spec import (
    AnyOf,
    ChainsSpec,
    FailureMode,
    Mode,
    PolicySpec,
    RouteSpec,
    Unmapped,
)
from policy_engine.worker.chains.statistics import PolicyStatistics
from policy_engine.worker.chains.tracing import Tracing
from policy_engine.worker.conditions.condition import compile_condition
from policy_engine.worker.offload.binding import Away
from policy_engine.worker.offload.blocking import BlockingPool
from policy_engine.worker.offload.helpers import Helpers
from policy_engine.worker.offload.job import Recipe
from policy_engine.worker.policies.closing import give_up
from policy_engine.worker.policies.construction import Overrun, construct
from policy_engine.worker.policies.registry import PolicyDefinition, Registry


class CompileError(ValueError):
    """A chain cannot be built; the message names the route, the policy and the reason."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One policy of a chain with its instance made and its condition compiled.

    `index` is its place in the chain, `phases` those in which it has work (`active_phases`), `timeout` in seconds.
    `on_failure`, `shadow` and `way`: see `Step`; `asked`: see `Part`.
    """

    index: int
    name: str
    version: str
    instance: Policy
    phases: frozenset[Phase]
    statistics: PolicyStatistics
    condition: Condition | None = None
    timeout: float = POLICY_TIMEOUT
    fails_open: bool = False
    on_failure: Callable[[Step, BaseException, Request], None] | None = None
    asked: Asked = NOTHING_ASKED
    shadow: bool = False
    way: Way | None = None
    apart: Apart | None = None


@dataclass(slots=True)
class Compiler:
    """Builds chains from specs with the policies of one registry; keeps one thread pool per blocking policy version.

    `statistics` outlives snapshots, so that counters do not start again when a chain is rebuilt. `body_limit` (bytes)
    is that of routes without one.
    """

    registry: Registry
    threads_per_blocking_policy: int = BLOCKING_THREADS
    construction_seconds: float = CONSTRUCTION_SECONDS
    tracing: Tracing | None = None
    decisions: Decisions | None = None
    statistics: dict[tuple[str, str, str], PolicyStatistics] = field(default_factory=dict)
    helpers: Helpers = field(default_factory=Helpers)
    body_limit: int = BODY_LIMIT
    _pools: dict[tuple[str, str], BlockingPool] = field(default_factory=dict)

    def compile(self, spec: ChainsSpec, previous: Snapshot | None = None) -> Snapshot:
        """Return a snapshot for `spec`; chains whose content did not change are taken over from `previous` as they are.

        Raises CompileError (and closes what it had built) when one chain cannot be built; nothing active changes.
        """
        for one, other in ties(route.route_key for route in spec.routes if is_pattern(route.route_key)):
            raise CompileError(
                f"the route keys {one!r} and {other!r} match the same keys and are equally specific; make one longer"
            )
        chains: dict[str, CompiledChain] = {}
        built: list[CompiledChain] = []
        total = hashlib.sha256()
        try:
            for route in sorted(spec.routes, key=lambda one: one.route_key):
                digest = route.content_hash()
                total.update(f"{route.route_key}\0{digest}\n".encode())
                kept = previous.chains.get(route.route_key) if previous is not None else None
                if kept is None or kept.content_hash != digest:
                    kept = self._chain(route, digest)
                    built.append(kept)
                chains[route.route_key] = kept
        except Exception:
            for chain in built:
                for instance in chain.instances:
                    give_up(instance, chain.route_key)
            raise
        return Snapshot(version=total.hexdigest()[:16], chains=chains)

    def close(self) -> None:
        """Stop the thread pools and the helper processes."""
        self.helpers.close()
        for pool in self._pools.values():
            pool.close()

    def assemble(
        self,
        route_key: str,
        content_hash: str,
        entries: Sequence[Entry],
        errors: ErrorAnswers | None = None,
        *,
        body_limit: int | None = None,
        unmapped: Unmapped | None = None,
    ) -> CompiledChain:
        """Return the chain of these entries: which hooks run in which phase, and what Envoy has to send for them."""
        limit = self.body_limit if body_limit is None else body_limit
        # What the engine does itself takes no time that Envoy would have to wait for.
        own = [one for one in entries if not isinstance(one.instance, Verdict)]
        needs = needs_of([Part(type(one.instance), one.phases, one.timeout, one.asked, one.shadow) for one in own])
        backwards = entries[::-1]
        return CompiledChain(
            route_key=route_key,
            content_hash=content_hash,
            policies=tuple((entry.name, entry.version) for entry in entries),
            instances=tuple(entry.instance for entry in entries),
            needs=needs,
            request_headers=self._steps(entries, ON_REQUEST_HEADERS),
            request_body=self._whole_body_steps(entries, ON_REQUEST_BODY, _whole_request),
            request_chunks=self._chunk_steps(entries, ON_REQUEST_BODY, needs.request_body, limit),
            request_trailers=self._steps(entries, ON_REQUEST_TRAILERS),
            response_headers=self._steps(backwards, ON_RESPONSE_HEADERS),
            response_body=self._whole_body_steps(backwards, ON_RESPONSE_BODY, _whole_response),
            response_chunks=self._chunk_steps(backwards, ON_RESPONSE_BODY, needs.response_body, limit),
            response_trailers=self._steps(backwards, ON_RESPONSE_TRAILERS),
            stream_end=tuple(
                entry.instance.on_stream_end
                if entry.apart is None
                else entry.apart.at_end(entry.instance.on_stream_end)
                for entry in entries
                if type(entry.instance).on_stream_end is not Policy.on_stream_end
            ),
            body_limit=body_limit,
            unmapped=unmapped,
            errors=errors,
        )

    def _chain(self, route: RouteSpec, digest: str) -> CompiledChain:
        entries: list[Entry] = []
        try:
            for group, specs in groupby(enumerate(route.policies), key=lambda one: one[1].any_of):
                enabled = [(index, spec) for index, spec in specs if spec.enabled]
                if group is not None and enabled:
                    self._add_group(route, group, enabled, entries)
                for index, spec in enabled if group is None else ():
                    entries.append(self._entry(route, index, spec, len(entries)))
            assembled = self.assemble(
                route.route_key,
                digest,
                entries,
                route.errors,
                body_limit=route.body_limit,
                unmapped=route.unmapped,
            )
            secrets = frozenset[str]().union(*(spec.secret_texts() for spec in route.policies))
            return replace(assembled, secrets=secrets)
        except Exception:
            for entry in entries:
                give_up(entry.instance, route.route_key)
            raise

    def _add_group(
        self, route: RouteSpec, spec: AnyOf, members: Sequence[tuple[int, PolicySpec]], entries: list[Entry]
    ) -> None:
        """Add the alternatives of a group, and after them the step that answers when none of them let a request in."""
        condition = _compiled_condition(spec.condition, phase_has_response=False) if spec.condition else None
        group = Group(condition if spec.share is None else InShare(spec.share, any_of.NAME, condition))
        for index, member in members:
            entry = self._entry(route, index, member, len(entries))
            way = Alternative(group, entry.condition)
            entries.append(replace(entry, condition=way, way=way))
        entries.append(
            Entry(
                len(entries),
                any_of.NAME,
                "",
                Verdict(group),
                phases_of(Verdict),
                self._statistics(route.route_key, any_of.NAME, ""),
                group,
                shadow=entries[-1].shadow,
            )
        )

    def _entry(self, route: RouteSpec, index: int, spec: PolicySpec, place: int) -> Entry:
        """Return the entry that `spec`, the one with `index` as written, makes at `place` of the compiled chain."""
        where = f"route {route.route_key!r}, policy {index} ({spec.name} {spec.version})"
        try:
            definition = self.registry.resolve(spec.name, spec.version)
            runs_on_request = bool(definition.phases & REQUEST_PHASES)
            condition = (
                _compiled_condition(spec.condition, phase_has_response=not runs_on_request)
                if spec.condition is not None
                else None
            )
            if spec.share is not None:
                condition = InShare(spec.share, spec.name, condition)
            instance = construct(definition.policy_class, spec.parameters, self.construction_seconds)
            self._bind(instance, definition, spec)
        except Overrun as error:
            raise CompileError(f"{where}: its constructor {error}") from None
        except (Exception, SystemExit) as error:
            raise CompileError(f"{where}: {error}") from error
        name, version = definition.name, str(definition.version)
        shadow = spec.mode is Mode.SHADOW
        return Entry(
            place,
            name,
            version,
            instance,
            active_phases(instance, definition.phases),
            self._statistics(route.route_key, name, version),
            condition,
            spec.timeout,
            spec.failure_mode is FailureMode.OPEN or shadow,
            asked=asked_of(definition, (*spec.expressions, *expressions_in(spec.parameters))),
            shadow=shadow,
            apart=Apart() if shadow else None,
        )

    def _statistics(self, route_key: str, name: str, version: str) -> PolicyStatistics:
        return self.statistics.setdefault((route_key, name, version), PolicyStatistics(route_key, name, version))

    def _bind(self, instance: Policy, definition: PolicyDefinition, spec: PolicySpec) -> None:
        """Let the instance offload work; one whose class came from no directory cannot be made again elsewhere."""
        if isinstance(definition.source, Path):
            label = f"{definition.name}_{definition.version}"
            recipe = Recipe.of(str(definition.source), definition.entrypoint, label, spec.parameters)
            instance._away = Away(self.helpers, recipe, instance, spec.timeout)

    def _steps(self, entries: Sequence[Entry], hook: Hook) -> tuple[Step, ...]:
        return tuple(
            self._step(entry, hook, hook, getattr(entry.instance, hook.name))
            for entry in entries
            if hook.phase in entry.phases and hook.overridden_by(type(entry.instance))
        )

    def _chunk_steps(self, entries: Sequence[Entry], whole: Hook, mode: BodyMode, limit: int) -> tuple[Step, ...]:
        """Return the steps for a body that comes in pieces; what is in shadow and needs it whole collects it."""
        if mode in (BodyMode.NONE, BodyMode.BUFFERED):
            return ()
        hook, steps = chunk_hook(whole.phase), []
        for entry in entries:
            if hook.phase not in entry.phases:
                continue
            if hook.overridden_by(type(entry.instance)):
                steps.append(self._step(entry, hook, hook, getattr(entry.instance, hook.name)))
            else:
                call = collecting(getattr(entry.instance, whole.name), limit)
                steps.append(self._step(entry, whole, whole, call))
        return tuple(steps)

    def _whole_body_steps(
        self, entries: Sequence[Entry], hook: Hook, of_chunks: Callable[[Policy], Callable[..., Any]]
    ) -> tuple[Step, ...]:
        """Return the steps for a whole body; a policy that can only stream gets it as its one, last chunk."""
        steps = []
        for entry in entries:
            if hook.phase not in entry.phases:
                continue
            if hook.overridden_by(type(entry.instance)):
                steps.append(self._step(entry, hook, hook, getattr(entry.instance, hook.name)))
            else:
                steps.append(self._step(entry, hook, chunk_hook(hook.phase), of_chunks(entry.instance)))
        return tuple(steps)

    def _step(self, entry: Entry, hook: Hook, method: Hook, call: Callable[..., Any]) -> Step:
        """Return the step that stands for `hook` in its phase and calls the policy's `method`."""
        instance = entry.instance
        call = constant_hook(instance, hook) or call
        if type(instance).blocking:
            call = self._pool(entry.name, entry.version).wrap(call)
        if self.tracing is not None:
            call = self.tracing.around(call, entry.name, entry.version, hook.name)
        if entry.apart is not None:
            call = entry.apart.hook(call)
        return Step(
            policy=entry.name,
            version=entry.version,
            entry=entry.index,
            method=method.name,
            hook=call,
            accepts=hook.accepts,
            condition=self._explained(entry),
            timeout=entry.timeout,
            fails_open=entry.fails_open,
            failure_response=ImmediateResponse(
                type(instance).failure_status, details=f"policy_failed:{entry.name}_{entry.version}"
            ),
            statistics=entry.statistics,
            on_failure=entry.on_failure,
            decisions=self.decisions,
            shadow=entry.shadow,
            way=entry.way,
        )

    def _explained(self, entry: Entry) -> Condition | None:
        if self.tracing is None or entry.condition is None:
            return entry.condition
        return self.tracing.explained(entry.condition, entry.name, entry.version)

    def _pool(self, name: str, version: str) -> BlockingPool:
        key = (name, version)
        if key not in self._pools:
            self._pools[key] = BlockingPool(f"{name}-{version}", threads=self.threads_per_blocking_policy)
        return self._pools[key]


def asked_of(definition: PolicyDefinition, expressions: Iterable[str]) -> Asked:
    """Return what Envoy has to tell for an entry: what its policy declares and what its CEL expressions look up."""
    return Asked(definition.request_attributes, definition.forwarding_namespaces) | asked_by(expressions)


def active_phases(instance: Policy, declared: Set[Phase]) -> frozenset[Phase]:
    """Return the phases in which the instance has work: declared, with a hook, and not idle by its parameters."""
    idle = instance.idle_phases
    return frozenset(phase for phase in declared & phases_of(type(instance)) if phase not in idle)


@lru_cache(maxsize=4096)
def _compiled_condition(text: str, *, phase_has_response: bool) -> Condition:
    """Compile a condition once for all entries that have it: they are immutable, and take 5 KB each."""
    return compile_condition(text, phase_has_response=phase_has_response)


def _whole_request(policy: Policy) -> Callable[..., Any]:
    def whole(request: Request) -> Any:
        result = policy.on_request_chunk(request, Chunk(request.body or b"", end=True))
        return _of_whole(result, ON_REQUEST_CHUNK, RequestMutation)

    return whole


def _whole_response(policy: Policy) -> Callable[..., Any]:
    def whole(request: Request, response: Response) -> Any:
        result = policy.on_response_chunk(request, response, Chunk(response.body or b"", end=True))
        return _of_whole(result, ON_RESPONSE_CHUNK, ResponseMutation)

    return whole


def _of_whole(result: Any, hook: Hook, mutation: type[RequestMutation] | type[ResponseMutation]) -> Any:
    """Translate a chunk hook's result into that of a body hook, now or when it is awaited.

    What the hook may not return for a chunk it may not return here either: how a body comes is not the policy's choice.
    """
    kind = type(result)
    if kind is ChunkMutation:
        check_action(result)
        return mutation(body=result.data)
    if result is None or kind in hook.accepts:
        return result
    if not hasattr(result, "__await__"):
        raise WrongKind(result, hook.accepts)

    async def later() -> Any:
        return _of_whole(await result, hook, mutation)

    return later()


def retire(old: Mapping[str, CompiledChain], new: Mapping[str, CompiledChain]) -> tuple[CompiledChain, ...]:
    """Mark the chains of `old` that `new` does not carry on; returns those that no stream uses, to be closed now.

    The others are closed by the stream that ends last on them, so that a request in flight keeps its chain.
    """
    kept = {id(chain) for chain in new.values()}
    idle = []
    for chain in old.values():
        if id(chain) not in kept:
            chain.usage.retired = True
            if chain.usage.streams == 0:
                idle.append(chain)
    return tuple(idle)
