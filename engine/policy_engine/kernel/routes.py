"""Routes as the kernel serves them: a compiled chain plus every reply that is known before a request comes.

A separate module because these bytes are made once per configuration and read by every session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from policy_engine.kernel.nearest_names import NearestNames
from policy_engine.kernel.outer_policies import OuterSteps
from policy_engine.kernel.reply import STREAMING, ProcessingMode, mode_override
from policy_engine.kernel.sides import (
    GATHERED,
    OBSERVED,
    ConstantHeaders,
    Side,
    first_closed,
    is_observed,
    request_side,
    response_side,
)
from policy_engine.worker.chains.compiled import CompiledChain, Snapshot, Step
from policy_engine.worker.chains.needs import BodyMode, Needs
from policy_engine.worker.chains.route_patterns import RoutePatterns, is_pattern

_FULL_DUPLEX = ProcessingMode.FULL_DUPLEX_STREAMED
_NONE = int(ProcessingMode.NONE)
_MOST_REMEMBERED = 8192
_LONGEST_REMEMBERED = 1024

StaticModes = tuple[int, int]
"""Body modes of request and response in Envoy's own configuration, from `ProtocolConfiguration`."""


@dataclass(frozen=True, slots=True, eq=False)
class Modes:
    """What one chain asks of Envoy under one static configuration, and how its bodies will arrive.

    `guard` is the first policy of the response body that fails closed, `probe` what is asked in doubt; see `promises`.
    `endless` is what is asked where bodies do not end, None for a chain that needs none whole; `needs_end` is whether
    policies that fail closed do. `observed_request` and `observed_response` take the place of these modes when the
    headers of a side have come whose body only shadows read: the modes by what its length allows. `constant` is what
    becomes of both sides' headers where that is known before a request comes, and nothing else is looked at.
    """

    request: Side
    response: Side
    skips_response_headers: bool
    guard: Step | None = None
    probe: Modes | None = None
    endless: Modes | None = None
    needs_end: bool = False
    observed_request: Mapping[int, Modes] | None = None
    observed_response: Mapping[int, Modes] | None = None
    constant: tuple[ConstantHeaders, ConstantHeaders] | None = field(init=False)

    def __post_init__(self) -> None:
        """Work out once whether requests differ at all."""
        sides = (self.request, self.response)
        request, response = (side.constant for side in sides)
        constant = None
        if request is not None and response is not None and not any(side.reads or side.on_trailers for side in sides):
            constant = request, response
        object.__setattr__(self, "constant", constant)


@dataclass(slots=True, eq=False)
class RequestCounter:
    """Requests of one route key; outlives snapshots."""

    value: int = 0


@dataclass(slots=True, eq=False)
class Route:
    """One route key's chain with its replies."""

    chain: CompiledChain
    requests: RequestCounter
    modes: dict[StaticModes, Modes] = field(default_factory=dict)
    outer: dict[int, OuterSteps | None] = field(default_factory=dict)
    ends_without_body: int = 0
    warned: set[str] = field(default_factory=set)

    def modes_for(self, static: StaticModes) -> Modes:
        """Return the modes under Envoy's `static` body modes, worked out once for each (R-08)."""
        modes = self.modes.get(static)
        if modes is None:
            modes = self.modes[static] = _modes(self.chain, static)
        return modes

    def outer_steps(self, before: int) -> OuterSteps | None:
        """Return what of the chain sees an answer that was given at place `before`, None when nothing does."""
        if before in self.outer:
            return self.outer[before]
        chain = self.chain
        headers, body = (
            tuple(step for step in steps if step.entry < before)
            for steps in (chain.response_headers, chain.response_body)
        )
        steps = self.outer[before] = OuterSteps(headers, body) if headers or body else None
        return steps


