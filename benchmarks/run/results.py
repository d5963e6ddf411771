"""What a run found out, as plain data, and as the JSON file from which tables and plots can be made again."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.run.lanes import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One slice of one lane. Names of values end with their unit: `_us`, `_ms`, `_s`, `_bytes`, `per_second`."""

    scenario: str
    lane: str
    round: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """A whole run. `notes` are the machine, versions and options, for the head of the report."""

    notes: Mapping[str, str]
    samples: Sequence[Sample]

    def scenarios(self) -> Sequence[str]:
        """Return the scenarios that were run, in order."""
        return list(dict.fromkeys(sample.scenario for sample in self.samples))

    def lanes(self, scenario: str) -> Sequence[str]:
        """Return the lanes of a scenario, in order."""
        return list(dict.fromkeys(sample.lane for sample in self.samples if sample.scenario == scenario))

    def values(self, scenario: str, lane: str, name: str) -> Sequence[float]:
        """Return one value of a lane, round by round; empty when the run has none."""
        return [
            sample.values[name]
            for sample in self.samples
            if (sample.scenario, sample.lane) == (scenario, lane) and name in sample.values
        ]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def sample_of(scenario: str, lane: str, number: int, measured: Measured) -> Sample:
    """Return what a slice of a lane is kept as."""
    outcome = measured.outcome
    values: dict[str, float] = {
        "per_second": outcome.per_second,
        "messages": measured.messages,
        "server_cpu_us": measured.server_cpu_us,
        "envoy_cpu_us": measured.envoy_cpu_us,
        "envoy_busy": outcome.per_second * measured.envoy_cpu_us / 1e6 * 100,
        "p50_ms": outcome.p50_ms,
        "p95_ms": outcome.p95_ms,
        "p99_ms": outcome.p99_ms,
        "rss_bytes": measured.server_rss_bytes,
        "requests": outcome.requests,
        "failed": outcome.failed,
    }
    return Sample(scenario=scenario, lane=lane, round=number, values=values)


def write(results: Results, path: Path) -> None:
    """Write the JSON file."""
    path.write_text(json.dumps(asdict(results), indent=1) + "\n")


def read(path: Path) -> Results:
    """Read it again."""
    document = json.loads(path.read_text())
    return Results(notes=document["notes"], samples=[Sample(**sample) for sample in document["samples"]])
