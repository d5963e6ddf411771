"""Writes samples in the Prometheus text format (R-51).

Written here and not by the client library, which takes ten times as long: an engine with many routes has thousands of
lines, and whoever is scraped does nothing else meanwhile. Tests read it with that library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from policy_engine.telemetry.metrics import METRICS
from policy_engine.telemetry.samples import Samples, label_key

Families = Mapping[str, tuple[str, str]]
"""Kind and description of a metric by its name."""


def exposition(samples: Samples, of_policies: Families = MappingProxyType({})) -> bytes:
    """Return `samples` in the Prometheus text format; `of_policies` are the metrics that policies declare."""
    lines: list[str] = []
    for name, (kind, text) in (*METRICS.items(), *of_policies.items()):
        shown = f"{name}_total" if kind == "counter" else name
        described = text.replace("\\", "\\\\").replace("\n", "\\n")
        lines += (f"# HELP {shown} {described}", f"# TYPE {shown} {kind}")
        if kind == "histogram":
            lines += _histogram(name, samples)
        else:
            lines += (f"{shown}{_braced(_written(labels))} {float(one)!r}" for labels, one in samples.get(name, ()))
    return ("\n".join(lines) + "\n").encode()


def _histogram(name: str, samples: Samples) -> Iterator[str]:
    sums = {label_key(labels): value for labels, value in samples.get(f"{name}_sum", ())}
    buckets: dict[str, list[tuple[str, float]]] = {}
    keys = {}
    for labels, value in samples.get(f"{name}_bucket", ()):
        own = {label: one for label, one in labels.items() if label != "le"}
        written = _written(own)
        if written not in buckets:
            buckets[written], keys[written] = [], label_key(own)
        buckets[written].append((labels["le"], value))
    for written, rows in buckets.items():
        start = f"{name}_bucket{{{written}," if written else f"{name}_bucket{{"
        count = 0.0
        for bound, value in rows:
            count = float(value)
            yield f'{start}le="{bound}"}} {count!r}'
        yield f"{name}_count{_braced(written)} {count!r}"
        yield f"{name}_sum{_braced(written)} {float(sums.get(keys[written], 0.0))!r}"


def _braced(written: str) -> str:
    return f"{{{written}}}" if written else ""


def _written(labels: Mapping[str, str]) -> str:
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in sorted(labels.items())])


def _escaped(value: str) -> str:
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return value
