"""The engine's own files and requirements, which go into every image whatever its policies are."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement

PACKAGE = "policy_engine"
_VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)


class EngineError(Exception):
    """A directory is not that of the engine."""


@dataclass(frozen=True, slots=True)
class EngineSource:
    """The engine in one version; `files` by their names below site-packages."""

    version: str
    files: Mapping[str, Path] = field(repr=False)
    launcher: Path
    requires: tuple[Requirement, ...]


def read_engine(directory: Path) -> EngineSource:
    """Return the engine whose source is in `directory` (that of its pyproject.toml). Raises EngineError."""
    try:
        project = tomllib.loads((directory / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        requires = tuple(Requirement(line) for line in project.get("dependencies", ()))
    except (OSError, KeyError, tomllib.TOMLDecodeError, InvalidRequirement) as error:
        raise EngineError(f"{directory / 'pyproject.toml'}: {type(error).__name__}: {error}") from None
    files = package_files(directory, PACKAGE)
    launcher = directory / "launch.py"
    if not launcher.is_file():
        raise EngineError(f"{launcher} is missing")
    return EngineSource(engine_version(directory / PACKAGE / "__init__.py"), files, launcher, requires)


def engine_version(source: Path) -> str:
    """Return `__version__` of the engine's `__init__.py` without running it. Raises EngineError."""
    try:
        found = _VERSION.search(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise EngineError(f"{source}: {error.strerror or error}") from None
    if found is None:
        raise EngineError(f'{source}: no line `__version__ = "…"`')
    return found[1]


def package_files(root: Path, package: str) -> dict[str, Path]:
    """Return the files of the package `package` below `root` that are installed: no tests, caches, hidden files."""
    found = {}
    for path in sorted((root / package).rglob("*")):
        name = path.relative_to(root).as_posix()
        parts = PurePosixPath(name).parts
        if not path.is_file() or path.suffix in (".pyc", ".pyo") or any(part.startswith(".") for part in parts):
            continue
        if path.name.endswith("_test.py") or path.name in ("conftest.py", "BUILD.bazel") or "__pycache__" in parts:
            continue
        found[name] = path
    return found
