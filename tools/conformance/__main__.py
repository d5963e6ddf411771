"""Runs public conformance suites against the product, on demand: `python tools/conformance h2spec json-schema`.

Exits 0 when all is as expected, 1 when a case fails that should not or an expected failure is stale, 2 when a suite
cannot be run. A suite is a module beside this one with `VERSION`, `EXPECTED` (a file of expected failures) and `run()`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_ROOT = HERE.parent.parent
sys.path[:0] = [str(_ROOT), str(_ROOT / "engine"), str(_ROOT / "policies" / "shared")]

from tools.conformance.suite import SuiteError, judge, read_expected, table  # noqa: E402 - found through the line above

SUITES = {
    "cel-spec": "the conditions of chains, with the simple tests of github.com/google/cel-spec",
    "h2spec": "HTTP/2 (RFC 9113) of the native transport, with github.com/summerwind/h2spec",
    "http-cache-tests": "the policy cache behind Envoy, with http-cache-tests of npm",
    "json-schema": "the policy json-schema-validation, with JSON-Schema-Test-Suite (draft 2020-12)",
    "wycheproof": "the policy jwt-validation, all versions, with the JOSE vectors of github.com/C2SP/wycheproof",
}


def main(arguments: list[str]) -> int:
    """Run the suites that are named."""
    listed = "\n".join(f"  {name:18}{text}" for name, text in SUITES.items())
    parser = argparse.ArgumentParser(
        "conformance", epilog=f"suites:\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="+", choices=sorted(SUITES), metavar="SUITE", help="what to run")
    status = 0
    for name in parser.parse_args(arguments).suites:
        suite: Any = importlib.import_module(f"tools.conformance.{name.replace('-', '_')}_suite")
        try:
            outcome = judge(suite.run(), read_expected(HERE / suite.EXPECTED))
        except SuiteError as error:
            print(f"conformance: {name}: {error}", file=sys.stderr)
            status = 2
            continue
        print(table(f"{name} ({suite.VERSION})", outcome), flush=True)
        if not outcome.holds:
            status = max(status, 1)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
