"""Where the engine's CPU goes: py-spy samples the worker of a lane under full load; the functions that had most of it.

A sampling profiler and not cProfile, which makes calls dearer than what they do. It runs after everything was measured.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence

from benchmarks.run.accounting import family
from benchmarks.run.course import Course, workplace
from benchmarks.run.lanes import Engine, Lane, Running, started
from benchmarks.run.load import LoadError
from benchmarks.run.upstream import UpstreamEnvoy
from benchmarks.scenarios import chains
from benchmarks.scenarios.chains import Phases

_LANES = (
    Lane(name="native, set-header", server=Engine(chain=[chains.set_header()])),
    Lane(name="native, 5 policies", server=Engine(chain=chains.five()), phases=Phases.BOTH),
)
_SECONDS = 10
_MOST_FUNCTIONS = 30
_PER_SECOND = 500


def profile(course: Course) -> str:
    """Return the profile of each lane as Markdown. Raises LoadError without py-spy."""
    spy = shutil.which("py-spy")
    if spy is None:
        raise LoadError("--profile needs py-spy on PATH: pip install py-spy")
    parts = [
        "# Profile",
        "",
        f"py-spy, {_PER_SECOND} looks a second for {_SECONDS} s at the worker under full load.",
        "",
    ]
    with (
        workplace() as directory,
        UpstreamEnvoy(directory / "upstream") as upstream,
        started(_LANES, upstream.ready(), directory) as running,
    ):
        for one in running:
            course.say(f"profile of {one.lane.name}")
            one.measure(1.0)
            parts += [f"## {one.lane.name}", "", *_functions(_stacks(spy, one)), ""]
    return "\n".join(parts)


def _stacks(spy: str, one: Running) -> list[str]:
    worker = family(one.server.pid if one.server else 0)[-1]
    output = one.directory / "stacks"
    # --gil: threads that wait are no cost.
    options = [
        "--gil",
        "--rate",
        str(_PER_SECOND),
        "--duration",
        str(_SECONDS),
        "--format",
        "raw",
        "--output",
        str(output),
    ]
    with subprocess.Popen([spy, "record", "--pid", str(worker), *options], stdout=subprocess.DEVNULL) as process:
        one.measure(_SECONDS + 1)
        process.wait()
    stacks = output.read_text().splitlines() if output.is_file() else []
    if not stacks:
        raise LoadError(f"py-spy saw nothing of {one.lane.name} (status {process.returncode}); it needs to run as root")
    return stacks


def _functions(stacks: Iterable[str]) -> Sequence[str]:
    """Return a table of functions by their own time; each line of `stacks` is `outer;…;inner count`."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        frames = [_short(frame) for frame in stack.split(";")]
        own[frames[-1]] += int(count)
        within.update(dict.fromkeys(frames, int(count)))
    total = max(1, own.total())
    rows = [
        f"| `{function}` | {count / total:.1%} | {within[function] / total:.1%} |"
        for function, count in own.most_common(_MOST_FUNCTIONS)
    ]
    return ["| function | itself | with what it calls |", "|---|---|---|", *rows]


def _short(frame: str) -> str:
    """Leave out the line, so that a function is one row, and all directories but the last two."""
    found = re.fullmatch(r"(.+) \((.+?)(?::\d+)?\)", frame)
    if found is None:
        return frame
    return f"{found[1]} ({'/'.join(found[2].split('/')[-2:])})"
