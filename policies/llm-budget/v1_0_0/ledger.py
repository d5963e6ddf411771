"""What is taken from budgets: held for exchanges on their way, settled when they are over; in this process.

Taken is one number for each budget: what exchanges used, and what those on their way hold. It is compared with the
amount before anything is added, so that exchanges at the same time cannot take more than there is. What an engine that
dies held stays taken until the window ends: how much of it was used is not known then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import uuid4

from policy_engine.sdk.steady_clock import steady_time


@dataclass(frozen=True, slots=True)
class Line:
    """One budget that an exchange is charged to: `key` names client and window, `limit` is what there is in all,
    `until` when the window ends, in seconds since 1970."""

    name: str
    key: str
    limit: int
    until: float


@dataclass(slots=True)
class Hold:
    """What one exchange has taken, line by line. `turn` numbers the changes: one that comes late is not made."""

    lines: Sequence[Line]
    amounts: list[int]
    identity: str = field(default_factory=lambda: uuid4().hex)
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Granted:
    """The amounts that an exchange has from now on, and what is left of each budget."""

    amounts: Sequence[int]
    left: Sequence[int]


@dataclass(frozen=True, slots=True)
class Refused:
    """The line that has no room; nothing was changed."""

    line: Line


Outcome = Granted | Refused
Amounts = Sequence[int]


class Ledger(Protocol):
    """Where it is written down. Amounts are in the units of the lines, and what an exchange has in all."""

    def take(self, hold: Hold, wanted: Amounts, least: Amounts) -> Outcome | Awaitable[Outcome]:
        """Let the exchange have `wanted`, or what there is of it, if that is `least` on all lines.

        Raises StoreUnavailable.
        """
        ...

    def settle(self, hold: Hold, used: Amounts) -> Awaitable[None] | None:
        """Write down what it used, whatever there is; never raises for a store that is away: that is made up for."""
        ...

    def settle_later(self, hold: Hold, used: Amounts) -> None:
        """Do the same without waiting for it."""
        ...

    def close(self) -> Awaitable[None] | None:
        """Let go of what it holds."""
        ...


class LocalLedger:
    """Writes it down in this process; at most `most` budgets, those of ended windows go first, then the least used."""

    def __init__(self, most: int, clock: Callable[[], float] = steady_time) -> None:
        self.most = most
        self._clock = clock
        self._taken: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, hold: Hold, wanted: Amounts, least: Amounts) -> Outcome:
        """See `Ledger`; nothing awaits, so that it is one step."""
        amounts: list[int] = []
        for at, line in enumerate(hold.lines):
            has = hold.amounts[at]
            room = line.limit - self._of(line.key) + has
            amount = wanted[at] if wanted[at] <= has else max(has, min(wanted[at], room))
            if amount < least[at]:
                return Refused(line)
            amounts.append(amount)
        self._change(hold, amounts)
        return Granted(amounts, [line.limit - self._of(line.key) for line in hold.lines])

    def settle(self, hold: Hold, used: Amounts) -> None:
        """See `Ledger`."""
        self._change(hold, used)

    settle_later = settle

    def close(self) -> None:
        """Nothing to let go of."""

    def _of(self, key: str) -> int:
        return self._taken.get(key, (0, 0.0))[0]

    def _change(self, hold: Hold, amounts: Amounts) -> None:
        for line, amount, has in zip(hold.lines, amounts, hold.amounts, strict=True):
            self._taken[line.key] = (self._of(line.key) + amount - has, line.until)
            self._taken.move_to_end(line.key)
        hold.amounts = list(amounts)
        self._forget()

    def _forget(self) -> None:
        """Drop what is over, a few at a time and oldest use first, then what there is no room for."""
        now = self._clock()
        for _ in range(4):
            if not self._taken or next(iter(self._taken.values()))[1] > now:
                break
            self._taken.popitem(last=False)
        while len(self._taken) > self.most:
            self._taken.popitem(last=False)
