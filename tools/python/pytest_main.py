"""Entry point of every pytest_test: runs pytest on the files given and leaves their cases where Bazel shows them."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

SETTINGS = Path(__file__).parents[2] / "pyproject.toml"
"""Of this repository, not of the one that is tested: it may be another, with settings of its own or none."""


def main(files: list[str]) -> int:
    """Run pytest; returns its exit status, so that a target without a single test fails."""
    arguments = ["-p", "no:cacheprovider", "-c", str(SETTINGS), "--rootdir=.", "--import-mode=importlib"]
    if importlib.util.find_spec("hypothesis"):
        # No deadline for an example: on a shared machine that is a test of the machine.
        arguments.append("--hypothesis-profile=ci")
    if report := os.environ.get("XML_OUTPUT_FILE"):
        arguments.append(f"--junitxml={report}")
    if chosen := os.environ.get("TESTBRIDGE_TEST_ONLY"):  # bazel test --test_filter=…
        arguments += ["-k", chosen]
    return pytest.main([*arguments, *files])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
