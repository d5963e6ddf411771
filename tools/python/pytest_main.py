"""Entry point of every pytest_test: runs pytest on the files given and leaves their cases where Bazel shows them."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

FEW_EXAMPLES = 20
"""Of each property test that does not set a number itself, where the whole has to be quick (`tools/check`)."""

GROWTH = ("linear", "no_faster", "leak")
"""Words in the names of tests that do the same often or at length, and are left out there."""
SETTINGS = Path(__file__).parents[2] / "pyproject.toml"
"""Of this repository, not of the one that is tested: it may be another, with settings of its own or none."""


def main(files: list[str]) -> int:
    """Run pytest; returns its exit status, so that a target without a single test fails."""
    arguments = ["-p", "no:cacheprovider", "-c", str(SETTINGS), "--rootdir=.", "--import-mode=importlib"]
    if importlib.util.find_spec("hypothesis"):
        arguments.append(f"--hypothesis-profile={examples()}")
    if report := os.environ.get("XML_OUTPUT_FILE"):
        arguments.append(f"--junitxml={report}")
    if is_quick():
        arguments += ["-k", " and ".join(f"not {word}" for word in GROWTH)]
    if chosen := os.environ.get("TESTBRIDGE_TEST_ONLY"):  # bazel test --test_filter=…
        arguments += ["-k", chosen]
    return pytest.main([*arguments, *files])


def is_quick() -> bool:
    """Return whether the variable TESTS asks for the quick part."""
    return os.environ.get("TESTS") == "quick"


def examples() -> str:
    """Return the profile of property tests: `few` where the whole has to be quick, else all.

    Neither has a deadline for an example: on a shared machine that is a test of the machine.
    """
    from hypothesis import settings  # noqa: PLC0415 - not every target has it

    settings.register_profile("few", settings.get_profile("ci"), max_examples=FEW_EXAMPLES)
    return "few" if is_quick() else "ci"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
