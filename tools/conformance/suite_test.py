"""A run is as expected only when every failure was, every expected failure is one still, and there were cases at all."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tools.conformance.__main__ import SUITES, main
from tools.conformance.suite import Case, Expected, SuiteError, judge, read_expected, rows, table

FAILS, PASSES = Case("a/1", passed=False, detail="why"), Case("a/2", passed=True)
OF_A_KIND = [Case(f"b/{number}", passed=False, kind="odd") for number in range(3)]
HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "conformance.md"


@pytest.mark.parametrize(
    ("expected", "holds", "says"),
    [
        ({"a/1": "known"}, True, "| 1 | a/1 | known |"),
        ({}, False, "NOT EXPECTED to fail: a/1: why"),
        ({"a/1": "known", "a/2": "mended since"}, False, "STALE, passes or is gone: a/2"),
        ({"a/1": "known", "a/3": "renamed since"}, False, "STALE, passes or is gone: a/3"),
    ],
)
def test_a_run_is_held_against_what_is_expected(expected: dict[str, str], holds: bool, says: str) -> None:
    outcome = judge([FAILS, PASSES], Expected(expected))
    assert outcome.holds is holds
    assert says in table("suite", outcome)
    assert "1 of 2 cases pass" in table("suite", outcome)


@pytest.mark.parametrize(
    ("section", "kind", "number", "says"),
    [
        ("b", "odd", 3, None),
        ("b", "odd", 2, "NOT EXPECTED to fail: b/0: odd"),
        ("b", "odd", 4, "STALE: b: odd: 3 cases, and 4 were expected"),
        ("b", "even", 3, "STALE: b: even: 0 cases, and 3 were expected"),
        ("a", "odd", 3, "STALE: a: odd: 0 cases, and 3 were expected"),
    ],
)
def test_so_many_of_a_kind_fail_in_a_section_no_more_and_no_fewer(
    section: str, kind: str, number: int, says: str | None
) -> None:
    outcome = judge([*OF_A_KIND, PASSES], Expected(counts={(section, kind): (number, "known")}))
    assert outcome.holds is (says is None)
    assert says is None or says in table("suite", outcome)


def test_a_case_that_is_expected_by_name_does_not_count_in_its_section() -> None:
    expected = Expected({"b/1": "another reason"}, {("b", "odd"): (2, "known")})
    outcome = judge(OF_A_KIND, expected)
    assert outcome.holds
    assert table("suite", outcome).splitlines()[2:] == [
        "| fail as expected | which | why |",
        "|---|---|---|",
        "| 1 | b/1 | another reason |",
        "| 2 | b (2) | known |",
    ]


def test_cases_of_one_reason_are_listed_by_section() -> None:
    expected = Expected({"a/x/1": "r", "c/3": "r", "a/x/2": "r"}, {("b", "odd"): (1, "r")})
    assert "| 4 | a/x/1, 2; c/3; b (1) | r |" in table("suite", judge([], expected))


def test_a_suite_without_cases_does_not_hold() -> None:
    assert not judge([], Expected()).holds


def test_a_name_that_a_suite_has_twice_is_told_since_one_of_them_would_hide_the_other() -> None:
    outcome = judge([PASSES, PASSES], Expected())
    assert outcome.surprises == ("TWICE in the suite: a/2",)


def test_a_file_of_expected_failures_is_read(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text(
        '[[failures]]\nreason = "known"\ncases = ["a/1"]\n'
        '[[failures]]\nreason = "of a kind"\nkind = "odd"\n[failures.sections]\n"b/c" = 2\n'
    )
    assert read_expected(file) == Expected({"a/1": "known"}, {("b/c", "odd"): (2, "of a kind")})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[failures]]\ncases = ["a/1"]\n', "some.toml: each group of failures needs a reason"),
        ('[[failures]]\nreason = ""\ncases = ["a/1"]\n', "some.toml: each group of failures needs a reason"),
        ('[[failures]]\nreason = "r"\ncases = ["a/1", "a/1"]\n', "some.toml: a/1 stands twice"),
        (
            '[[failures]]\nreason = "r"\ncases = ["a/1"]\n[[failures]]\nreason = "s"\ncases = ["a/1"]\n',
            "some.toml: a/1 stands twice",
        ),
    ],
)
def test_a_file_that_would_hide_something_is_refused(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text(text)
    with pytest.raises(SuiteError) as caught:
        read_expected(file)
    assert str(caught.value) == says


def cannot_run() -> Iterator[Case]:
    yield PASSES
    raise SuiteError("no such program")


@pytest.mark.parametrize(
    ("run", "status", "says"),
    [
        (lambda: [FAILS, PASSES], 0, "fake (v1): 1 of 2 cases pass, 1 do not."),
        (lambda: [PASSES], 1, "STALE, passes or is gone: a/1"),
        (lambda: [FAILS, *OF_A_KIND], 1, "NOT EXPECTED to fail: b/0: odd"),
        (lambda: [], 1, "0 of 0 cases pass"),
        (cannot_run, 2, "conformance: fake: no such program"),
    ],
)
def test_the_exit_status_tells_how_it_went(
    run: Any,
    status: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = tmp_path / "fake.toml"
    expected.write_text('[[failures]]\nreason = "known"\ncases = ["a/1"]\n')
    fake = SimpleNamespace(run=run, VERSION="v1", EXPECTED=str(expected))
    monkeypatch.setitem(sys.modules, "tools.conformance.fake_suite", fake)
    monkeypatch.setitem(SUITES, "fake", "made up")
    assert main(["fake"]) == status
    assert says in "".join(capsys.readouterr())


@pytest.mark.parametrize("name", sorted(SUITES))
def test_each_suite_has_what_the_command_asks_of_it(name: str) -> None:
    suite = importlib.import_module(f"tools.conformance.{name.replace('-', '_')}_suite")
    assert callable(suite.run)
    assert suite.VERSION
    expected = read_expected(HERE / suite.EXPECTED)
    assert all(number > 0 for number, _ in expected.counts.values())


@pytest.mark.parametrize("name", sorted(SUITES))
def test_the_page_has_each_exception_with_its_reason(name: str) -> None:
    suite = importlib.import_module(f"tools.conformance.{name.replace('-', '_')}_suite")
    lines = PAGE.read_text("utf-8").splitlines()
    assert [row for row in rows(read_expected(HERE / suite.EXPECTED)) if row not in lines] == []
    assert [line for line in lines if line.startswith(f"{name} ({suite.VERSION}): ")], "no last run of this version"


def test_no_file_of_expected_failures_is_forgotten() -> None:
    suites = [importlib.import_module(f"tools.conformance.{name.replace('-', '_')}_suite") for name in SUITES]
    assert {path.name for path in HERE.glob("*.toml")} == {suite.EXPECTED for suite in suites}
