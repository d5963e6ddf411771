"""Writes samples in the Prometheus text format (R-51).

Apart from `metrics` because only the supervisor is scraped: workers start without importing the client library.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from policy_engine.telemetry.metrics import DURATION, METRICS, Samples, label_key


def exposition(samples: Samples) -> bytes:
    """Return `samples` in the Prometheus text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(samples))
    return generate_latest(registry)


class _Collector:
    """Presents samples to `prometheus_client`."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def collect(self) -> Iterable[Metric]:
        for name, (kind, text) in METRICS.items():
            rows = self._samples.get(name, [])
            names = sorted({label for labels, _ in rows for label in labels})
            family: Any = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(name, text, labels=names)
            for labels, value in rows:
                family.add_metric([labels.get(label, "") for label in names], value)
            yield family
        yield self._durations()

    def _durations(self) -> Metric:
        family = HistogramMetricFamily(
            DURATION, "Wall time of a policy's hooks.", labels=["route", "policy", "version"]
        )
        buckets: dict[tuple[tuple[str, str], ...], list[tuple[str, float]]] = {}
        for labels, value in self._samples.get(DURATION + "_bucket", []):
            key = label_key({name: text for name, text in labels.items() if name != "le"})
            buckets.setdefault(key, []).append((labels["le"], value))
        sums = {label_key(labels): value for labels, value in self._samples.get(DURATION + "_sum", [])}
        for key, rows in buckets.items():
            labels = dict(key)
            family.add_metric([labels["route"], labels["policy"], labels["version"]], rows, sums.get(key, 0.0))
        return family
