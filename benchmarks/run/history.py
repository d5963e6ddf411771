"""What earlier runs found, one line of JSON for each, and a warning when a run is worse than these beyond noise."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.run.results import Results, Spread

FILE: Final = "history.jsonl"
_COMPARED: Final = 5
"""So many runs before are looked at."""
_KEPT: Final = ("per_second", "server_cpu_us", "p95_ms")
_MORE_IS_BETTER: Final = ("per_second",)

Values = Mapping[str, Spread]
"""What is kept of a lane, by the value's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run: when, of which commit, on which machine and how long; `lanes` by scenario and name."""

    date: str
    commit: str
    machine: str
    rounds: str
    lanes: Mapping[str, Mapping[str, Values]]


def run_of(results: Results) -> Run:
    """Return what is kept of `results`."""
    notes = results.notes
    return Run(
        date=notes["date"],
        commit=notes["commit"],
        machine=f"{notes['CPU']}, Python {notes['Python']}",
        rounds=notes["rounds"],
        lanes={
            scenario: {lane: _values(results, scenario, lane) for lane in results.lanes(scenario)}
            for scenario in results.scenarios()
        },
    )


def earlier(path: Path) -> Sequence[Run]:
    """Return the runs in the file, oldest first; none where there is no file yet."""
    if not path.exists():
        return []
    return [_read(line) for line in path.read_text().splitlines() if line.strip()]


def add(path: Path, run: Run) -> None:
    """Append a run to the file."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(run), separators=(",", ":")) + "\n")


def drops(run: Run, before: Sequence[Run]) -> Iterator[str]:
    """Yield a line for each value whose best round is worse than the medians of the last runs on the same machine.

    Only runs with slices as long and as many are compared: what is warmed up for longer is faster.
    """
    alike = [one for one in before if (one.machine, one.rounds) == (run.machine, run.rounds)]
    for scenario, lanes in run.lanes.items():
        for lane, values in lanes.items():
            known = [one.lanes[scenario][lane] for one in alike if lane in one.lanes.get(scenario, {})][-_COMPARED:]
            for name, spread in values.items():
                medians = [one[name].median for one in known if name in one]
                if medians and _is_worse(name, spread, medians):
                    yield (
                        f"{scenario}, {lane}: {name} {spread.median:,.2f} ({spread.low:,.2f}-{spread.high:,.2f}), in "
                        f"the last {len(medians)} runs on this machine {min(medians):,.2f} to {max(medians):,.2f}"
                    )


def _is_worse(name: str, spread: Spread, medians: Sequence[float]) -> bool:
    return spread.high < min(medians) if name in _MORE_IS_BETTER else spread.low > max(medians)


def _values(results: Results, scenario: str, lane: str) -> Values:
    found = {name: results.values(scenario, lane, name) for name in _KEPT}
    return {name: Spread.of(values) for name, values in found.items() if values}


def _read(line: str) -> Run:
    found = json.loads(line)
    lanes = {
        scenario: {lane: {name: Spread(**value) for name, value in values.items()} for lane, values in lanes.items()}
        for scenario, lanes in found.pop("lanes").items()
    }
    return Run(**found, lanes=lanes)
