"""Writes samples in the Prometheus text format (R-51).

Apart from `metrics` because only the supervisor is scraped: workers start without importing the client library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, cast

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from policy_engine.telemetry.metrics import METRICS, Samples, label_key

Families = Mapping[str, tuple[str, str]]
"""Kind and description of a metric by its name."""


def exposition(samples: Samples, of_policies: Families = MappingProxyType({})) -> bytes:
    """Return `samples` in the Prometheus text format; `of_policies` are the metrics that policies declare."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(samples, of_policies))
    return generate_latest(registry)


class _Collector:
    """Presents samples to `prometheus_client`."""

    def __init__(self, samples: Samples, of_policies: Families) -> None:
        self._samples = samples
        self._of_policies = of_policies

    def collect(self) -> Iterable[Metric]:
        for name, (kind, text) in (*METRICS.items(), *self._of_policies.items()):
            yield self._histogram(name, text) if kind == "histogram" else self._values(name, kind, text)

    def _values(self, name: str, kind: str, text: str) -> Metric:
        rows = self._samples.get(name, [])
        names = sorted({label for labels, _ in rows for label in labels})
        family: Any = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(name, text, labels=names)
        for labels, value in rows:
            family.add_metric([labels.get(label, "") for label in names], value)
        return cast(Metric, family)

    def _histogram(self, name: str, text: str) -> Metric:
        buckets: dict[tuple[tuple[str, str], ...], list[tuple[str, float]]] = {}
        for labels, value in self._samples.get(name + "_bucket", []):
            key = label_key({label: one for label, one in labels.items() if label != "le"})
            buckets.setdefault(key, []).append((labels["le"], value))
        sums = {label_key(labels): value for labels, value in self._samples.get(name + "_sum", [])}
        names = sorted({label for key in buckets for label, _ in key})
        family = HistogramMetricFamily(name, text, labels=names)
        for key, rows in buckets.items():
            labels = dict(key)
            family.add_metric([labels.get(label, "") for label in names], rows, sums.get(key, 0.0))
        return family
