"""The course of a scenario of lanes: everything started, warmed up, then interleaved rounds A B C, C B A, A B C, …

Apart from what the scenarios are, because the comparison stands or falls with the order of its slices.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.run.lanes import Lane, Running, started
from benchmarks.run.results import Sample, sample_of
from benchmarks.run.upstream import UpstreamEnvoy

_WARM_UP_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How long and how often, and whom to tell."""

    rounds: int
    seconds: float
    begun: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Show progress on standard error."""
        minutes, seconds = divmod(int(time.monotonic() - self.begun), 60)
        print(f"[{minutes:2}:{seconds:02}] {text}", file=sys.stderr, flush=True)


Beside = Callable[[int], Sequence[Sample]]
"""Something measured once in each round, between the lanes of this round and those of the next."""


def interleaved(scenario: str, lanes: Sequence[Lane], course: Course, beside: Beside | None = None) -> list[Sample]:
    """Measure all lanes in rounds, every second one in reverse order."""
    with workplace() as directory, UpstreamEnvoy(directory / "upstream") as upstream:
        course.say(f"{scenario}: starting {len(lanes)} lanes")
        with started(lanes, upstream.ready(), directory) as running:
            for one in running:
                one.measure(_WARM_UP_S)
            samples: list[Sample] = []
            for number in range(1, course.rounds + 1):
                samples += _round(scenario, number, running, course)
                if beside is not None:
                    samples += beside(number)
            return samples


def _round(scenario: str, number: int, running: Sequence[Running], course: Course) -> Iterator[Sample]:
    for one in running if number % 2 else reversed(running):
        sample = sample_of(scenario, one.lane.name, number, one.measure(course.seconds))
        values = sample.values
        failed = f", {values['failed']:.0f} FAILED" if values["failed"] else ""
        course.say(
            f"{scenario} {number}/{course.rounds} {one.lane.name}: {values['per_second']:,.0f} req/s, server "
            f"{values['server_cpu_us']:.0f} µs, p95 {values['p95_ms']:.2f} ms{failed}"
        )
        yield sample


@contextmanager
def workplace() -> Iterator[Path]:
    """Give a directory for the files of one scenario; its path is short, since it holds Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        yield Path(name)
