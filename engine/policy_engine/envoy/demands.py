"""What an engine's settings and chains demand of the Envoy in front of it.

A separate module because the generator writes these demands down and the lint looks for them: both must mean the same.
The processing modes are the kernel's own decision, asked for here and made there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

from policy_engine.kernel.reply import ProcessingMode
from policy_engine.kernel.route_key import SOURCE_ADDRESS, RouteKey
from policy_engine.kernel.routes import configured_mode
from policy_engine.settings.forms import WORKER_PLACE
from policy_engine.settings.model import Settings, UnmappedRoutes
from policy_engine.settings.route_key import route_key_of
from policy_engine.settings.usable_cores import usable_cores
from policy_engine.worker.chains.closing import close_chains
from policy_engine.worker.chains.compiled import CompiledChain
from policy_engine.worker.chains.compiler import Compiler
from policy_engine.worker.chains.needs import NOTHING_ASKED, Asked
from policy_engine.worker.chains.spec import ChainsSpec, FailureMode, Mode, RouteSpec
from policy_engine.worker.policies.registry import Registry

REQUESTS_IN_FLIGHT = 10_000
"""Requests one engine has to carry at once (R-14); whatever bounds them in Envoy must lie above."""

LONGEST_MESSAGE_TIMEOUT = 3600.0
"""Seconds; the most that Envoy takes for `message_timeout`."""

_TIMEOUT_MARGIN = 1.0
_IDLE = 60.0
_BUFFER_ALLOWANCE = 64 << 10

Modes = Mapping[str, str]
"""A `ProcessingMode` by field, with the names of its values."""


@dataclass(frozen=True, slots=True)
class ChainDemand:
    """What the chain of one route needs.

    `runs` is False for a chain without enabled policies. `slowest_answer` is in seconds: what one answer takes when
    every policy takes its whole timeout.
    """

    route_key: str
    runs: bool
    modes: Modes
    slowest_answer: float
    fails_closed: bool
    acts_on_request: bool
    asked: Asked = NOTHING_ASKED

    @property
    def buffers(self) -> bool:
        """Whether Envoy has to hold a whole body."""
        return "BUFFERED" in self.modes.values()


@dataclass(frozen=True, slots=True)
class Demands:
    """What everything together needs. `body_limit` and `envoy_buffer_limit` (None for no such setting) are in bytes,
    `addresses` are as in the setting `listen`. `unmapped` are route keys of the configuration that say what becomes of
    keys without a chain.
    """

    chains: Mapping[str, ChainDemand]
    body_limit: int
    route_key: RouteKey
    pass_unmapped: bool
    addresses: tuple[str, ...]
    tls: bool
    asked: Asked = NOTHING_ASKED
    unmapped: frozenset[str] = frozenset()
    envoy_buffer_limit: int | None = None

    @property
    def request_attributes(self) -> tuple[str, ...]:
        """The attributes that Envoy has to send, those of the route key and of the client's address first."""
        return request_attributes(self.route_key.attributes, self.asked)

    @property
    def slowest_answer(self) -> float:
        """Seconds that the slowest answer of the slowest chain may take."""
        return max((chain.slowest_answer for chain in self.chains.values()), default=0.0)

    @property
    def message_timeout(self) -> float:
        """Seconds Envoy should wait for one answer: longer than the engine's own timeouts, so that those decide."""
        return message_timeout_for(self.slowest_answer)

    @property
    def longest_idle(self) -> float:
        """Seconds without progress after which Envoy should end a request: a minute more than the engine may take."""
        return self.message_timeout + _IDLE

    @property
    def buffer_limit(self) -> int:
        """Bytes Envoy should hold: a little more than the engine takes, so that the engine is what refuses (R-09)."""
        return buffer_limit_for(self.body_limit)


def message_timeout_for(slowest_answer: float) -> float:
    """Return the seconds Envoy should wait for an answer of a chain whose slowest may take `slowest_answer`."""
    return min(slowest_answer + _TIMEOUT_MARGIN, LONGEST_MESSAGE_TIMEOUT)


def buffer_limit_for(body_limit: int) -> int:
    """Return the bytes Envoy should hold for an engine that takes bodies of `body_limit` bytes."""
    return body_limit + _BUFFER_ALLOWANCE


def demands_of(settings: Settings, spec: ChainsSpec, registry: Registry) -> Demands:
    """Return what `spec` needs; its policies are constructed for it, as an engine would, and closed again.

    Raises CompileError when a chain cannot be built.
    """
    compiler = Compiler(registry, construction_seconds=settings.construction_timeout)
    try:
        compiled = compiler.compile(spec).chains
        # A route of Envoy whose key counts as unmapped must not have the filter switched off.
        chains = {
            route.route_key: _demand(route, compiled[route.route_key])
            for route in spec.routes
            if route.unmapped is None
        }
        close_chains(compiled.values())
    finally:
        compiler.close()
    return Demands(
        chains,
        settings.body_limit,
        route_key_of(settings.route_key),
        settings.unmapped_routes is UnmappedRoutes.PASS,
        _addresses(settings),
        settings.tls.cert is not None,
        reduce(or_, (chain.asked for chain in chains.values()), NOTHING_ASKED),
        frozenset(route.route_key for route in spec.routes if route.unmapped is not None),
        settings.envoy_buffer_limit,
    )


def request_attributes(route_key: Sequence[str], asked: Asked) -> tuple[str, ...]:
    """Return the filter's `request_attributes`: those of the route key, that of the client's address, what is asked."""
    always = (*route_key, SOURCE_ADDRESS)
    return (*always, *sorted(asked.attributes.difference(always)))


def mode_names(mode: Any) -> Modes:
    """Return a `ProcessingMode` as Envoy's YAML writes it."""
    headers, bodies = ProcessingMode.HeaderSendMode.Name, ProcessingMode.BodySendMode.Name
    return {
        field.name: (bodies if "_body_" in field.name else headers)(getattr(mode, field.name))
        for field in mode.DESCRIPTOR.fields
    }


def _demand(route: RouteSpec, chain: CompiledChain) -> ChainDemand:
    needs = chain.needs
    return ChainDemand(
        route_key=route.route_key,
        runs=bool(chain.policies),
        modes=mode_names(configured_mode(needs)),
        slowest_answer=needs.slowest_answer,
        fails_closed=any(
            one.enabled and one.failure_mode is FailureMode.CLOSED and one.mode is Mode.ENFORCE
            for one in route.policies
        ),
        acts_on_request=any((chain.request_headers, chain.request_body, chain.request_trailers)),
        asked=needs.asked,
    )


def _addresses(settings: Settings) -> tuple[str, ...]:
    workers = settings.workers if isinstance(settings.workers, int) else usable_cores()
    found = []
    for address in settings.listen:
        numbers = range(workers) if WORKER_PLACE in address else (0,)
        found += [address.replace(WORKER_PLACE, str(number)) for number in numbers]
    return tuple(found)