def _modes(chain: CompiledChain, static: StaticModes) -> Modes:
    if _FULL_DUPLEX in static:
        return _given_modes(chain, static)
    mode = processing_mode(chain.needs, static)
    modes = _asked(chain, mode, static)
    whole = [side for side in (modes.request, modes.response) if side.body_mode in GATHERED]
    if whole or mode.response_body_mode in GATHERED:
        without = _without_whole_bodies(chain, mode)
        modes = replace(
            modes,
            endless=_asked(without, processing_mode(without.needs, static), static),
            needs_end=any(first_closed(side.on_body) is not None for side in whole),
        )
    if is_observed(chain.needs.request_body, mode.request_body_mode):
        variants = {one: _asked(chain, _with(mode, request_body_mode=one), static) for one in (_NONE, *GATHERED)}
        modes = replace(modes, observed_request=variants)
    return modes


def _without_whole_bodies(chain: CompiledChain, mode: Any) -> CompiledChain:
    """Return `chain` without the policies of bodies that it needs whole under `mode`."""
    return _without_bodies(
        chain, request=mode.request_body_mode in GATHERED, response=mode.response_body_mode in GATHERED
    )


def _without_bodies(chain: CompiledChain, *, request: bool, response: bool) -> CompiledChain:
    """Return `chain` without the policies of the bodies of these sides."""
    if request:
        needs = replace(chain.needs, request_body=BodyMode.NONE, request_trailers=bool(chain.request_trailers))
        chain = replace(chain, needs=needs, request_body=(), request_chunks=())
    if response:
        needs = replace(chain.needs, response_body=BodyMode.NONE, response_trailers=bool(chain.response_trailers))
        chain = replace(chain, needs=needs, response_body=(), response_chunks=())
    return chain


def _given_modes(chain: CompiledChain, static: StaticModes) -> Modes:
    """Return the modes where Envoy's own hold for every phase; shadows see no body that they would hold up.

    Those that take it in pieces hold up nothing.
    """
    needs = chain.needs
    chain = _without_bodies(
        chain,
        request=needs.request_body is BodyMode.OBSERVED and static[0] not in GATHERED,
        response=needs.response_body is BodyMode.OBSERVED and static[1] not in GATHERED,
    )
    modes = _given(chain, static)
    whole = [side for side in (modes.request, modes.response) if side.whole]
    if not whole:
        return modes
    without = _without_bodies(chain, request=modes.request.whole, response=modes.response.whole)
    needs_end = any(first_closed(side.on_body) is not None for side in whole)
    return replace(modes, endless=_given(without, static), needs_end=needs_end)


def _given(chain: CompiledChain, static: StaticModes) -> Modes:
    """Return what is made of Envoy's own modes: with full duplex on one side, Envoy takes no override for any phase.

    (ext_proc.proto, `mode_override`; shown by `runtime_full_duplex_test`.)
    """
    response = response_side(chain, static[1], static[1])
    return Modes(
        request_side(chain, static[0], static[0], b""),
        response,
        skips_response_headers=False,
        guard=first_closed(response.on_body),
    )


def _asked(chain: CompiledChain, mode: Any, static: StaticModes) -> Modes:
    if is_observed(chain.needs.response_body, mode.response_body_mode):
        return _asked_at_the_response(chain, mode, static)
    modes = _asking(chain, mode, static)
    if not modes.response.by_override:
        return modes
    modes = replace(modes, guard=first_closed(chain.response_body))
    if modes.guard is None or chain.response_headers:
        return modes
    without_headers = _with(mode, response_header_mode=ProcessingMode.SKIP)
    return replace(modes, probe=replace(_asking(chain, without_headers, static), guard=modes.guard))


def _asked_at_the_response(chain: CompiledChain, mode: Any, static: StaticModes) -> Modes:
    """Return modes that ask for the response's body when its headers have come: only they tell its length."""
    modes = _asking(chain, _with(mode, response_body_mode=_NONE), static)
    sides = {
        one: response_side(chain, one, static[1], mode_override(_with(mode, response_body_mode=one)))
        for one in (_NONE, *GATHERED)
    }
    return replace(modes, observed_response={one: replace(modes, response=side) for one, side in sides.items()})


def _asking(chain: CompiledChain, mode: Any, static: StaticModes) -> Modes:
    return Modes(
        request_side(chain, mode.request_body_mode, static[0], mode_override(mode)),
        response_side(chain, mode.response_body_mode, static[1]),
        skips_response_headers=mode.response_header_mode == ProcessingMode.SKIP,
    )


