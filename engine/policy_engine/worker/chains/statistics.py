"""Plain counters that execution feeds and `telemetry` reads; the request path imports no metrics library."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from enum import Enum

DURATION_BUCKETS: tuple[float, ...] = (
    0.00001,
    0.00005,
    0.0001,
    0.0005,
    0.001,
    0.005,
    0.01,
    0.05,
    0.1,
    0.5,
    1.0,
    5.0,
)
"""Upper bounds of the policy duration histogram, in seconds; the last bucket (+Inf) is implied."""

SHORTEST = DURATION_BUCKETS[0]
"""Most hooks take less: the executor counts those itself, since looking up the bucket costs as much as all the rest."""


class FailureKind(Enum):
    """Why a policy failed; one label value each in `policy_failures_total` (R-51)."""

    EXCEPTION = "exception"
    TIMEOUT = "timeout"
    CONDITION = "condition"
    INVALID_ACTION = "invalid_action"
    OVERLOADED = "overloaded"


class Wanted(Enum):
    """What an entry in shadow would have done; one label value each in `policy_shadow_total`."""

    ANSWER = "answer"
    CHANGE = "change"
    FAILURE = "failure"


@dataclass(slots=True)
class PolicyStatistics:
    """Counters of one policy version on one route; seconds are wall time."""

    route: str
    policy: str
    version: str
    skipped: int = 0
    short_circuits: int = 0
    failures: dict[FailureKind, int] = field(default_factory=lambda: dict.fromkeys(FailureKind, 0))
    failed_open: dict[FailureKind, int] = field(default_factory=lambda: dict.fromkeys(FailureKind, 0))
    """Those of `failures` after which the request went on without the policy."""
    seconds: float = 0.0
    wanted: dict[Wanted, int] | None = None
    buckets: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BUCKETS) + 1))

    @property
    def runs(self) -> int:
        """How often a hook ran."""
        return sum(self.buckets)

    def observe(self, seconds: float) -> None:
        """Count one run of a hook that took `seconds`."""
        self.seconds += seconds
        self.buckets[bisect_left(DURATION_BUCKETS, seconds)] += 1

    def want(self, wanted: Wanted) -> None:
        """Count what an entry in shadow would have done."""
        if self.wanted is None:
            self.wanted = dict.fromkeys(Wanted, 0)
        self.wanted[wanted] += 1
