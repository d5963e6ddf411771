"""What a run found, as docs/faults.md and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from integration.faults.scenario import LONG_S, RATE, Measured, Scenario

_HEAD = f"""\
# What faults cost

Written by `./bazelw run //integration:faults`. A load of {RATE:g} requests a second goes through a real Envoy, with the
configuration that `policy-engine envoy-config` or the control plane writes, to engines of two worker processes each,
through each fault. [faults-found.md](faults-found.md) names the tests of single faults.

- *failed*: not answered with 200. *lost*: without any answer. *open*: answered without the route's chain. No fault may
  make one of the last two.
- *held*: answered after more than {LONG_S:g} s. *p99*: of the time to the answer.
- *recovered*: from the fault (or its end, when it has one) to the last failure and until every worker process serves
  again.
"""
_COLUMNS = ("engines", "sent", "failed", "lost", "open", "held", "p99", "recovered", "promised", "holds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a scenario cost; `broken` is what was promised and does not hold, `measured` None when it did not run."""

    scenario: Scenario
    measured: Measured | None
    broken: tuple[str, ...]

    def cells(self) -> list[str]:
        """Return its line of the table, from the fault on."""
        one, found = self.scenario, self.measured
        holds = "yes" if not self.broken else "**no**: " + "; ".join(self.broken)
        figures = ["-"] * 7
        if found is not None:
            figures = [str(found.sent), str(found.failed), str(found.lost), str(found.opened), str(found.held)]
            figures += [f"{found.p99 * 1000:.0f} ms", f"{found.recovered:.1f} s"]
        return [one.fault, str(one.engines), *figures, one.promise.words(), holds]


def row(outcome: Outcome) -> str:
    """Return the line of the table."""
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in outcome.cells())} |"


def page(outcomes: Sequence[Outcome], facts: Mapping[str, str]) -> str:
    """Return the whole page."""
    table = [f"| fault | {' | '.join(_COLUMNS)} |", f"|{'---|' * (len(_COLUMNS) + 1)}", *map(row, outcomes)]
    machine = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())]
    broken = sum(bool(one.broken) for one in outcomes)
    verdict = "Every promise holds." if not broken else f"{broken} of {len(outcomes)} faults broke a promise."
    not_here = (
        "Not in this command: a clock that is stepped. No process can be given a clock of its own without\n"
        "preloading a library; the tests of [faults-found.md](faults-found.md) step it."
    )
    return "\n".join([_HEAD, verdict, "", *table, "", not_here, "", "## The machine", "", *machine, ""])


def as_json(outcomes: Sequence[Outcome], facts: Mapping[str, str]) -> str:
    """Return the same for machines; times are in seconds."""
    found = [
        {
            "name": one.scenario.name,
            "fault": one.scenario.fault,
            "engines": one.scenario.engines,
            "promise": asdict(one.scenario.promise),
            "measured": asdict(one.measured) if one.measured is not None else None,
            "broken": list(one.broken),
        }
        for one in outcomes
    ]
    return json.dumps({"machine": dict(facts), "faults": found}, indent=2)
