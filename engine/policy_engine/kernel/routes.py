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
from policy_engine.kernel.sides import Side, first_closed, request_side, response_side
from policy_engine.worker.chains.compiled import CompiledChain, Snapshot, Step
from policy_engine.worker.chains.needs import BodyMode, Needs

_FULL_DUPLEX = ProcessingMode.FULL_DUPLEX_STREAMED

StaticModes = tuple[int, int]
"""Body modes of request and response in Envoy's own configuration, from `ProtocolConfiguration`."""

STREAMING_ALLOWED: StaticModes = (_FULL_DUPLEX, _FULL_DUPLEX)
"""What Envoy's configuration has to say for every chain that can stream to be streamed."""


@dataclass(frozen=True, slots=True, eq=False)
class Modes:
    """What one chain asks of Envoy under one static configuration, and how its bodies will arrive.

    `guard` is the first policy of the response body that fails closed, `probe` what is asked in doubt; see `promises`.
    `endless` is what is asked where bodies do not end, None for a chain that needs none whole; `needs_end` is whether
    policies that fail closed do.
    """

    request: Side
    response: Side
    skips_response_headers: bool
    guard: Step | None = None
    probe: Modes | None = None
    endless: Modes | None = None
    needs_end: bool = False


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
    modes = _asked(chain, static)
    whole = [side for side in (modes.request, modes.response) if side.whole]
    if not whole:
        return modes
    return replace(
        modes,
        endless=_asked(_without_whole_bodies(chain, modes), static),
        needs_end=any(first_closed(side.on_body) is not None for side in whole),
    )


def _without_whole_bodies(chain: CompiledChain, modes: Modes) -> CompiledChain:
    """Return `chain` without the policies of bodies that it needs whole under `modes`."""
    if modes.request.whole:
        needs = replace(chain.needs, request_body=BodyMode.NONE, request_trailers=bool(chain.request_trailers))
        chain = replace(chain, needs=needs, request_body=(), request_chunks=())
    if modes.response.whole:
        needs = replace(chain.needs, response_body=BodyMode.NONE, response_trailers=bool(chain.response_trailers))
        chain = replace(chain, needs=needs, response_body=(), response_chunks=())
    return chain


def _asked(chain: CompiledChain, static: StaticModes) -> Modes:
    if _FULL_DUPLEX in static:
        return _given(chain, static)
    mode = processing_mode(chain.needs, static)
    modes = _asking(chain, mode, static)
    if not modes.response.by_override:
        return modes
    modes = replace(modes, guard=first_closed(chain.response_body))
    if modes.guard is None or chain.response_headers:
        return modes
    mode.response_header_mode = ProcessingMode.SKIP
    return replace(modes, probe=replace(_asking(chain, mode, static), guard=modes.guard))


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


def _asking(chain: CompiledChain, mode: Any, static: StaticModes) -> Modes:
    return Modes(
        request_side(chain, mode.request_body_mode, static[0], mode_override(mode)),
        response_side(chain, mode.response_body_mode, static[1]),
        skips_response_headers=mode.response_header_mode == ProcessingMode.SKIP,
    )


def processing_mode(needs: Needs, static: StaticModes) -> Any:
    """Return the `ProcessingMode` for a chain with these needs under the `static` body modes of Envoy's configuration.

    With `STREAMING_ALLOWED` it is what Envoy's configuration for the chain's route should be (R-08).
    """
    return ProcessingMode(
        request_header_mode=ProcessingMode.SEND,
        response_header_mode=_send(needs.response_headers),
        request_body_mode=_body_mode(needs.request_body, static[0]),
        response_body_mode=_body_mode(needs.response_body, static[1]),
        request_trailer_mode=_send(needs.request_trailers),
        response_trailer_mode=_send(needs.response_trailers),
    )


def _body_mode(needed: BodyMode, static: int) -> Any:
    """Return the mode Envoy shall use. Streaming cannot be switched on by an override, only used where it is set."""
    if needed is BodyMode.NONE:
        return ProcessingMode.NONE
    if needed is BodyMode.STREAMED and static in STREAMING:
        return static
    return ProcessingMode.BUFFERED


def _send(wanted: bool) -> Any:
    return ProcessingMode.SEND if wanted else ProcessingMode.SKIP


class Routes:
    """Every route of one snapshot by its key; immutable once made."""

    __slots__ = ("_nearest", "_routes", "snapshot")

    def __init__(self, snapshot: Snapshot, counters: dict[str, RequestCounter], previous: Routes | None = None) -> None:
        self.snapshot = snapshot
        routes: dict[str, Route] = {}
        for key, chain in snapshot.chains.items():
            kept = previous.get(key) if previous is not None else None
            if kept is None or kept.chain is not chain:
                kept = Route(chain, counters.setdefault(key, RequestCounter()))
            routes[key] = kept
        self._routes: Mapping[str, Route] = routes
        self._nearest: NearestNames | None = None

    def get(self, key: str) -> Route | None:
        """Return the route of `key`, or None when the configuration has none."""
        return self._routes.get(key)

    def nearest(self, key: str) -> Sequence[str]:
        """Return up to three known keys that look like `key`, for the log of a denied request (R-07)."""
        if self._nearest is None:
            self._nearest = NearestNames(self._routes)
        return self._nearest.of(key)
