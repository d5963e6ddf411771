"""A chain as it runs: plain data that the compiler made once, so that a request decides nothing that was known before.

Kept apart from the compiler and the executor because both, and the kernel, read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from policy_engine.sdk import Headers, ImmediateResponse, Policy, Request, Response
from policy_engine.sdk.headers import NO_EDIT, HeaderEdit
from policy_engine.worker.chains.error_answers import ErrorAnswers
from policy_engine.worker.chains.mark import mark_of
from policy_engine.worker.chains.needs import Needs
from policy_engine.worker.chains.spec import Unmapped
from policy_engine.worker.chains.statistics import PolicyStatistics


class Condition(Protocol):
    """A compiled CEL condition (R-10)."""

    @property
    def text(self) -> str:
        """The expression as it was written."""
        ...

    @property
    def uses_response(self) -> bool:
        """Whether the response decides, so that another one may be decided otherwise."""
        ...

    def evaluate(self, request: Request, response: Response | None) -> bool:
        """Return whether the policy runs; raises ConditionError when the expression cannot be evaluated."""
        ...


@runtime_checkable
class Narrowed(Protocol):
    """A condition that needs more to hold than its text says; the text is empty where nothing is written."""

    def why_not(self, request: Request, response: Response | None) -> str:
        """Return, once it did not hold, what beside its text kept it from holding; empty when its text did."""
        ...


class Way(Protocol):
    """One of several ways to be let in, of which one is enough."""

    def refuse(self, request: Request, answer: ImmediateResponse) -> None:
        """Note that this way is closed for the request, and what would have been answered."""
        ...


class Decisions(Protocol):
    """Hears of every answer that ends a request, before it is sent, and of every failure; `explain.decision_log` does.

    It is there or not, so that it costs nothing when off.
    """

    def answered(
        self, step: Step, answer: ImmediateResponse, request: Request, error: BaseException | None = None
    ) -> ImmediateResponse:
        """A policy answers, or fails closed with `error`; returns what to send."""
        ...

    def failed_open(self, step: Step, error: BaseException, request: Request) -> None:
        """A policy failed, and the request goes on without it."""
        ...

    def refused(self, answer: ImmediateResponse, route: str, headers: Headers) -> ImmediateResponse:
        """The engine itself refuses the request with these headers; returns what to send."""
        ...


@dataclass(slots=True, eq=False)
class Step:
    """One hook of one policy instance, ready to call.

    `hook` is what is called, `method` its name in the policy's class, `accepts` the types of action it may return.
    `entry` is the instance's place in the chain: a condition is decided once per stream and entry. `checked` is the
    last constant action that passed `check_action` and `edit` what that gave, so that it is not checked per request;
    `usual` is that object where it asks for nothing but this edit, `seen` the last one that may prove to be constant.
    `on_failure` is told of every failure, with the request, and may raise to keep the failure mode from deciding.
    `decisions` hears of what ends a request. What a step in `shadow` wants is only noted. `way` is where a refusal goes
    that others may make up for.
    """

    policy: str
    version: str
    entry: int
    method: str
    hook: Callable[..., Any]
    accepts: frozenset[type]
    condition: Condition | None
    timeout: float
    fails_open: bool
    failure_response: ImmediateResponse
    statistics: PolicyStatistics
    on_failure: Callable[[Step, BaseException, Request], None] | None = None
    decisions: Decisions | None = None
    shadow: bool = False
    way: Way | None = None
    seen: Any = None
    checked: Any = None
    edit: HeaderEdit = NO_EDIT
    usual: Any = None

    @property
    def label(self) -> str:
        """Name and version as people write them, for logs and errors."""
        return f"{self.policy} {self.version}".rstrip()


@dataclass(slots=True, eq=False)
class Usage:
    """How many streams run on a chain; instances are closed when a retired chain's last stream ends (R-31)."""

    streams: int = 0
    retired: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class CompiledChain:
    """The steps of one route by phase; response steps are already in reverse order (R-02).

    `mark` is the route key as the executor notes it for whoever asks what a process was doing. `errors` is how denials
    are written, None where the chain says nothing of it. `body_limit` (bytes) and `unmapped` are those of `RouteSpec`.
    `secrets` are texts of parameters that must never be shown.
    """

    route_key: str
    content_hash: str
    policies: tuple[tuple[str, str], ...]
    instances: tuple[Policy, ...]
    needs: Needs
    request_headers: tuple[Step, ...] = ()
    request_body: tuple[Step, ...] = ()
    request_chunks: tuple[Step, ...] = ()
    request_trailers: tuple[Step, ...] = ()
    response_headers: tuple[Step, ...] = ()
    response_body: tuple[Step, ...] = ()
    response_chunks: tuple[Step, ...] = ()
    response_trailers: tuple[Step, ...] = ()
    stream_end: tuple[Callable[[Request], None], ...] = ()
    body_limit: int | None = None
    unmapped: Unmapped | None = None
    errors: ErrorAnswers | None = None
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
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
