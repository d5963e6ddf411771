"""Runs the tests with each version of Envoy and holds what fails against what is known to differ."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from integration.harness.envoy_binary import VARIABLE, VERSION_VARIABLE
from integration.harness.processes import Process, python_program
from tools.conformance.suite import Case, Expected, SuiteError, rows

ROOT = Path(__file__).parents[2]
TESTS: tuple[str, ...] = (
    "control_plane_test.py",
    "denials_test.py",
    "envoy_config_test.py",
    "envoy_edge_test.py",
    "joined_headers_test.py",
    "library_policies_test.py",
    "mtls_identity_test.py",
    "sample_config_test.py",
    "streaming_policies_test.py",
)
"""Besides `runtime_*_test.py`: what else asks something of Envoy, and not only of the engine."""

BEGIN, END = "<!-- matrix -->", "<!-- end of matrix -->"
"""Around the part of the page that a run writes."""

_NOT_OF_ENVOY = "runtime_memory_test.py"
"""Half a gigabyte of bodies, of which the engine's memory is judged."""

_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Ran:
    """The cases of one version, each named `VERSION/FILE::TEST`, and how long they took."""

    version: str
    cases: tuple[Case, ...]
    seconds: float

    def counts(self) -> Mapping[str, tuple[int, int]]:
        """Return how many cases of each file passed, and of how many."""
        passed = Counter(_file(case) for case in self.cases if case.passed)
        return {name: (passed[name], total) for name, total in Counter(map(_file, self.cases)).items()}


def test_files() -> list[Path]:
    """Return the files of all tests that are run."""
    directory = ROOT / "integration"
    runtime = (file for file in sorted(directory.glob("runtime_*_test.py")) if file.name != _NOT_OF_ENVOY)
    return [*runtime, *(directory / name for name in TESTS)]


def run(version: str, envoy: Path, files: Sequence[Path], kept: Path) -> Ran:
    """Run the files with this Envoy, but for those whose report is in `kept`; raises SuiteError for one without."""
    begin = time.monotonic()
    directory = kept / version
    directory.mkdir(parents=True, exist_ok=True)
    found: list[Case] = []
    for file in files:
        report = directory / f"{file.stem}.xml"
        if not report.exists():
            _run_file(version, envoy, file, report)
        found += cases(version, report.read_text("utf-8"))
    return Ran(version, tuple(found), time.monotonic() - begin)


def _run_file(version: str, envoy: Path, file: Path, report: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="envoy-") as name:
        new = Path(name) / "report.xml"
        own = ("-q", "-W", "ignore", "-p", "no:cacheprovider", f"--rootdir={ROOT}", f"--junitxml={new}")
        command, environment = python_program("pytest", *own, file)
        chosen = {**environment, VARIABLE: str(envoy), VERSION_VARIABLE: version}
        with Process("pytest", command, log_path=Path(name) / "log", env=chosen, cwd=ROOT) as tests:
            tests.wait(_SECONDS)
            if not new.exists():
                raise SuiteError(f"Envoy {version}: {file.name} made no report\n{tests.log()[-2000:]}")
        report.write_bytes(new.read_bytes())


def cases(version: str, report: str) -> Iterator[Case]:
    """Yield the cases of a report of pytest, without those that it skipped."""
    # Written by the pytest that was just run, on this machine.
    for case in ElementTree.fromstring(report).iter("testcase"):
        kinds = {one.tag: one for one in case}
        if "skipped" in kinds:
            continue
        problem = kinds.get("failure", kinds.get("error"))
        detail = " ".join((problem.get("message") or "").split())[:300] if problem is not None else ""
        # The module of the test, and its class if it is in one.
        where = (case.get("classname") or "").removeprefix("integration.").replace(".", "::")
        yield Case(f"{version}/{where}::{case.get('name')}", problem is None, detail)


def only(expected: Expected, versions: Sequence[str]) -> Expected:
    """Return what is expected of these versions."""
    return Expected({name: why for name, why in expected.cases.items() if name.partition("/")[0] in versions})


def table(ran: Sequence[Ran], expected: Expected) -> str:
    """Return the runs as Markdown: a row for each file, a column for each version, and why what fails does."""
    counts = [one.counts() for one in ran]
    files = sorted({name for one in counts for name in one})
    head = f"| tests | {' | '.join(one.version for one in ran)} |"
    lines = [head, f"|---|{'---|' * len(ran)}"]
    lines += [f"| `{name}` | {' | '.join(_cell(*one.get(name, (0, 0))) for one in counts)} |" for name in files]
    sums = [(sum(one[0] for one in count.values()), sum(one[1] for one in count.values())) for count in counts]
    lines.append(f"| all | {' | '.join(_cell(*one) for one in sums)} |")
    why = rows(expected)
    if why:
        lines += ["", "| differ | which | why |", "|---|---|---|", *why]
    return "\n".join(lines)


def write(page: Path, text: str) -> None:
    """Put `text` between the marks of the page, whose rest people write; raises SuiteError for one without marks."""
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SuiteError(f"{page} has no marks {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")


def workspace() -> Path:
    """Return the tree whose page is written; under `bazel run` another one than that of the running files."""
    return Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", ROOT))


def _file(case: Case) -> str:
    return case.name.partition("/")[2].partition("::")[0]


def _cell(passed: int, total: int) -> str:
    if not total:
        return "none"
    return str(total) if passed == total else f"{passed} of {total}"
