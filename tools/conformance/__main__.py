"""Runs public conformance suites against the product, on demand: `python tools/conformance h2spec`.

Exits 0 when all is as expected, 1 when a case fails that should not or an expected failure is stale, 2 when a suite
cannot be run. A suite is a module beside this one with `EXPECTED` (a file of expected failures) and `run()`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "engine")]

from suite import SuiteError, judge, read_expected, table  # noqa: E402

SUITES = {"h2spec": "HTTP/2 (RFC 9113) of the native transport, with github.com/summerwind/h2spec"}


def main(arguments: list[str]) -> int:
    """Run the suites that are named."""
    listed = "\n".join(f"  {name}  {text}" for name, text in SUITES.items())
    parser = argparse.ArgumentParser(
        "conformance", epilog=f"suites:\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="+", choices=sorted(SUITES), metavar="SUITE", help="what to run")
    holds = True
    for name in parser.parse_args(arguments).suites:
        suite: Any = importlib.import_module(f"{name}_suite")
        try:
            outcome = judge(suite.run(), read_expected(HERE / suite.EXPECTED))
        except SuiteError as error:
            print(f"conformance: {name}: {error}", file=sys.stderr)
            return 2
        print(table(name, outcome))
        holds = holds and outcome.holds
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
