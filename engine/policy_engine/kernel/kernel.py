"""The kernel's one shared object: the active routes, the options of every session, and counters over all streams.

Sessions are local objects (no table of requests); all they share is here and is read-only to them but for counters.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from policy_engine.kernel.denial_counts import DenialCounts
from policy_engine.kernel.route_key import RouteKey
from policy_engine.kernel.routes import RequestCounter, Routes
from policy_engine.limits import BODY_LIMIT, HEADER_COUNT, HEADER_SIZE
from policy_engine.worker.chains.closing import close_chains
from policy_engine.worker.chains.compiled import Decisions, Snapshot
from policy_engine.worker.chains.compiler import retire
from policy_engine.worker.chains.error_answers import ErrorAnswers
from policy_engine.worker.chains.tracing import Tracing

logger = logging.getLogger("policy_engine.kernel")

_SHORTEST_HEADER = 5
"""Bytes on the wire of a header with a name of one byte and no value: tag and length of both, and that byte."""


PARTS = (
    "request_headers",
    "request_body",
    "request_trailers",
    "response_headers",
    "response_body",
    "response_trailers",
)
"""The messages of a stream by the names they have in `ProcessingRequest`."""


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """Settings of every session. `route_key` finds the key (R-07).

    `body_limit` is in bytes and holds for decoded bodies too; `envoy_buffer_limit` are the bytes that Envoy holds of a
    body, None where that is not known to be less; `header_count` and `header_size` (bytes of names and values) are for
    the headers of one request or response (R-09). `errors` is how denials are written where the route's chain does not
    say (R-19).
    """

    route_key: RouteKey = field(default_factory=RouteKey)
    pass_unmapped: bool = False
    body_limit: int = BODY_LIMIT
    envoy_buffer_limit: int | None = None
    header_count: int = HEADER_COUNT
    header_size: int = HEADER_SIZE
    errors: ErrorAnswers = field(default_factory=ErrorAnswers)


@dataclass(slots=True)
class KernelStatistics:
    """Counters over all streams of this process (R-51)."""

    streams: int = 0
    active: int = 0
    phases: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    immediate: int = 0
    unmapped: int = 0
    not_ready: int = 0
    protocol_errors: int = 0
    body_too_large: int = 0
    headers_too_large: dict[str, int] = field(default_factory=dict)
    broken_promises: int = 0
    broken_response_promises: int = 0
    doubted_responses: int = 0
    collected_bytes: int = 0
    swaps: int = 0
    denials: DenialCounts = field(default_factory=DenialCounts)


class Kernel:
    """Holds what all sessions of a process share; `activate` swaps the configuration by one assignment."""

    __slots__ = ("_requests", "decisions", "options", "routes", "short_headers", "statistics", "tracing")

    def __init__(
        self,
        options: KernelOptions | None = None,
        tracing: Tracing | None = None,
        decisions: Decisions | None = None,
    ) -> None:
        self.options = options or KernelOptions()
        self.short_headers = min(self.options.header_size, self.options.header_count * _SHORTEST_HEADER)
        """Bytes of a message up to which its headers are within both limits, without a look at them."""
        self.tracing = tracing
        self.decisions = decisions
        self.routes: Routes | None = None
        self.statistics = KernelStatistics()
        self._requests: dict[str, RequestCounter] = {}

    @property
    def snapshot(self) -> Snapshot | None:
        """The active configuration, None before the first (R-50)."""
        return self.routes.snapshot if self.routes is not None else None

    def requests_by_route(self) -> dict[str, int]:
        """Return how many requests each route key served, also for keys that are no longer configured."""
        return {key: counter.value for key, counter in self._requests.items()}

    def activate(self, snapshot: Snapshot) -> None:
        """Serve new streams from `snapshot`; streams in flight finish on the chain they began with (R-20)."""
        old = self.routes
        self.routes = Routes(snapshot, self._requests, old)
        self.statistics.swaps += 1
        if old is not None:
            close_chains(retire(old.snapshot.chains, snapshot.chains))
