"""A drop is told when no round of a run is as good as the runs before it were, and else nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.run.history import Run, add, drops, earlier, run_of
from benchmarks.run.results import Results, Sample

NOTES = {"date": "2026-11-30 12:00 UTC", "commit": "abc", "CPU": "a", "Python": "3", "rounds": "3 of 1 s"}


def run(values: list[float], name: str = "server_cpu_us", **notes: str) -> Run:
    samples = [
        Sample(scenario="throughput", lane="native", round=number, values={name: value})
        for number, value in enumerate(values, 1)
    ]
    return run_of(Results(notes=NOTES | notes, samples=samples))


@pytest.mark.parametrize(
    ("name", "before", "now", "told"),
    [
        ("server_cpu_us", [[10, 11, 12]], [13, 14, 15], True),
        ("server_cpu_us", [[10, 11, 12]], [11, 14, 15], False),  # one round was as good: noise
        ("server_cpu_us", [[10, 11, 12], [13, 14, 14]], [13.5, 14, 15], False),
        ("server_cpu_us", [[10, 11, 12]], [5, 6, 7], False),
        ("per_second", [[100, 110, 120]], [90, 95, 100], True),
        ("per_second", [[100, 110, 120]], [130, 140, 150], False),
        ("p95_ms", [], [13, 14, 15], False),
        # What is long ago counts no more.
        ("server_cpu_us", [[30], *[[10]] * 5], [20], True),
    ],
)
def test_a_drop_is_told_beyond_noise(name: str, before: list[list[float]], now: list[float], told: bool) -> None:
    lines = list(drops(run(now, name), [run(one, name) for one in before]))
    assert bool(lines) is told
    assert all(line.startswith(f"throughput, native: {name} ") for line in lines)


@pytest.mark.parametrize("other", [{"CPU": "b"}, {"Python": "4"}, {"rounds": "9 of 9 s"}])
def test_other_machines_and_other_rounds_are_not_compared(other: dict[str, str]) -> None:
    assert not list(drops(run([20]), [run([10], **other)]))


def test_the_file_has_a_line_for_each_run(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert earlier(path) == []
    for values in ([1.0, 2.0], [3.0]):
        add(path, run(values))
    assert earlier(path) == [run([1.0, 2.0]), run([3.0])]
    assert len(path.read_text().splitlines()) == 2
