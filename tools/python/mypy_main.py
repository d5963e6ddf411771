"""Runs `mypy --strict` over every Python file of the workspace, whether or not a BUILD file names it.

It looks at the real workspace, not at a sandbox with declared files: a file that nobody declared is checked too, and
mypy's cache makes the next run quick. Third-party types come from the target's dependencies; without Bazel
(`tools/check`), from the environment.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from pathlib import Path

SKIPPED = {"tools/offline/modules/rules_oci/oci", "tools/offline/rules_python/python/offline"}
"""Parts of other Bazel modules; each is a program of one file, so it is checked on its own."""


def python_files(workspace: Path) -> list[Path]:
    """Return the Python files below `workspace`, relative to it; links and hidden directories are not followed."""
    found = []
    for directory, subdirectories, names in os.walk(workspace):
        subdirectories[:] = [
            name for name in subdirectories if not name.startswith(".") and not Path(directory, name).is_symlink()
        ]
        found += [Path(directory, name).relative_to(workspace) for name in names if name.endswith(".py")]
    return sorted(found)


def groups(files: list[Path]) -> list[list[Path]]:
    """Split files into programs: a directory that is no package name (a policy) is one on its own."""
    separate: defaultdict[Path, list[Path]] = defaultdict(list)
    whole = []
    for file in files:
        if str(file.parent) in SKIPPED or not all(part.isidentifier() for part in file.parent.parts):
            separate[file.parent].append(file)
        else:
            whole.append(file)
    return [whole, *separate.values()]


def import_root(directory: Path) -> Path:
    """Return the innermost directory here or above that is no package name: imports of what is below start there."""
    return next(parent for parent in (directory, *directory.parents) if not parent.name.isidentifier())


def install(target: Path) -> None:
    """Put the libraries on `sys.path` together in `target`, as an installer would, and search only there.

    Bazel gives each library a directory of its own; mypy looks for a namespace package (`google`) in one of them only.
    """
    libraries = [Path(entry) for entry in sys.path if Path(entry).name == "site-packages"]
    for library in libraries:
        for directory, _, names in os.walk(library, followlinks=True):
            merged = target / Path(directory).relative_to(library)
            merged.mkdir(parents=True, exist_ok=True)
            for name in names:
                link = merged / name
                if not link.exists():
                    link.symlink_to(Path(directory, name).resolve())
    sys.path[:] = [str(target), *(entry for entry in sys.path if Path(entry) not in libraries)]


def main(configuration: Path) -> int:
    """Check all groups and print what is wrong; returns 1 when anything is."""
    from mypy import api  # noqa: PLC0415 - who only wants the list of files does without

    workspace = configuration.resolve().parent
    cache = ".mypy_cache"
    if temporary := os.environ.get("TEST_TMPDIR"):  # Bazel's
        install(Path(temporary, "site-packages"))
        cache += "/bazel"
    os.chdir(workspace)
    options = ["--config-file=pyproject.toml", f"--cache-dir={cache}", "--no-error-summary"]
    failed = False
    files = python_files(workspace)
    for group in groups(files):
        os.environ["MYPYPATH"] = str(import_root(group[0].parent))  # makes relative imports within a policy work
        output, errors, status = api.run([*options, *map(str, group)])
        print(output, errors, sep="", end="")
        failed |= status != 0
    print(f"{len(files)} files checked")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
