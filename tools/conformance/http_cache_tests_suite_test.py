"""What the suite's client prints, read as cases; the run itself needs Envoy, npm and node."""

from __future__ import annotations

from typing import Any

import pytest

from tools.conformance.http_cache_tests_suite import cases, results_of
from tools.conformance.suite import Case, SuiteError

SECTIONS: list[dict[str, Any]] = [
    {
        "id": "cc",
        "tests": [
            {"id": "cc-1", "name": "First"},
            {"id": "cc-2", "name": "Second", "kind": "optimal"},
            {"id": "cc-3", "name": "Third", "kind": "check"},
            {"id": "cc-4", "name": "Fourth", "browser_only": True},
        ],
    },
    {"id": "vary", "tests": [{"id": "vary-1", "name": "Fifth", "browser_skip": True}]},
]


def test_each_test_is_a_case_but_those_of_browsers() -> None:
    results = {"cc-1": True, "cc-2": ["Assertion", "Response 2 does not come from cache"], "vary-1": ["Setup", "retry"]}
    assert list(cases(SECTIONS, results)) == [
        Case("cc/cc-1", True, "", "required"),
        Case("cc/cc-2", False, "Second: Assertion: Response 2 does not come from cache", "optimal"),
        Case("cc/cc-3", False, "Third: Missing: the client did not say", "check"),
        Case("vary/vary-1", False, "Fifth: Setup: retry", "required"),
    ]


@pytest.mark.parametrize("printed", ['{\n  "a": true\n}\n', 'ERROR: odd {header}\nagain\n{\n  "a": true\n}\n'])
def test_results_stand_after_warnings(printed: str) -> None:
    assert results_of(printed) == {"a": True}


@pytest.mark.parametrize("printed", ["", "TypeError: fetch failed\n", "[]", '{\n  "a": tr'])
def test_a_client_that_prints_no_results_is_told(printed: str) -> None:
    with pytest.raises(SuiteError, match="printed no results"):
        results_of(printed)
