"""Counters and histograms that a policy declares for itself; the engine adds them up and shows them on `/metrics`.

    class LlmGuard(Policy):
        refused = Counter("Prompts that were refused.", labels={"reason": ("length", "word")})
        prompt_tokens = Histogram("Tokens of a prompt.", buckets=(10, 100, 1_000, 10_000))

        def on_request_body(self, request: Request) -> RequestAction | None:
            self.prompt_tokens.observe(tokens)
            self.refused.inc(reason="length")

They belong to the class, so that they go on counting when a chain is loaded anew. Names and labels follow Prometheus
("Data model", "Metric and label naming"), and how many series there are is bounded by the declaration.
"""

from __future__ import annotations

import math
import re
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Self

MOST_SERIES: Final = 100
"""Series of one metric in one worker process: combinations of label values."""
MOST_LABELS: Final = 4
MOST_BUCKETS: Final = 30
LONGEST_VALUE: Final = 100
"""Characters of a label's value; what is longer is cut."""
OTHER: Final = "other"
"""The label value of what is not among the declared ones, or would be one series too many."""

DURATIONS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds for durations in seconds, unless others are given."""

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", re.ASCII)
_LONGEST_NAME: Final = 60
_ENDINGS: Final = ("_total", "_bucket", "_count", "_sum", "_created", "_info")
_ADDED_LABELS: Final = frozenset({"policy", "version", "le", "quantile", "route", "worker"})

Labels = Mapping[str, Sequence[str] | None]
"""The values that each label may have; None for values that are not known before."""

Series = tuple[str, ...]


class MetricError(TypeError):
    """A metric is declared or used in a way that cannot be; raised when the class is made, or by the first use."""


class Metric:
    """What counters and histograms have in common; its name is that of the attribute without leading underscores."""

    kind: str

    def __init__(self, description: str, labels: Labels | None = None) -> None:
        self.name = ""
        self.description = description
        self.labels: Labels = dict(labels or {})
        self._order = tuple(self.labels)
        self._allowed = {name: None if one is None else frozenset(one) for name, one in self.labels.items()}
        self._lock = threading.Lock()
        _check_labels(self.labels)
        if not description or "\n" in description:
            raise MetricError("a metric needs a description of one line, which is what people see on /metrics")

    def __set_name__(self, owner: type, name: str) -> None:
        plain = name.lstrip("_")
        if not _NAME.fullmatch(plain) or len(plain) > _LONGEST_NAME or plain.endswith(_ENDINGS):
            raise MetricError(
                f"{owner.__name__}.{name} cannot be the name of a metric: snake_case of at most {_LONGEST_NAME} "
                f"characters that does not end in {', '.join(_ENDINGS)}, which Prometheus adds itself"
            )
        self.name = plain

    def fresh(self) -> Self:
        """Return a metric with the same declaration that has counted nothing."""
        raise NotImplementedError

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yield what was counted: the ending of the sample's name, its labels, its value."""
        raise NotImplementedError

    def _series(self, labels: Mapping[str, object], known: Mapping[Series, object]) -> Series:
        """Return the series of these label values; OTHER stands for those that are not declared, or too many."""
        if labels.keys() != self.labels.keys():
            given, wanted = ", ".join(labels) or "none", ", ".join(self._order) or "none"
            raise MetricError(f"metric {self.name!r} has the labels {wanted}, not {given}")
        series = tuple([self._value(name, labels[name]) for name in self._order])
        if series in known or len(known) < MOST_SERIES:
            return series
        return tuple([one if self._allowed[name] else OTHER for name, one in zip(self._order, series, strict=True)])

    def _value(self, name: str, value: object) -> str:
        text, allowed = str(value), self._allowed[name]
        if allowed is not None:
            return text if text in allowed else OTHER
        return text[:LONGEST_VALUE].encode(errors="replace").decode() if text else OTHER

    def _named(self, series: Series) -> dict[str, str]:
        return dict(zip(self._order, series, strict=True))

    def _declared(self) -> list[Series]:
        """Return the series that are there before anything is counted: all, where all values are declared."""
        found: list[Series] = [()]
        for values in self.labels.values():
            found = [(*series, one) for series in found for one in values or ()]
        return found


