"""Entry point of every pytest_test: runs pytest on the files given and leaves their cases where Bazel shows them."""

from __future__ import annotations

import os
import sys

import pytest


def main(files: list[str]) -> int:
    """Run pytest; returns its exit status, so that a target without a single test fails."""
    arguments = ["-p", "no:cacheprovider", "-c", "pyproject.toml", "--rootdir=.", "--import-mode=importlib"]
    if report := os.environ.get("XML_OUTPUT_FILE"):
        arguments.append(f"--junitxml={report}")
    if chosen := os.environ.get("TESTBRIDGE_TEST_ONLY"):  # bazel test --test_filter=…
        arguments += ["-k", chosen]
    return pytest.main([*arguments, *files])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
