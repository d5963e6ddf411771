"""The one table of hooks: which phase each belongs to, and what it may return.

A separate module because loader, compiler, test kit, builder and control plane all need it and none of them may say
something else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from policy_engine.sdk.actions import (
    ChunkMutation,
    ImmediateResponse,
    RequestMutation,
    ResponseMutation,
    TrailerMutation,
)
from policy_engine.sdk.policy import Policy


class Phase(StrEnum):
    """A part of the exchange a policy can take part in, named as in `policy.yaml`."""

    REQUEST_HEADERS = "request_headers"
    REQUEST_BODY = "request_body"
    REQUEST_TRAILERS = "request_trailers"
    RESPONSE_HEADERS = "response_headers"
    RESPONSE_BODY = "response_body"
    RESPONSE_TRAILERS = "response_trailers"


@dataclass(frozen=True, slots=True)
class Hook:
    """A method of `Policy` that the engine calls in `phase`.

    `accepts` are the types of action it may return beside None, exactly these and no subclasses. `streams` tells that
    it takes a body piece by piece.
    """

    name: str
    phase: Phase
    accepts: frozenset[type]
    streams: bool = False

    def overridden_by(self, policy_class: type[Policy]) -> bool:
        """Return whether `policy_class` has this hook."""
        return getattr(policy_class, self.name) is not getattr(Policy, self.name)


_REQUEST = frozenset({RequestMutation, ImmediateResponse})
_RESPONSE = frozenset({ResponseMutation, ImmediateResponse})
_TRAILERS = frozenset({TrailerMutation})

ON_REQUEST_HEADERS = Hook("on_request_headers", Phase.REQUEST_HEADERS, _REQUEST)
ON_REQUEST_BODY = Hook("on_request_body", Phase.REQUEST_BODY, _REQUEST)
ON_REQUEST_CHUNK = Hook(
    "on_request_chunk", Phase.REQUEST_BODY, frozenset({ChunkMutation, ImmediateResponse}), streams=True
)
ON_REQUEST_TRAILERS = Hook("on_request_trailers", Phase.REQUEST_TRAILERS, _TRAILERS)
ON_RESPONSE_HEADERS = Hook("on_response_headers", Phase.RESPONSE_HEADERS, _RESPONSE)
ON_RESPONSE_BODY = Hook("on_response_body", Phase.RESPONSE_BODY, _RESPONSE)
# The client has the headers by then, so there is no immediate response any more.
ON_RESPONSE_CHUNK = Hook("on_response_chunk", Phase.RESPONSE_BODY, frozenset({ChunkMutation}), streams=True)
ON_RESPONSE_TRAILERS = Hook("on_response_trailers", Phase.RESPONSE_TRAILERS, _TRAILERS)

HOOKS = (
    ON_REQUEST_HEADERS,
    ON_REQUEST_BODY,
    ON_REQUEST_CHUNK,
    ON_REQUEST_TRAILERS,
    ON_RESPONSE_HEADERS,
    ON_RESPONSE_BODY,
    ON_RESPONSE_CHUNK,
    ON_RESPONSE_TRAILERS,
)
"""Every hook, in the order of an exchange."""

REQUEST_PHASES = frozenset(phase for phase in Phase if phase.value.startswith("request_"))
"""Phases that run before there is a response."""


def names_of(phase: Phase) -> tuple[str, ...]:
    """Return the names of the hooks that make a policy part of `phase`; one of them is enough."""
    return tuple(hook.name for hook in HOOKS if hook.phase is phase)


def phases_of(policy_class: type[Policy]) -> frozenset[Phase]:
    """Return the phases that `policy_class` has hooks for."""
    return frozenset(hook.phase for hook in HOOKS if hook.overridden_by(policy_class))


def chunk_hook(phase: Phase) -> Hook:
    """Return the hook that takes the body of `phase` piece by piece; raises KeyError for a phase without a body."""
    return _CHUNK_HOOKS[phase]


_CHUNK_HOOKS: dict[Phase, Hook] = {hook.phase: hook for hook in HOOKS if hook.streams}


def all_stream(readers: Iterable[type[Policy]], phase: Phase) -> bool:
    """Return whether each of the policies that read the body of `phase` can take it piece by piece."""
    return all(_CHUNK_HOOKS[phase].overridden_by(reader) for reader in readers)
