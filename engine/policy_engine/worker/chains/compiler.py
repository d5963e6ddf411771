"""Turns what a configuration asks for into what a request runs: instances built, conditions compiled, phases cut out.

There is one compiler for every source of configuration (file, xDS), so that both mean the same by a chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from policy_engine.sdk import (
    Chunk,
    ChunkMutation,
    ImmediateResponse,
    Policy,
    Request,
    RequestMutation,
    Response,
    ResponseMutation,
    TrailerMutation,
)
from policy_engine.worker.chains.blocking import BlockingPool
from policy_engine.worker.chains.compiled import BodyMode, CompiledChain, Condition, Snapshot, Step, body_mode
from policy_engine.worker.chains.spec import ChainsSpec, FailureMode, PolicySpec, RouteSpec
from policy_engine.worker.chains.statistics import PolicyStatistics
from policy_engine.worker.chains.tracing import Tracing
from policy_engine.worker.conditions.condition import compile_condition
from policy_engine.worker.offload.binding import Away
from policy_engine.worker.offload.helpers import Helpers
from policy_engine.worker.offload.job import Recipe
from policy_engine.worker.policies.construction import CONSTRUCTION_SECONDS, Overrun, construct
from policy_engine.worker.policies.registry import Phase, PolicyDefinition, Registry

_REQUEST = frozenset({RequestMutation, ImmediateResponse})
_RESPONSE = frozenset({ResponseMutation, ImmediateResponse})
_REQUEST_CHUNK = frozenset({ChunkMutation, ImmediateResponse})
_RESPONSE_CHUNK = frozenset({ChunkMutation})
_TRAILERS = frozenset({TrailerMutation})

_REQUEST_PHASES = frozenset({Phase.REQUEST_HEADERS, Phase.REQUEST_BODY, Phase.REQUEST_TRAILERS})


class CompileError(ValueError):
    """A chain cannot be built; the message names the route, the policy and the reason."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One enabled policy of a chain while it is being compiled."""

    index: int
    definition: PolicyDefinition
    instance: Policy
    spec: PolicySpec
    condition: Condition | None
    statistics: PolicyStatistics

    def has(self, phase: Phase) -> bool:
        return phase in self.definition.phases and phase not in self.instance.idle_phases

    def overrides(self, hook: str) -> bool:
        return getattr(type(self.instance), hook) is not getattr(Policy, hook)


