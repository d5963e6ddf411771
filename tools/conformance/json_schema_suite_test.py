"""A suite of our own of the same make: what is answered as it says, what otherwise, and what is refused at load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.conformance.json_schema_suite import DIALECT, DIFFERS, DRAFT, cases
from tools.conformance.suite import Case, SuiteError


def outcome(tmp_path: Path, schema: Any, *tests: tuple[Any, bool], file: str = "some.json") -> list[Case]:
    path = tmp_path / "tests" / DRAFT / file
    path.parent.mkdir(parents=True)
    group = {
        "description": "group",
        "schema": schema,
        "tests": [{"description": f"case {data!r}", "data": data, "valid": valid} for data, valid in tests],
    }
    path.write_text(json.dumps([{"description": "before", "schema": True, "tests": []}, group]))
    return list(cases(tmp_path))


def test_cases_are_named_by_file_group_and_number(tmp_path: Path) -> None:
    found = outcome(
        tmp_path, {"$schema": DIALECT, "type": "string"}, ("a", True), (1, False), (1, True), file="x/y.json"
    )
    assert [(one.name, one.passed) for one in found] == [("x/y/2.1", True), ("x/y/2.2", True), ("x/y/2.3", False)]
    assert found[2].kind == DIFFERS
    assert found[2].section == "x/y"
    assert found[2].detail == f"group: case 1: {DIFFERS}"


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"$defs": {"a": {"$id": "https://example.test/a"}}}, "$id"),
        ({"$ref": "https://example.test/other"}, "$ref"),
        ({"madeUp": 1}, "keyword"),
        ({"pattern": "(?=a)"}, "RE2"),
        ({"$schema": "https://example.test/dialect"}, "dialect"),
        ({"type": "no-such-type"}, "refused"),
    ],
)
def test_all_cases_of_a_refused_schema_fail_with_the_kind_of_refusal(tmp_path: Path, schema: Any, kind: str) -> None:
    found = outcome(tmp_path, schema, ("a", True), (1, False))
    assert [(one.passed, one.kind) for one in found] == [(False, kind), (False, kind)]


def test_formats_are_checked_where_the_suite_asks_for_it(tmp_path: Path) -> None:
    schema = {"format": "date"}
    (inside,) = outcome(tmp_path / "1", schema, ("no date", False), file="optional/format/date.json")
    (outside,) = outcome(tmp_path / "2", schema, ("no date", True), file="format.json")
    assert inside.passed
    assert outside.passed


def test_a_directory_that_is_no_suite_is_told(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=f"no {DRAFT}"):
        list(cases(tmp_path))
