"""Budgets as the parameters have them, and what of them one exchange is charged to.

Apart from the ledger because it is about clients, models, prices and the calendar, and the ledger about sums.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fnmatch import translate
from typing import Any

from policy_engine.sdk import (
    Expression,
    ExpressionFailed,
    Json,
    ParameterError,
    Parameters,
    Policy,
    Request,
    digest_key,
)

from .ledger import Line
from .stream import Weights

_TOKENS: Mapping[str, Weights] = {"tokens": (1, 1), "prompt_tokens": (1, 0), "completion_tokens": (0, 1)}
MONEY = "money"
_SMALLEST = 10**9
"""How many of the units that money is counted in make one: the price of a token is a whole number of them."""
_PER_TOKEN = 1000  # of these units, for a price of 1 for a million tokens


class NoKey(Exception):
    """The request lacks what a budget is kept by; `name` is the budget's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class NoPrice(Exception):
    """No price is known for the model."""


class Prices:
    """What tokens of models cost; the first entry whose name fits is the one."""

    def __init__(self, entries: Sequence[Parameters], *, others_free: bool) -> None:
        self._others_free = others_free
        self._entries = [
            (_pattern(entry["model"]), (_price(entry, "input", at), _price(entry, "output", at)))
            for at, entry in enumerate(entries)
        ]

    def of(self, model: str) -> Weights:
        """Return what a token of prompt and answer costs; raises NoPrice."""
        for pattern, weights in self._entries:
            if pattern.fullmatch(model):
                return weights
        if self._others_free:
            return (0, 0)
        raise NoPrice


@dataclass(frozen=True, slots=True)
class Charge:
    """The budgets that one exchange is charged to, and what tokens cost in each."""

    lines: Sequence[Line]
    weights: Sequence[Weights]


@dataclass(frozen=True, slots=True)
class _Budget:
    name: str
    unit: str
    window: str
    limit: int
    key: Expression[Json] | None
    per_model: bool
    models: Sequence[re.Pattern[str]]

    def line(self, request: Request, model: str, now: float) -> Line | None:
        """Return the line of this request; None when the budget is not for its model. Raises NoKey."""
        if self.models and not any(one.fullmatch(model) for one in self.models):
            return None
        begins, until = window_of(self.window, now)
        parts = (self.name, self.unit, self.window, begins, self._client(request), model if self.per_model else None)
        return Line(self.name, digest_key(*parts), self.limit, until)

    def _client(self, request: Request) -> str | None:
        if self.key is None:
            return None
        try:
            value = self.key.evaluate(request)
        except ExpressionFailed:
            raise NoKey(self.name) from None
        if value is None or value == "":
            raise NoKey(self.name)
        return json.dumps(value, sort_keys=True)


class Budgets:
    """All budgets of a policy; raises ParameterError."""

    def __init__(self, policy: Policy, parameters: Parameters) -> None:
        entries = parameters["budgets"]
        prices = parameters.get("prices", ())
        self._prices = Prices(prices, others_free=parameters.get("unknown_price", "deny") == "free")
        self._shares = parameters.get("on_missing_key", "deny") == "shared"
        self._budgets = [_budget(policy, entry, f"/budgets/{at}") for at, entry in enumerate(entries)]
        names = [one.name for one in self._budgets]
        for at, name in enumerate(names):
            if name in names[:at]:
                reason = f"there is another budget {name}; they would share what is taken"
                raise ParameterError(reason, f"/budgets/{at}/name")
        if any(one.unit == MONEY for one in self._budgets) and not prices:
            raise ParameterError("a budget in money needs prices", "/prices")

    def charge(self, request: Request, model: str, now: float) -> Charge:
        """Return what the request is charged to; raises NoKey and NoPrice."""
        lines, weights = [], []
        for budget in self._budgets:
            line = self._line(budget, request, model, now)
            if line is not None:
                lines.append(line)
                weights.append(_TOKENS[budget.unit] if budget.unit in _TOKENS else self._prices.of(model))
        return Charge(lines, weights)

    def _line(self, budget: _Budget, request: Request, model: str, now: float) -> Line | None:
        try:
            return budget.line(request, model, now)
        except NoKey:
            if not self._shares:
                raise
            begins, until = window_of(budget.window, now)
            return Line(budget.name, digest_key(budget.name, budget.unit, budget.window, begins), budget.limit, until)


def window_of(window: str, now: float) -> tuple[int, float]:
    """Return when the window that `now` is in began and when it ends, in seconds since 1970; windows are those of UTC.

    Weeks begin on Monday (ISO 8601).
    """
    day = datetime.fromtimestamp(now, UTC).replace(minute=0, second=0, microsecond=0)
    if window == "hour":
        begins, ends = day, day + timedelta(hours=1)
    else:
        day = day.replace(hour=0)
        if window == "day":
            begins, ends = day, day + timedelta(days=1)
        elif window == "week":
            begins = day - timedelta(days=day.weekday())
            ends = begins + timedelta(days=7)
        else:
            begins = day.replace(day=1)
            ends = (begins + timedelta(days=32)).replace(day=1)
    return int(begins.timestamp()), ends.timestamp()


def _budget(policy: Policy, entry: Parameters, where: str) -> _Budget:
    unit = entry.get("unit", "tokens")
    amount = Decimal(str(entry["amount"])) * (_SMALLEST if unit == MONEY else 1)
    if amount != int(amount):
        known = "nine decimals at most" if unit == MONEY else "tokens are whole"
        raise ParameterError(f"not an amount of {unit}: {known}", f"{where}/amount")
    return _Budget(
        name=entry["name"],
        unit=unit,
        window=entry["window"],
        limit=int(amount),
        key=policy.expression(entry["key"], f"{where}/key") if "key" in entry else None,
        per_model=entry.get("per_model", False),
        models=[_pattern(one) for one in entry.get("models", ())],
    )


def _price(entry: Parameters, name: str, at: int) -> int:
    price = Decimal(str(entry[name])) * _PER_TOKEN
    if price != int(price):
        raise ParameterError("a price for a million tokens has three decimals at most", f"/prices/{at}/{name}")
    return int(price)


def _pattern(glob: Any) -> re.Pattern[str]:
    return re.compile(translate(glob))
