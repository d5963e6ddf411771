"""Runs a tool that checks or mends files over the whole workspace: `tool_main.py TOOL PYPROJECT COMMAND…`.

Each COMMAND is the arguments of one run, as one word. All of them run, also after one has failed.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path


def main(tool: Path, configuration: Path, commands: list[str]) -> int:
    """Run every command in the directory of `configuration`; returns 1 when one finds something."""
    workspace, binary = configuration.resolve().parent, tool.resolve()
    statuses = [
        subprocess.run([binary, *shlex.split(command)], cwd=workspace, check=False).returncode for command in commands
    ]
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
