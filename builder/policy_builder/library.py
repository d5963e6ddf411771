"""Libraries of the same repository that policies share, named by path in requirements.txt: `../../shared`.

It is its own room because such a library is neither a policy nor a distribution that anybody published.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from policy_builder.engine_source import package_files


class LibraryError(Exception):
    """A path does not lead to a library; the message says what one looks like."""


@dataclass(frozen=True, slots=True)
class Library:
    """One import package of this repository; `files` by their names below site-packages."""

    name: str
    files: Mapping[str, Path] = field(repr=False)
    requires: tuple[Requirement, ...] = ()


def read_libraries(directory: Path) -> tuple[Library, ...]:
    """Return the import packages beside (or in `src` beside) the pyproject.toml in `directory`. Raises LibraryError."""
    try:
        project = tomllib.loads((directory / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        requires = tuple(Requirement(line) for line in project.get("dependencies", ()))
    except OSError:
        raise LibraryError(f"{directory} has no pyproject.toml: a library is a directory that pip could install") from None
    except (KeyError, tomllib.TOMLDecodeError, InvalidRequirement) as error:
        raise LibraryError(f"{directory / 'pyproject.toml'}: {type(error).__name__}: {error}") from None
    root = directory / "src" if (directory / "src").is_dir() else directory
    packages = sorted(path.parent.name for path in root.glob("*/__init__.py"))
    if not packages:
        raise LibraryError(f"{root} holds no import package (a directory with __init__.py)")
    return tuple(Library(name, package_files(root, name), requires) for name in packages)
