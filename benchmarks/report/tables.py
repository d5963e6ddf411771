"""The report in Markdown: figures first, then a table for each scenario, medians with the least and greatest round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.report.figures import figures, spread_of
from benchmarks.run.results import Results, Spread

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    name: str
    form: str
    divisor: float = 1.0
    spread: bool = False


_COLUMNS = (
    _Column("requests/s", "per_second", ",.0f", spread=True),
    _Column("messages per request", "messages", ".1f"),
    _Column("server CPU per request, µs", "server_cpu_us", ",.1f", spread=True),
    _Column("Envoy CPU per request, µs", "envoy_cpu_us", ",.0f"),
    _Column("Envoy busy, % of a core", "envoy_busy", ",.0f"),
    _Column("p50, ms", "p50_ms", ".2f"),
    _Column("p95, ms", "p95_ms", ".2f"),
    _Column("p99, ms", "p99_ms", ".2f"),
    _Column("at once", "at_once", ",.0f"),
    _Column("memory each, bytes", "each_bytes", ",.0f", spread=True),
    _Column("server memory, MB", "rss_bytes", ",.0f", _MB),
    _Column("requests", "requests", ",.0f"),
    _Column("failed", "failed", ",.0f"),
    _Column("of these Envoy's timeouts", "timeouts", ",.0f"),
    _Column("worker back after, s", "back_s", ".2f"),
    _Column("first failure after, s", "first_failure_s", ".3f"),
    _Column("last failure after, s", "last_failure_s", ".3f"),
)


def report(results: Results, headings: Mapping[str, str]) -> str:
    """Return the whole report; `headings` are the scenarios' by name."""
    lines = ["# Benchmark results", "", *_notes(results.notes), *_figures(results)]
    for scenario in results.scenarios():
        lines += ["", f"## {headings.get(scenario, scenario)}", "", f"Scenario `{scenario}`.", ""]
        lines += _scenario(results, scenario)
    return "\n".join(lines) + "\n"


def _notes(notes: Mapping[str, str]) -> Iterator[str]:
    yield from _table(("", ""), notes.items())


def _figures(results: Results) -> Sequence[str]:
    rows = []
    for figure in figures():
        spread = spread_of(figure, results)
        if spread is not None:
            verdict = {True: "reached", False: "**missed**", None: ""}[figure.reached(spread.median)]
            rows.append(
                (
                    figure.what,
                    figure.target(),
                    _shown(spread, ",.0f" if spread.high >= 1000 else ".3g") + figure.unit,
                    verdict,
                )
            )
    if not rows:
        return []
    return ["", "## Figures", "", *_table(("figure", "target", "median (least-greatest round)", ""), rows)]


def _scenario(results: Results, scenario: str) -> Iterator[str]:
    lanes = results.lanes(scenario)
    columns = [column for column in _COLUMNS if any(results.values(scenario, lane, column.name) for lane in lanes)]
    if any(column.name == "per_second" for column in columns):
        columns = [column for column in columns if column.name != "requests"]
    rows = []
    for lane in lanes:
        cells = [lane]
        for column in columns:
            values = [value / column.divisor for value in results.values(scenario, lane, column.name)]
            cells.append(_cell(column, values))
        rows.append(tuple(cells))
    yield from _table(("", *(column.title for column in columns)), rows)


def _cell(column: _Column, values: Sequence[float]) -> str:
    if not values:
        return ""
    if column.name in ("failed", "timeouts"):
        return format(sum(values), column.form)
    spread = Spread.of(values)
    return _shown(spread, column.form) if column.spread else format(spread.median, column.form)


def _shown(spread: Spread, form: str) -> str:
    if spread.low == spread.high:
        return format(spread.median, form)
    return f"{spread.median:{form}} ({spread.low:{form}}-{spread.high:{form}})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
