"""The plots in PNG: bars for what is compared, lines for what grows. The only module that needs matplotlib."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.run.results import Results, Spread
from benchmarks.scenarios.named import CPP, NO_FILTER

_GROWTH = {"routes": "routes", "chain": "policies", "workers": "worker processes", "connections": "connections"}
_OURS, _PEERS, _ENVOY = "#1f6f8b", "#b0793b", "#999999"


def draw(results: Results, directory: Path) -> list[Path]:
    """Draw what the run has samples for; return the files."""
    drawn = []
    for scenario in results.scenarios():
        path = directory / f"{scenario}.png"
        if scenario in _GROWTH:
            _lines(results, scenario, path)
        elif any(results.values(scenario, lane, "per_second") for lane in results.lanes(scenario)):
            _bars(results, scenario, path)
        else:
            continue
        drawn.append(path)
    return drawn


def _bars(results: Results, scenario: str, path: Path) -> None:
    panels = (
        [("p95_ms", "p95, ms"), ("p99_ms", "p99, ms")]
        if scenario == "latency"
        else [("per_second", "requests/s"), ("server_cpu_us", "server CPU per request, µs")]
    )
    lanes = results.lanes(scenario)
    figure = Figure(figsize=(13, 1.2 + 0.34 * len(lanes)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (name, title) in zip(axes, panels, strict=True):
        for row, lane in enumerate(lanes):
            values = results.values(scenario, lane, name)
            if values:
                spread = Spread.of(values)
                error = [[spread.median - spread.low], [spread.high - spread.median]]
                axis.barh(row, spread.median, xerr=error, color=_colour(lane), error_kw={"lw": 1})
        axis.set_title(title)
        axis.set_yticks(range(len(lanes)), lanes)
    axes[0].invert_yaxis()
    _save(figure, results, scenario, path)


def _lines(results: Results, scenario: str, path: Path) -> None:
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, (name, title) in zip(
        axes, [("per_second", "requests/s"), ("server_cpu_us", "server CPU per request, µs")], strict=True
    ):
        for label, lanes in _series(results.lanes(scenario)).items():
            spreads = [Spread.of(results.values(scenario, lane, name)) for lane in lanes]
            medians = [spread.median for spread in spreads]
            errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
            axis.errorbar(
                [_number(lane) for lane in lanes], medians, yerr=errors, marker="o", label=label, color=_colour(label)
            )
        if scenario in ("routes", "connections"):
            axis.set_xscale("log")
        axis.set(title=title, xlabel=_GROWTH[scenario])
        axis.set_ylim(bottom=0)
        axis.legend()
    _save(figure, results, scenario, path)


def _series(lanes: Sequence[str]) -> dict[str, list[str]]:
    series: dict[str, list[str]] = {}
    for lane in lanes:
        if re.search(r"\d", lane):
            series.setdefault(lane.partition(",")[0], []).append(lane)
    return series


def _number(lane: str) -> int:
    return int(re.findall(r"\d+", lane)[0])


def _colour(lane: str) -> str:
    if lane.startswith(NO_FILTER):
        return _ENVOY
    return _PEERS if lane.startswith((CPP, "grpc.aio", "grpc threads", "PyJWT")) else _OURS


def _save(figure: Figure, results: Results, scenario: str, path: Path) -> None:
    figure.suptitle(f"{scenario}, {results.notes.get('date', '')}, {results.notes.get('CPU', '')}", fontsize=9)
    figure.savefig(path, dpi=90)
