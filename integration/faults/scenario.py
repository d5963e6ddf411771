"""What a scenario is: a fault under load, what is measured of it, and what docs promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from integration.harness.steady_load import OPEN, Sent

RATE = 150.0
"""Requests a second."""
ONE_PERCENT = int(0.01 * 30 * RATE)
"""One percent of what is sent in 30 s: what a worker process that stops may cost."""
LONG_S = 1.0
"""A request that waits longer for its answer was held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What docs say a fault costs at most; that no request is lost or passes unguarded, they say of every fault.

    `failed` is a number of requests, or None where all are denied as long as the fault lasts. `recovered` is in
    seconds after the fault, or after its end where it has one. `p99` is that of all answers, in seconds.
    """

    failed: int | None
    recovered: float
    p99: float | None = None
    also: str = ""

    def words(self) -> str:
        """Return it as the table has it."""
        failed = "denied while it lasts" if self.failed is None else f"at most {self.failed} failed"
        parts = ["none failed" if self.failed == 0 else failed, f"recovered within {self.recovered:g} s"]
        parts += [f"p99 under {self.p99 * 1000:.0f} ms"] if self.p99 is not None else []
        return ", ".join([*parts, *([self.also] if self.also else [])])


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a fault cost.

    `failed` were not answered with 200, among them the `lost`, which got no answer at all; `opened` were answered
    without their chain having run; `held` waited longer than LONG_S. Times are in seconds. `kinds` counts the
    outcomes other than 200. `wrong` says what else did not hold.
    """

    sent: int
    failed: int
    lost: int
    opened: int
    held: int
    p99: float
    longest: float
    recovered: float
    kinds: dict[str, int]
    wrong: tuple[str, ...] = ()

    @classmethod
    def of(cls, sent: Sequence[Sent], over: float, restored: float | None, wrong: Sequence[str]) -> Measured:
        """Sum up a load whose fault was over, and whose engines were whole again, at these (monotonic) times."""
        bad = [one for one in sent if not one.good]
        kinds = Counter(one.outcome for one in bad)
        waits = sorted(one.answered - one.at for one in sent)
        last = max([over, restored or over, *(one.at for one in bad)])
        return cls(
            sent=len(sent),
            failed=len(bad) - kinds[OPEN],
            lost=sum(count for outcome, count in kinds.items() if not outcome.isdecimal() and outcome != OPEN),
            opened=kinds[OPEN],
            held=sum(wait > LONG_S for wait in waits),
            p99=waits[int(0.99 * (len(waits) - 1))] if waits else 0.0,
            longest=waits[-1] if waits else 0.0,
            recovered=last - over,
            kinds=dict(sorted(kinds.items())),
            wrong=tuple(wrong),
        )

    def broken(self, promise: Promise) -> list[str]:
        """Return what was promised and does not hold."""
        found = list(self.wrong)
        if not self.sent:
            found.append("nothing was sent")
        if self.lost:
            found.append(f"{self.lost} lost")
        if self.opened:
            found.append(f"{self.opened} passed without their chain")
        if promise.failed is not None and self.failed > promise.failed:
            found.append(f"{self.failed} failed, promised {promise.failed} at most")
        if self.recovered > promise.recovered:
            found.append(f"recovered after {self.recovered:.1f} s, promised {promise.recovered:g} s")
        if promise.p99 is not None and self.p99 > promise.p99:
            found.append(f"p99 {self.p99 * 1000:.0f} ms, promised {promise.p99 * 1000:.0f} ms")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a scenario is run: how many engines of two worker processes, and how long its load lasts at least."""

    engines: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One fault; `fault` says in words what happens, `run` makes it happen."""

    name: str
    fault: str
    run: Callable[[Terms], Measured]
    promise: Promise
    engines: int = 1
