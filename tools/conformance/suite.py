"""What all suites share: cases with their outcome, the failures that are expected with their reasons, and the table."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a suite, named `section/name`.

    Of one that failed, `kind` is a few words that many cases share, `detail` says in a line why it failed.
    """

    name: str
    passed: bool
    detail: str = ""
    kind: str = ""

    @property
    def section(self) -> str:
        """The name without its last part."""
        return self.name.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Expected:
    """The failures that are expected: single cases with the reason, and how many of one kind fail in a section."""

    cases: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    """By section and kind: how many, and the reason."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run held against what was expected: `surprises` says in a line each what is otherwise, both ways."""

    cases: tuple[Case, ...]
    expected: Expected
    surprises: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether everything is as expected, in a run that had cases at all."""
        return bool(self.cases) and not self.surprises


class SuiteError(Exception):
    """A suite could not be run."""


def read_expected(path: Path) -> Expected:
    """Return what a file expects: `[[failures]]` with `reason`, and `cases`, or `kind` and `sections` with numbers.

    Raises SuiteError for a case that stands twice, and for a group without a reason.
    """
    cases: dict[str, str] = {}
    counts: dict[tuple[str, str], tuple[int, str]] = {}
    for group in tomllib.loads(path.read_text("utf-8")).get("failures", []):
        if not group.get("reason"):
            raise SuiteError(f"{path.name}: each group of failures needs a reason")
        sections = group.get("sections", {})
        entries = [*group.get("cases", []), *((section, group["kind"]) for section in sections)]
        twice = [entry for entry in entries if entry in cases or entry in counts or entries.count(entry) > 1]
        if twice:
            raise SuiteError(f"{path.name}: {twice[0]} stands twice")
        cases |= dict.fromkeys(group.get("cases", []), group["reason"])
        counts |= {(section, group["kind"]): (number, group["reason"]) for section, number in sections.items()}
    return Expected(cases, counts)


def judge(cases: Iterable[Case], expected: Expected) -> Outcome:
    """Return the outcome of a run: failures nobody expects and expected ones that did not come are surprises."""
    all_cases = tuple(cases)
    failed = {case.name: case for case in all_cases if not case.passed}
    others = [case for case in failed.values() if case.name not in expected.cases]
    found = Counter((case.section, case.kind) for case in others)
    surprises = [
        f"NOT EXPECTED to fail: {case.name}: {case.detail or case.kind}"
        for case in others
        if found[case.section, case.kind] > expected.counts.get((case.section, case.kind), (0, ""))[0]
    ]
    surprises += [f"STALE, passes or is gone: {name}" for name in sorted(expected.cases.keys() - failed.keys())]
    surprises += [
        f"STALE: {section}: {kind}: {found[section, kind]} cases, and {number} were expected"
        for (section, kind), (number, _) in sorted(expected.counts.items())
        if found[section, kind] < number
    ]
    surprises += [
        f"TWICE in the suite: {name}" for name, times in Counter(c.name for c in all_cases).items() if times > 1
    ]
    return Outcome(all_cases, expected, tuple(surprises))


def table(name: str, outcome: Outcome) -> str:
    """Return the run as Markdown: the counts, each group of exceptions with its reason, and what is not as expected."""
    total, passed = len(outcome.cases), sum(case.passed for case in outcome.cases)
    lines = [f"{name}: {passed} of {total} cases pass, {total - passed} do not.", ""]
    exceptions = rows(outcome.expected)
    if exceptions:
        lines += ["| fail as expected | which | why |", "|---|---|---|", *exceptions]
    return "\n".join([*lines, *outcome.surprises]) + "\n"


def rows(expected: Expected) -> list[str]:
    """Return a row of the table for each reason."""
    groups = _groups(expected).items()
    return [f"| {number} | {'; '.join(which)} | {reason} |" for reason, (number, which) in groups]


def _groups(expected: Expected) -> dict[str, tuple[int, list[str]]]:
    """Return for each reason how many cases it has, and which: those of one section together, `a/1, 2; b (12)`."""
    sections: dict[str, dict[str, list[str]]] = {}
    for case, reason in expected.cases.items():
        section, _, last = case.rpartition("/")
        sections.setdefault(reason, {}).setdefault(section, []).append(last)
    groups = {
        reason: (sum(map(len, found.values())), [f"{section}/{', '.join(names)}" for section, names in found.items()])
        for reason, found in sections.items()
    }
    for (section, _), (number, reason) in expected.counts.items():
        total, which = groups.get(reason, (0, []))
        groups[reason] = (total + number, [*which, f"{section} ({number})"])
    return groups
