"""What is worked out from samples: ratios, percentiles, verdicts, CPU of whole process families."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import pytest

from benchmarks.report.figures import figures, spread_of
from benchmarks.report.tables import report
from benchmarks.run.accounting import family, usage
from benchmarks.run.load import outcome_of_log, percentile
from benchmarks.run.results import Results, Sample, Spread
from benchmarks.run.servers import Peer
from benchmarks.scenarios.named import AIO, CPP, native, scenarios


def throughput(rounds: Mapping[str, list[float]], name: str = "per_second") -> Results:
    samples = [
        Sample(scenario="throughput", lane=lane, round=number, values={name: value})
        for lane, values in rounds.items()
        for number, value in enumerate(values, 1)
    ]
    return Results(notes={"date": "today"}, samples=samples)


def test_a_ratio_is_taken_round_by_round() -> None:
    # The machine was ten times slower in the second round; the ratio of medians would be 1.
    results = throughput({native("set-header"): [300.0, 30.0, 100.0], AIO: [100.0, 10.0, 50.0]})
    figure = next(figure for figure in figures() if figure.what == "set-header: throughput / grpc.aio")
    assert spread_of(figure, results) == Spread(3.0, 2.0, 3.0)


@pytest.mark.parametrize(("cpp", "verdict"), [(100.0, "reached"), (200.0, "**missed**")])
def test_the_report_says_what_was_missed(cpp: float, verdict: str) -> None:
    text = report(throughput({native("set-header"): [130.0], CPP: [cpp]}), {"throughput": "Speed"})
    line = next(line for line in text.splitlines() if line.startswith("| set-header: throughput / C++"))
    assert line.endswith(f"| {verdict} |")
    assert "## Speed" in text
    assert "10,000 in flight" not in text, "a figure that was not measured is not told"


def test_the_log_of_h2load() -> None:
    log = "".join(
        f"{1_000_000 + 1000 * number}\t{503 if number == 7 else 200}\t{number * 1000}\n" for number in range(100)
    )
    outcome = outcome_of_log(log)
    assert (outcome.requests, outcome.failed) == (100, 1)
    assert (outcome.p50_ms, outcome.p95_ms, outcome.p99_ms) == (49.0, 94.0, 98.0)
    assert outcome.seconds == pytest.approx(0.198)


@pytest.mark.parametrize(("part", "expected"), [(1, 1), (50, 5), (95, 10), (100, 10)])
def test_percentile(part: int, expected: int) -> None:
    assert percentile(list(range(1, 11)), part) == expected


def test_the_cpu_of_children_counts() -> None:
    spin = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nprint(1, flush=True)\ninput()"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {spin!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdin
        process.stdout.read(1)
        members = family(process.pid)
        used = usage(process.pid)
        own = usage(members[-1])
        process.stdin.close()
    assert len(members) == 2
    assert used.cpu_s >= own.cpu_s >= 0.25
    assert used.rss_bytes > own.rss_bytes > 1_000_000


def test_a_process_that_ended_uses_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert usage(process.pid).cpu_s == 0


def test_every_scenario_runs_without_the_compiled_peer_too() -> None:
    assert scenarios(cpp=True).keys() == scenarios(cpp=False).keys()
    assert Peer.CPP.value == CPP