class Counter(Metric):
    """Something that is counted, and only grows; shown as `policy_<policy>_<name>_total`."""

    kind = "counter"

    def __init__(self, description: str, labels: Labels | None = None) -> None:
        super().__init__(description, labels)
        self._counts: dict[Series, float] = dict.fromkeys(self._declared(), 0)

    def inc(self, amount: float = 1, /, **labels: object) -> None:
        """Add `amount`, which is not negative, to the series of these labels."""
        if not 0 <= amount < math.inf:
            raise MetricError(f"counter {self.name!r} only grows; {amount!r} cannot be added")
        with self._lock:
            series = self._series(labels, self._counts)
            self._counts[series] = self._counts.get(series, 0) + amount

    def value(self, **labels: object) -> float:
        """Return what this process has counted with these labels."""
        return self._counts.get(self._series(labels, self._counts), 0)

    def fresh(self) -> Self:
        """See `Metric.fresh`."""
        return type(self)(self.description, self.labels)

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """See `Metric.samples`."""
        for series, count in tuple(self._counts.items()):
            yield "", self._named(series), count


class Histogram(Metric):
    """A size or a duration that is observed again and again; shown as `policy_<policy>_<name>` with its buckets.

    `buckets` are the upper bounds, ascending; that of the last, infinity, is implied.
    """

    kind = "histogram"

    def __init__(self, description: str, labels: Labels | None = None, *, buckets: Sequence[float] = DURATIONS) -> None:
        super().__init__(description, labels)
        self.buckets = tuple(float(bound) for bound in buckets)
        ascending = all(one < other for one, other in zip(self.buckets, self.buckets[1:], strict=False))
        if not ascending or not 0 < len(self.buckets) <= MOST_BUCKETS or not all(map(math.isfinite, self.buckets)):
            raise MetricError(f"buckets are 1 to {MOST_BUCKETS} finite numbers, each above the one before")
        self._counts: dict[Series, list[int]] = {series: self._empty() for series in self._declared()}
        self._sums: dict[Series, float] = {}

    def observe(self, value: float, /, **labels: object) -> None:
        """Take note of one value."""
        if not math.isfinite(value):
            raise MetricError(f"histogram {self.name!r} cannot take {value!r}")
        with self._lock:
            series = self._series(labels, self._counts)
            counts = self._counts.get(series)
            if counts is None:
                counts = self._counts[series] = self._empty()
            counts[bisect_left(self.buckets, value)] += 1
            self._sums[series] = self._sums.get(series, 0.0) + value

    def count(self, **labels: object) -> int:
        """Return how many values this process has observed with these labels."""
        return sum(self._counts.get(self._series(labels, self._counts), ()))

    def sum(self, **labels: object) -> float:
        """Return the sum of those values."""
        return self._sums.get(self._series(labels, self._counts), 0.0)

    def fresh(self) -> Self:
        """See `Metric.fresh`."""
        return type(self)(self.description, self.labels, buckets=self.buckets)

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """See `Metric.samples`; buckets hold all values up to their bound, as Prometheus has them."""
        bounds = (*(f"{bound:g}" for bound in self.buckets), "+Inf")
        for series, counts in tuple(self._counts.items()):
            labels, seen = self._named(series), 0
            for bound, count in zip(bounds, tuple(counts), strict=True):
                seen += count
                yield "_bucket", {**labels, "le": bound}, seen
            yield "_sum", labels, self._sums.get(series, 0.0)

    def _empty(self) -> list[int]:
        return [0] * (len(self.buckets) + 1)


def metrics_of(policy_class: type) -> tuple[Metric, ...]:
    """Return the metrics that a class declares, in the order of their names."""
    found = {name: one for name, one in vars(policy_class).items() if isinstance(one, Metric)}
    return tuple(sorted(found.values(), key=lambda one: one.name))


def own_metrics(policy_class: type) -> None:
    """Give a new class metrics of its own for those that it inherits, and check that no two have one name."""
    for name in dir(policy_class):
        inherited = getattr(policy_class, name, None)
        if isinstance(inherited, Metric) and name not in vars(policy_class):
            own = inherited.fresh()
            own.__set_name__(policy_class, name)
            setattr(policy_class, name, own)
    names = [one.name for one in metrics_of(policy_class)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise MetricError(f"{policy_class.__name__} has two metrics called {', '.join(twice)}")


def _check_labels(labels: Labels) -> None:
    if len(labels) > MOST_LABELS:
        raise MetricError(f"a metric has at most {MOST_LABELS} labels, not {len(labels)}")
    series = 1
    for name, values in labels.items():
        if not _NAME.fullmatch(name) or name in _ADDED_LABELS:
            taken = ", ".join(sorted(_ADDED_LABELS))
            raise MetricError(f"{name!r} cannot be a label: snake_case is expected, and none of {taken}")
        if values is None:
            continue
        if isinstance(values, str) or not all(isinstance(one, str) and 0 < len(one) <= LONGEST_VALUE for one in values):
            raise MetricError(f"label {name!r} needs the list of its values, or None where they are not known before")
        series *= len(values)
    if not 0 < series <= MOST_SERIES:
        raise MetricError(f"a metric has at most {MOST_SERIES} combinations of label values, not {series}")
