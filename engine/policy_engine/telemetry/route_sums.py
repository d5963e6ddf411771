"""Sums counters so that metrics stay few however many routes there are: the routes named apart, all others as one.

Which routes are named may change from one scrape to the next. So that no counter falls, and none jumps by what was
counted long ago, each increment goes where its route belongs when it is seen.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from heapq import nlargest
from operator import add, sub

from policy_engine.telemetry.samples import Samples

OTHER_ROUTES = "__other__"
"""The label `route` of what was counted on routes that are not named."""

_SHOWN: Mapping[str, tuple[str, ...]] = {"policy": ("route", "policy", "version"), "route": ("route",), "total": ()}
_ALWAYS_SHOWN = ("reason", "decision")

Labels = tuple[tuple[str, str], ...]


class RouteSums:
    """The sums of one worker process. `detail` is `policy` (each policy on each route), `route`, or `total`.

    `named` are the routes shown apart, None for all of them.
    """

    def __init__(self, detail: str = "policy") -> None:
        self._shown = frozenset((*_SHOWN[detail], *_ALWAYS_SHOWN))
        self._last: dict[Hashable, tuple[float, ...]] = {}
        self._sums: dict[str, dict[Labels, list[float]]] = {}
        self.named: Collection[str] | None = None

    def count(self, kind: str, labels: Labels, values: tuple[float, ...]) -> None:
        """Take the counters `values` of one `kind`, whose labels begin with the route; they never fall."""
        key = kind, labels
        last = self._last.get(key)
        if last == values:
            return
        self._last[key] = values
        sums = self._sums.setdefault(kind, {}).setdefault(self._labels(labels), [0.0] * len(values))
        more = values if last is None else map(sub, values, last)
        sums[:] = map(add, sums, more)

    def sums(self, kind: str) -> Iterator[tuple[dict[str, str], list[float]]]:
        """Return the sums of one kind with the labels they are shown under."""
        for labels, sums in self._sums.get(kind, {}).items():
            of = dict(labels)
            if is_shown(of, self.named):
                yield of, sums

    def _labels(self, labels: Labels) -> Labels:
        named = self.named is None or labels[0][1] in self.named
        return tuple(
            (name, value if named or name != "route" else OTHER_ROUTES) for name, value in labels if name in self._shown
        )


def top_routes(requests: Mapping[str, float], limit: int) -> frozenset[str] | None:
    """Return the routes with the most requests, None when all are few enough; those with as many go by their names."""
    if len(requests) <= limit:
        return None
    return frozenset(nlargest(limit, requests, key=lambda route: (requests[route], route)))


def only_named(samples: Samples, named: Collection[str] | None) -> Samples:
    """Leave out what processes that ended counted on routes that are no longer named."""
    if named is None:
        return samples
    return {name: [row for row in rows if is_shown(row[0], named)] for name, rows in samples.items()}


def is_shown(labels: Mapping[str, str], named: Collection[str] | None) -> bool:
    """Return whether a row with these labels is shown while these routes are named."""
    route = labels.get("route", OTHER_ROUTES)
    return named is None or route == OTHER_ROUTES or route in named


def requests_of(samples: Samples) -> dict[str, float]:
    """Return the requests by route, of those named."""
    rows: Sequence[tuple[dict[str, str], float]] = samples.get("policy_engine_requests", [])
    return {labels["route"]: value for labels, value in rows if labels.get("route", OTHER_ROUTES) != OTHER_ROUTES}
