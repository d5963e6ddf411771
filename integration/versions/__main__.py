"""The command behind `./bazelw run //integration/versions:matrix`: versions, tests, the table and its page."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from integration.versions.matrix import Ran, only, run, table, test_files, workspace, write
from tools.conformance.suite import SuiteError, judge, read_expected
from tools.on_demand.envoy_wheels import VERSIONS, WheelError, envoy

_PAGE = "docs/envoy-versions.md"
_DIFFERENCES = Path(__file__).parent / "differences.toml"
_EXAMPLES = """\
examples:
  ./bazelw run //integration/versions:matrix                      every version, half an hour; table in docs
  ./bazelw run //integration/versions:matrix -- --only 1.40.0     one version, printed
  python -m integration.versions --only 1.37.0 --tests runtime_phases_test.py     the same outside Bazel, one file

exit status: 0 all is as expected, 1 something is not, 2 it could not be run
"""


def told(ran: Ran) -> Ran:
    """Say that the tests of a version ended."""
    print(f"{ran.version}: {len(ran.cases)} cases, {ran.seconds:.0f} s", file=sys.stderr, flush=True)
    return ran


def main(argv: Sequence[str]) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="matrix", description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=VERSIONS, metavar="VERSION", help="may be repeated")
    names = [file.name for file in test_files()]
    parser.add_argument("--tests", action="append", choices=names, metavar="FILE", help="may be repeated")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many versions at once (default 1)")
    kept = "keep a report for each version and file, and run none that has one"
    parser.add_argument("--reports", type=Path, metavar="DIRECTORY", help=kept)
    parser.add_argument("--page", type=Path, help=f"write the table there, too; {_PAGE} for a full run")
    options = parser.parse_args(argv)
    files = [file for file in test_files() if not options.tests or file.name in options.tests]
    versions = options.only or VERSIONS
    expected = read_expected(_DIFFERENCES)
    try:
        with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.jobs) as pool:
            reports = options.reports or Path(name)
            ran = list(pool.map(lambda version: told(run(version, envoy(version), files, reports)), versions))
    except (SuiteError, WheelError) as error:
        print(error, file=sys.stderr)
        return 2
    asked = only(expected, versions)
    outcome = judge((case for one in ran for case in one.cases), asked)
    text = table(ran, asked)
    print(text, *outcome.surprises, sep="\n")
    whole = not options.only and not options.tests
    if options.page or whole:
        write(options.page or workspace() / _PAGE, text)
    return 0 if outcome.holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
