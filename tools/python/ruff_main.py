"""Runs `ruff check` and `ruff format --check` over the whole workspace: `ruff_main.py RUFF PYPROJECT`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main(ruff: Path, configuration: Path) -> int:
    """Run both; returns 1 when one finds something."""
    workspace = configuration.resolve().parent
    binary = ruff.resolve()
    commands = (["check", "--no-cache", "."], ["format", "--check", "--diff", "--no-cache", "."])
    statuses = [subprocess.run([binary, *command], cwd=workspace, check=False).returncode for command in commands]
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
