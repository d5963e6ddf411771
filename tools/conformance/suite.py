"""What all suites share: cases with their outcome, the failures that are expected with their reasons, and the table."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a suite; `detail` says in a line why it failed."""

    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run held against what was expected: `stale` are expected failures that passed, or that are no longer there."""

    cases: tuple[Case, ...]
    expected: Mapping[str, str]
    unexpected: tuple[Case, ...]
    stale: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether everything is as expected."""
        return not self.unexpected and not self.stale


class SuiteError(Exception):
    """A suite could not be run."""


def read_expected(path: Path) -> dict[str, str]:
    """Return the reason of each expected failure by its case: `[[failures]]` with `reason` and `cases`."""
    groups = tomllib.loads(path.read_text())["failures"]
    return {case: group["reason"] for group in groups for case in group["cases"]}


def judge(cases: Iterable[Case], expected: Mapping[str, str]) -> Outcome:
    """Return the outcome of a run."""
    all_cases = tuple(cases)
    failed = {case.name for case in all_cases if not case.passed}
    unexpected = tuple(case for case in all_cases if not case.passed and case.name not in expected)
    return Outcome(all_cases, expected, unexpected, tuple(sorted(expected.keys() - failed)))


def table(name: str, outcome: Outcome) -> str:
    """Return the run as Markdown: the counts, each group of exceptions with its reason, and what is not as expected."""
    passed = sum(case.passed for case in outcome.cases)
    lines = [f"{name}: {passed} of {len(outcome.cases)} cases pass.", ""]
    reasons: dict[str, list[str]] = {}
    for case, reason in outcome.expected.items():
        reasons.setdefault(reason, []).append(case)
    if reasons:
        lines += ["| cases that fail as expected | why |", "|---|---|"]
        lines += [f"| {len(cases)}: {', '.join(cases)} | {reason} |" for reason, cases in reasons.items()]
    lines += [f"NOT EXPECTED to fail: {case.name}: {case.detail}" for case in outcome.unexpected]
    lines += [f"STALE, passes or is gone: {case}" for case in outcome.stale]
    return "\n".join(lines) + "\n"
