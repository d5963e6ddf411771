"""The command behind `./bazelw run //integration:faults`: options, the faults one after the other, and the report."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from integration.faults import bodies, changes, keys, scarcity, stores, supervisors, workers
from integration.faults.report import Outcome, as_json, page
from integration.faults.scenario import Scenario, Terms
from integration.faults.site import NotReachedError
from integration.harness.envoy_binary import EnvoyBinaryError, envoy_binary
from integration.harness.machine import busy, facts
from integration.harness.processes import ProcessError

SCENARIOS: tuple[Scenario, ...] = (
    *workers.SCENARIOS,
    *supervisors.SCENARIOS,
    *changes.SCENARIOS,
    *stores.SCENARIOS,
    *keys.SCENARIOS,
    *scarcity.SCENARIOS,
    *bodies.SCENARIOS,
)
_PAGE = "docs/faults.md"
_MOST_SECONDS = 60
_EXAMPLES = """\
examples:
  ./bazelw run //integration:faults                               everything, ten minutes; report in docs/faults.md
  ./bazelw run //integration:faults -- --only worker-stopped      one fault, printed
  python -m integration.faults --only redis-gone --json           the same outside Bazel, with $ENVOY_BINARY set

exit status: 0 every promise holds, 1 one does not, 2 it could not be run
"""


def run(scenario: Scenario, seconds: float) -> Outcome:
    """Run one and judge it."""
    try:
        measured = scenario.run(Terms(engines=scenario.engines, seconds=seconds))
    except Exception as error:  # what does not run is a breach, and no reason not to run the others
        if not isinstance(error, ProcessError | NotReachedError):
            traceback.print_exc()
        return Outcome(scenario=scenario, measured=None, broken=(f"did not run: {error!r}".splitlines()[0][:300],))
    return Outcome(scenario=scenario, measured=measured, broken=tuple(measured.broken(scenario.promise)))


def line(outcome: Outcome) -> str:
    """Return what is printed of it while others still run."""
    found = outcome.measured
    verdict = "holds" if not outcome.broken else f"BROKEN: {'; '.join(outcome.broken)}"
    if found is None:
        return f"{outcome.scenario.name:29} {verdict}"
    counts = f"sent {found.sent:5}  failed {found.failed:4}  lost {found.lost}  open {found.opened}  held {found.held}"
    times = f"p99 {found.p99 * 1000:.0f} ms  recovered {found.recovered:.1f} s"
    return (
        f"{outcome.scenario.name:29} {counts}  {times}  {found.kinds or ''}\n"
        f"{'':29} promised: {outcome.scenario.promise.words()}: {verdict}"
    )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="faults",
        description="Puts a steady load through one fault after the other, beside what docs promise.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [one.name for one in SCENARIOS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help="this fault (may be repeated)")
    parser.add_argument("--list", action="store_true", help="print the names of all faults and what they are")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="N", help="load per fault at least (default 10)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, progress goes to stderr")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=f"the page to write; {_PAGE} of the workspace for a full run"
    )
    options = parser.parse_args(argv)
    if not 1 <= options.seconds <= _MOST_SECONDS:
        parser.error(f"--seconds must be from 1 to {_MOST_SECONDS} (got {options.seconds:g})")
    return options


def main(argv: Sequence[str]) -> int:
    """Run the command; return the exit status."""
    options = _arguments(argv)
    if options.list:
        print("\n".join(f"{one.name:29} {one.fault}" for one in SCENARIOS))
        return 0
    try:
        envoy_binary()
    except EnvoyBinaryError as error:
        print(error, file=sys.stderr)
        return 2
    chosen = [one for one in SCENARIOS if not options.only or one.name in options.only]
    known = {**facts(), "load average before": busy()}
    outcomes = []
    for one in chosen:
        outcomes.append(run(one, options.seconds))
        print(line(outcomes[-1]), file=sys.stderr if options.json else sys.stdout, flush=True)
    known = {**known, "load average after": busy()}
    if options.json:
        print(as_json(outcomes, known))
    # Under `bazel run` the working directory is not where the command was given.
    given_in, workspace = (
        os.environ.get("BUILD_WORKING_DIRECTORY", "."),
        os.environ.get("BUILD_WORKSPACE_DIRECTORY", "."),
    )
    output = Path(given_in, options.output) if options.output else Path(workspace, _PAGE)
    if options.output or not options.only:
        output.write_text(page(outcomes, known), encoding="utf-8")
    return 1 if any(one.broken for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