def _with(mode: Any, **changes: Any) -> Any:
    changed = ProcessingMode()
    changed.CopyFrom(mode)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def processing_mode(needs: Needs, static: StaticModes) -> Any:
    """Return the `ProcessingMode` for a chain with these needs, given Envoy's own `static` body modes."""
    return _processing_mode(
        needs, _body_mode(needs.request_body, static[0]), _body_mode(needs.response_body, static[1])
    )


def configured_mode(needs: Needs) -> Any:
    """Return what the `ProcessingMode` of a chain's route should be in Envoy's own configuration (R-08)."""
    return _processing_mode(needs, _CONFIGURED[needs.request_body], _CONFIGURED[needs.response_body])


def _processing_mode(needs: Needs, request_body: Any, response_body: Any) -> Any:
    return ProcessingMode(
        request_header_mode=ProcessingMode.SEND,
        response_header_mode=_send(needs.response_headers),
        request_body_mode=request_body,
        response_body_mode=response_body,
        request_trailer_mode=_send(needs.request_trailers),
        response_trailer_mode=_send(needs.response_trailers),
    )


_CONFIGURED: Mapping[BodyMode, Any] = {
    BodyMode.NONE: ProcessingMode.NONE,
    BodyMode.BUFFERED: ProcessingMode.BUFFERED,
    BodyMode.STREAMED: _FULL_DUPLEX,
    # The engine asks when it knows the body's length: otherwise Envoy would drop the length, or answer with 413.
    BodyMode.OBSERVED: ProcessingMode.NONE,
    BodyMode.OBSERVED_IN_PIECES: _FULL_DUPLEX,
}


def _body_mode(needed: BodyMode, static: int) -> Any:
    """Return the mode Envoy shall use. Streaming cannot be switched on by an override, only used where it is set."""
    if needed is BodyMode.NONE:
        return ProcessingMode.NONE
    if needed is not BodyMode.BUFFERED and static in STREAMING:
        return static
    return ProcessingMode.BUFFERED_PARTIAL if needed in OBSERVED else ProcessingMode.BUFFERED


def _send(wanted: bool) -> Any:
    return ProcessingMode.SEND if wanted else ProcessingMode.SKIP


class Routes:
    """Every route of one snapshot by its key; immutable once made, but for what it remembers.

    A key that only a pattern matches is looked for once. What was found is remembered for `_MOST_REMEMBERED` keys; a
    flood of others costs memory no more than that, and those who come again a search.
    """

    __slots__ = ("_found", "_nearest", "_patterns", "_routes", "snapshot")

    def __init__(self, snapshot: Snapshot, counters: dict[str, RequestCounter], previous: Routes | None = None) -> None:
        self.snapshot = snapshot
        routes: dict[str, Route] = {}
        for key, chain in snapshot.chains.items():
            kept = previous._routes.get(key) if previous is not None else None
            if kept is None or kept.chain is not chain:
                kept = Route(chain, counters.setdefault(key, RequestCounter()))
            routes[key] = kept
        self._routes: Mapping[str, Route] = routes
        patterns = [key for key in routes if is_pattern(key)]
        self._patterns = RoutePatterns(patterns) if patterns else None
        self._found: dict[str, Route | None] = {}
        self._nearest: NearestNames | None = None

    def get(self, key: str) -> Route | None:
        """Return the route of `key`: its own, else that of the most specific pattern; None when there is none."""
        route = self._routes.get(key)
        if route is None and self._patterns is not None:
            try:
                return self._found[key]
            except KeyError:
                return self._find(key, self._patterns)
        return route

    def _find(self, key: str, patterns: RoutePatterns) -> Route | None:
        text = patterns.find(key)
        route = self._routes[text] if text is not None else None
        if len(key) <= _LONGEST_REMEMBERED:
            if len(self._found) >= _MOST_REMEMBERED:
                self._found.clear()
            self._found[key] = route
        return route

    def nearest(self, key: str) -> Sequence[str]:
        """Return up to three known keys that look like `key`, for the log of a denied request (R-07)."""
        if self._nearest is None:
            self._nearest = NearestNames(self._routes)
        return self._nearest.of(key)
