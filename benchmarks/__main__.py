"""The command behind `./bazelw run //benchmarks`: options, the scenarios one after the other, and the report."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks.peers.cpp_build import CppPeerError, cpp_server, install
from benchmarks.report import tables
from benchmarks.run import history, machine
from benchmarks.run.course import Course
from benchmarks.run.load import LoadError
from benchmarks.run.results import Results, Sample, read, write
from benchmarks.scenarios.named import NOT_IN_A_FULL_RUN, Scenario, scenarios
from benchmarks.scenarios.profiled import profile
from integration.harness.envoy_binary import EnvoyBinaryError
from integration.harness.machine import busy
from integration.harness.processes import ProcessError

_ROUNDS, _SECONDS = 5, 2
_QUICK_ROUNDS, _QUICK_SECONDS = 2, 1
_MOST_ROUNDS, _MOST_SECONDS = 50, 60
_RESULTS = "benchmarks/results"
_EXAMPLES = """\
examples:
  ./bazelw run //benchmarks                              everything (about 20 minutes), report in benchmarks/results
  ./bazelw run //benchmarks:quick                        the main comparisons, roughly (under 2 minutes), in /tmp
  ./bazelw run //benchmarks -- --lane 'native, 5 policies'   one lane, under a minute
  ./bazelw run //benchmarks -- --scenario throughput --rounds 9 --output /tmp/out
  ./bazelw run //benchmarks -- --list                    what the scenarios are

