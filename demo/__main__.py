"""The command behind `./bazelw run //:demo`: options, the course of the demo, and an end that leaves nothing behind."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from demo.house import House, started
from demo.report import Report, report_for
from demo.show import show
from integration.harness.envoy_binary import EnvoyBinaryError
from integration.harness.processes import ProcessError

_EXAMPLES = """\
examples:
  ./bazelw run //:demo                                 send the requests, then stay up until Ctrl-C
  ./bazelw run //:demo -- --once                       end after the requests; exit status 1 if one went wrong
  ./bazelw run //:demo -- --port 10000                 let Envoy listen on port 10000
  ./bazelw run //:demo -- --once --json | grep '"request"'   one JSON object a line, for programs

Envoy, engine and upstream run as processes of this machine, on loopback only. No container engine is needed.
"""


def main(arguments: list[str]) -> int:
    """Run the demo; return the exit status."""
    options = _parse(arguments)
    report = report_for(as_json=options.json)
    signal.signal(signal.SIGTERM, _terminated)
    failed: int | None = None
    try:
        with (
            tempfile.TemporaryDirectory(prefix="policy-engine-demo-") as directory,
            started(Path(directory), options.port, report) as house,
        ):
            failed = show(house, report)
            if not options.once:
                _stay(house, report)
    except KeyboardInterrupt:
        report.step("stopped")
        if failed is None:
            return 128 + signal.SIGINT
    except (ProcessError, EnvoyBinaryError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 1 if failed else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="demo",
        description="Starts an upstream, the engine and Envoy, sends requests and says what ran.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--once", action="store_true", help="end after the requests instead of staying up")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line instead of text")
    parser.add_argument("--port", type=int, default=0, help="port for Envoy to listen on (default: any free one)")
    return parser.parse_args(arguments)


def _stay(house: House, report: Report) -> None:
    report.facts("Still running; try it yourself, Ctrl-C ends it", house.to_try())
    while True:
        for process in (house.upstream, house.engine, house.proxy):
            if not process.running():
                raise ProcessError(f"{process.name} ended by itself\n{process.log()}")
        time.sleep(0.5)


def _terminated(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