@dataclass(slots=True)
class Compiler:
    """Builds chains from specs with the policies of one registry; keeps one thread pool per blocking policy version.

    `statistics` outlives snapshots, so that counters do not start again when a chain is rebuilt.
    """

    registry: Registry
    threads_per_blocking_policy: int = 8
    construction_seconds: float = CONSTRUCTION_SECONDS
    tracing: Tracing | None = None
    statistics: dict[tuple[str, str, str], PolicyStatistics] = field(default_factory=dict)
    helpers: Helpers = field(default_factory=Helpers)
    _pools: dict[tuple[str, str], BlockingPool] = field(default_factory=dict)

    def compile(self, spec: ChainsSpec, previous: Snapshot | None = None) -> Snapshot:
        """Return a snapshot for `spec`; chains whose content did not change are taken over from `previous` as they are.

        Raises CompileError (and closes what it had built) when one chain cannot be built; nothing active changes.
        """
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
                    instance.close()
            raise
        return Snapshot(version=total.hexdigest()[:16], chains=chains)

    def close(self) -> None:
        """Stop the thread pools and the helper processes."""
        self.helpers.close()
        for pool in self._pools.values():
            pool.close()

    def _chain(self, route: RouteSpec, digest: str) -> CompiledChain:
        entries: list[_Entry] = []
        try:
            for index, spec in enumerate(route.policies):
                if spec.enabled:
                    entries.append(self._entry(route, index, spec))
        except Exception:
            for entry in entries:
                entry.instance.close()
            raise
        backwards = entries[::-1]
        request_mode = _body_mode(entries, Phase.REQUEST_BODY, "on_request_chunk")
        response_mode = _body_mode(entries, Phase.RESPONSE_BODY, "on_response_chunk")
        return CompiledChain(
            route_key=route.route_key,
            content_hash=digest,
            policies=tuple((entry.definition.name, str(entry.definition.version)) for entry in entries),
            instances=tuple(entry.instance for entry in entries),
            request_body_mode=request_mode,
            response_body_mode=response_mode,
            request_headers=self._steps(entries, Phase.REQUEST_HEADERS, "on_request_headers", _REQUEST),
            request_body=self._body_steps(entries, Phase.REQUEST_BODY, _buffered_request, _REQUEST),
            request_chunks=self._steps(entries, Phase.REQUEST_BODY, "on_request_chunk", _REQUEST_CHUNK)
            if request_mode is BodyMode.STREAMED
            else (),
            request_trailers=self._steps(entries, Phase.REQUEST_TRAILERS, "on_request_trailers", _TRAILERS),
            response_headers=self._steps(backwards, Phase.RESPONSE_HEADERS, "on_response_headers", _RESPONSE),
            response_body=self._body_steps(backwards, Phase.RESPONSE_BODY, _buffered_response, _RESPONSE),
            response_chunks=self._steps(backwards, Phase.RESPONSE_BODY, "on_response_chunk", _RESPONSE_CHUNK)
            if response_mode is BodyMode.STREAMED
            else (),
            response_trailers=self._steps(backwards, Phase.RESPONSE_TRAILERS, "on_response_trailers", _TRAILERS),
            stream_end=tuple(entry.instance.on_stream_end for entry in entries if entry.overrides("on_stream_end")),
        )

    def _entry(self, route: RouteSpec, index: int, spec: PolicySpec) -> _Entry:
        where = f"route {route.route_key!r}, policy {index} ({spec.name} {spec.version})"
        try:
            definition = self.registry.resolve(spec.name, spec.version)
            runs_on_request = bool(definition.phases & _REQUEST_PHASES)
            condition = (
                _compiled_condition(spec.condition, phase_has_response=not runs_on_request)
                if spec.condition is not None
                else None
            )
            instance = construct(definition.policy_class, spec.parameters, self.construction_seconds)
            self._bind(instance, definition, spec)
        except Overrun as error:
            raise CompileError(f"{where}: its constructor {error}") from None
        except (Exception, SystemExit) as error:
            raise CompileError(f"{where}: {error}") from error
        name, version = definition.name, str(definition.version)
        statistics = self.statistics.setdefault(
            (route.route_key, name, version), PolicyStatistics(route.route_key, name, version)
        )
        return _Entry(index, definition, instance, spec, condition, statistics)

    def _bind(self, instance: Policy, definition: PolicyDefinition, spec: PolicySpec) -> None:
        """Let the instance offload work; one whose class came from no directory cannot be made again elsewhere."""
        if isinstance(definition.source, Path):
            label = f"{definition.name}_{definition.version}"
            recipe = Recipe.of(str(definition.source), definition.entrypoint, label, spec.parameters)
            instance._away = Away(self.helpers, recipe, instance, spec.timeout)

    def _steps(self, entries: list[_Entry], phase: Phase, hook: str, accepts: frozenset[type]) -> tuple[Step, ...]:
        return tuple(
            self._step(entry, getattr(entry.instance, hook), accepts, hook)
            for entry in entries
            if entry.has(phase) and entry.overrides(hook)
        )

    def _body_steps(
        self,
        entries: list[_Entry],
        phase: Phase,
        choose: Callable[[_Entry], Callable[..., Any]],
        accepts: frozenset[type],
    ) -> tuple[Step, ...]:
        name = f"on_{phase.value}"
        return tuple(self._step(entry, choose(entry), accepts, name) for entry in entries if entry.has(phase))

    def _step(self, entry: _Entry, hook: Callable[..., Any], accepts: frozenset[type], hook_name: str) -> Step:
        name, version = entry.definition.name, str(entry.definition.version)
        if type(entry.instance).blocking:
            hook = self._pool(name, version).wrap(hook)
        if self.tracing is not None:
            hook = self.tracing.around(hook, name, version, hook_name)
        return Step(
            policy=name,
            version=version,
            entry=entry.index,
            hook=hook,
            accepts=accepts,
            condition=entry.condition,
            timeout=entry.spec.timeout,
            fails_open=entry.spec.failure_mode is FailureMode.OPEN,
            failure_response=ImmediateResponse(
                type(entry.instance).failure_status, details=f"policy_failed:{name}_{version}"
            ),
            statistics=entry.statistics,
        )

    def _pool(self, name: str, version: str) -> BlockingPool:
        key = (name, version)
        if key not in self._pools:
            self._pools[key] = BlockingPool(f"{name}-{version}", threads=self.threads_per_blocking_policy)
        return self._pools[key]


@lru_cache(maxsize=4096)
def _compiled_condition(text: str, *, phase_has_response: bool) -> Condition:
    """Compile a condition once for all entries that have it: they are immutable, and take 5 KB each."""
    return compile_condition(text, phase_has_response=phase_has_response)


def _body_mode(entries: list[_Entry], phase: Phase, chunk_hook: str) -> BodyMode:
    return body_mode([type(entry.instance) for entry in entries if entry.has(phase)], chunk_hook)


def _buffered_request(entry: _Entry) -> Callable[..., Any]:
    """The hook that reads a whole request body; a policy that can only stream gets it as its one, last chunk."""
    if entry.overrides("on_request_body"):
        return entry.instance.on_request_body
    chunk_hook = entry.instance.on_request_chunk

    def whole(request: Request) -> Any:
        return _whole(chunk_hook(request, Chunk(request.body or b"", end=True)), RequestMutation)

    return whole


def _buffered_response(entry: _Entry) -> Callable[..., Any]:
    if entry.overrides("on_response_body"):
        return entry.instance.on_response_body
    chunk_hook = entry.instance.on_response_chunk

    def whole(request: Request, response: Response) -> Any:
        return _whole(chunk_hook(request, response, Chunk(response.body or b"", end=True)), ResponseMutation)

    return whole


def _whole(result: Any, mutation: type[RequestMutation] | type[ResponseMutation]) -> Any:
    """Translate a chunk hook's result into that of a body hook, now or when it is awaited."""
    if isinstance(result, ChunkMutation):
        return mutation(body=result.data)
    if result is None or isinstance(result, ImmediateResponse):
        return result
    if hasattr(result, "__await__"):

        async def later() -> Any:
            return _whole(await result, mutation)

        return later()
    return result


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