Everything runs on loopback. Load comes from wrk and h2load (Debian: apt-get install wrk nghttp2-client), the C++
peer is compiled with g++ and libgrpc++-dev: --install-cpp installs them, --without-cpp leaves the peer out.
"""


def main(arguments: Sequence[str]) -> int:
    """Run what the options say; return the exit status."""
    options = _parse(arguments)
    known = scenarios(cpp=not options.without_cpp, only=options.lane)
    if options.list:
        for scenario in known.values():
            marks = " (also in --quick)" if scenario.quick else ""
            print(f"{scenario.name:14} {scenario.heading}{marks}")
            for lane in scenario.lanes:
                print(f"    {lane}")
        return 0
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if options.profile:
            _profile(options)
        elif options.render:
            _report(read(options.render), known, options)
        else:
            _measure([known[name] for name in _chosen(options, known)], known, options)
    except KeyboardInterrupt:
        print("benchmarks: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ProcessError, EnvoyBinaryError, LoadError, CppPeerError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(chosen: Sequence[Scenario], known: dict[str, Scenario], options: argparse.Namespace) -> None:
    if options.install_cpp:
        install()
    compiled = any(scenario.compiled for scenario in chosen)
    if compiled:
        cpp_server()  # compiled, or refused, before anything is measured
    course = Course(rounds=options.rounds, seconds=options.seconds)
    notes = {
        **machine.notes(cpp=compiled),
        "rounds": f"{course.rounds} of {course.seconds:g} s for each lane, interleaved, every second one in reverse",
    }
    samples: list[Sample] = []
    for scenario in chosen:
        samples += scenario.run(course)
        notes["load average after"] = busy()
        # After each scenario, so that what was measured is kept whatever becomes of the next.
        _report(Results(notes=notes, samples=samples), known, options)
    _remember(Results(notes=notes, samples=samples), options.output / history.FILE)
    course.say(f"report: {options.output / 'results.md'}")


def _remember(results: Results, path: Path) -> None:
    """Add the run to those before, and say where it is worse."""
    run = history.run_of(results)
    for line in history.drops(run, history.earlier(path)):
        print(f"benchmarks: warning: slower than before: {line}", file=sys.stderr)
    history.add(path, run)


def _profile(options: argparse.Namespace) -> None:
    text = profile(Course(rounds=1, seconds=1))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "profile.md").write_text(text)


def _report(results: Results, known: dict[str, Scenario], options: argparse.Namespace) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    write(results, options.output / "results.json")
    text = tables.report(results, {name: scenario.heading for name, scenario in known.items()})
    (options.output / "results.md").write_text(text)
    if not options.no_plots:
        from benchmarks.report import plots  # noqa: PLC0415 - matplotlib is needed for nothing else

        plots.draw(results, options.output)
    if options.json:
        print((options.output / "results.json").read_text(), end="")


def _chosen(options: argparse.Namespace, known: dict[str, Scenario]) -> Sequence[str]:
    if options.scenario:
        return list(dict.fromkeys(options.scenario))
    if options.lane:
        return _first_with(options.lane, known)
    names = [name for name in known if name not in NOT_IN_A_FULL_RUN]
    return [name for name in names if known[name].quick] if options.quick else names


def _first_with(lanes: Sequence[str], known: dict[str, Scenario]) -> Sequence[str]:
    """Return the scenarios that have these lanes, for each lane the first: that is at full speed for most."""
    chosen, left = [], set(lanes)
    for name, scenario in known.items():
        if left & set(scenario.lanes):
            chosen.append(name)
            left -= set(scenario.lanes)
    return chosen


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    # Under `bazel run` the working directory is the runfiles; paths are those of the person who typed them.
    here = Path(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    workspace = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", here))
    parser = argparse.ArgumentParser(
        prog="benchmarks",
        description="Measures the engine side by side with other ext_proc servers and writes the report.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = list(scenarios(cpp=True))
    parser.add_argument("--list", action="store_true", help="list the scenarios and end")
    parser.add_argument("--scenario", action="append", choices=names, metavar="NAME", help="only this; may be repeated")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_ROUNDS} short rounds of the main scenarios")
    parser.add_argument("--rounds", type=_within(1, _MOST_ROUNDS), help=f"rounds (default {_ROUNDS})")
    parser.add_argument("--seconds", type=_within(1, _MOST_SECONDS), help=f"seconds of a slice (default {_SECONDS})")
    parser.add_argument("--output", type=Path, metavar="DIR", help=f"for the report (default {_RESULTS})")
    parser.add_argument("--json", action="store_true", help="print the samples as JSON too")
    parser.add_argument("--render", type=Path, metavar="FILE", help="measure nothing: report anew from a results.json")
    parser.add_argument("--profile", action="store_true", help="measure nothing: where the engine's CPU goes (py-spy)")
    parser.add_argument("--no-plots", action="store_true", help="no PNG files, so that matplotlib is not needed")
    parser.add_argument("--install-cpp", action="store_true", help="apt-get install what the C++ peer is compiled with")
    parser.add_argument("--without-cpp", action="store_true", help="leave out the C++ peer")
    parser.add_argument(
        "--lane", action="append", default=[], metavar="NAME", help="only this lane (see --list); may be repeated"
    )
    options = parser.parse_args(arguments)
    _check_lanes(parser, options)
    options.rounds = options.rounds or (_QUICK_ROUNDS if options.quick else _ROUNDS)
    options.seconds = options.seconds or (_QUICK_SECONDS if options.quick else _SECONDS)
    options.output = here / options.output if options.output else workspace / _RESULTS
    options.render = here / options.render if options.render else None
    return options


def _check_lanes(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse lanes that none of the chosen scenarios has."""
    known = scenarios(cpp=not options.without_cpp)
    chosen = [known[name] for name in options.scenario or known]
    lanes = dict.fromkeys(lane for scenario in chosen for lane in scenario.lanes)
    for name in options.lane:
        if name not in lanes:
            parser.error(f"no lane {name!r}; there are {', '.join(map(repr, lanes)) or 'none in these scenarios'}")
    if options.lane and any(not set(options.lane) & set(scenario.lanes) for scenario in chosen if options.scenario):
        parser.error("each --scenario has to have one of the --lane")


def _within(least: int, most: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not within {least} to {most}")
        return int(text)

    return whole


def _terminated(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
