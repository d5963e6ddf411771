"""A chain as it runs: plain data that the compiler made once, so that a request decides nothing that was known before.

Kept apart from the compiler and the executor because both, and the kernel, read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from policy_engine.sdk import ImmediateResponse, Policy, Request, Response
from policy_engine.sdk.headers import NO_EDIT, HeaderEdit
from policy_engine.worker.chains.mark import mark_of
from policy_engine.worker.chains.statistics import PolicyStatistics


class BodyMode(Enum):
    """How much of a body a direction of a chain needs (R-08)."""

    NONE = "none"
    BUFFERED = "buffered"
    STREAMED = "streamed"


def body_mode(readers: Sequence[type[Policy]], chunk_hook: str) -> BodyMode:
    """Return the mode for a direction whose body these policies read; `chunk_hook` is what those that stream have.

    The one decision for the hooks that run, the mode Envoy is told, and the configuration written for Envoy (R-08).
    """
    if not readers:
        return BodyMode.NONE
    streams = all(getattr(reader, chunk_hook) is not getattr(Policy, chunk_hook) for reader in readers)
    return BodyMode.STREAMED if streams else BodyMode.BUFFERED


class Condition(Protocol):
    """A compiled CEL condition (R-10)."""

    def evaluate(self, request: Request, response: Response | None) -> bool:
        """Return whether the policy runs; raises ConditionError when the expression cannot be evaluated."""
        ...


@dataclass(slots=True, eq=False)
class Step:
    """One hook of one policy instance, ready to call.

    `entry` is the instance's place in the chain: a condition is decided once per stream and entry. `checked` is the
    last action object that passed `check_action` and `edit` what that gave, so that a constant action is checked once
    and not per request.
    """

    policy: str
    version: str
    entry: int
    hook: Callable[..., Any]
    accepts: frozenset[type]
    condition: Condition | None
    timeout: float
    fails_open: bool
    failure_response: ImmediateResponse
    statistics: PolicyStatistics
    checked: Any = None
    edit: HeaderEdit = NO_EDIT

    @property
    def label(self) -> str:
        """Name and version as people write them, for logs and errors."""
        return f"{self.policy} {self.version}"


@dataclass(slots=True, eq=False)
class Usage:
    """How many streams run on a chain; instances are closed when a retired chain's last stream ends (R-31)."""

    streams: int = 0
    retired: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class CompiledChain:
    """The steps of one route by phase; response steps are already in reverse order (R-02).

    `mark` is the route key as the executor notes it for whoever asks what a process was doing.
    """

    route_key: str
    content_hash: str
    policies: tuple[tuple[str, str], ...]
    instances: tuple[Policy, ...]
    request_body_mode: BodyMode
    response_body_mode: BodyMode
    request_headers: tuple[Step, ...] = ()
    request_body: tuple[Step, ...] = ()
    request_chunks: tuple[Step, ...] = ()
    request_trailers: tuple[Step, ...] = ()
    response_headers: tuple[Step, ...] = ()
    response_body: tuple[Step, ...] = ()
    response_chunks: tuple[Step, ...] = ()
    response_trailers: tuple[Step, ...] = ()
    stream_end: tuple[Callable[[Request], None], ...] = ()
    usage: Usage = field(default_factory=Usage)
    mark: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Make the mark once for all requests."""
        object.__setattr__(self, "mark", mark_of(self.route_key))


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One configuration: every chain by route key. Immutable; a new configuration is a new snapshot."""

    version: str
    chains: Mapping[str, CompiledChain]
