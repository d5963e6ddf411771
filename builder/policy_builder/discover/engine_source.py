"""The engine's own files and requirements, which go into every image whatever its policies are."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement

from policy_builder.discover.workspace import BUNDLED, LAUNCHER
from policy_builder.recipe import belongs_in_image

PACKAGE = "policy_engine"
DISTRIBUTION = "policy-engine"
_NAMED = 5  # modules that a message lists
_IMPORT = re.compile(rf"^ *(?:from|import) ({PACKAGE}(?:\.\w+)*)\b", re.MULTILINE | re.ASCII)
_VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)


class EngineError(Exception):
    """A directory is not that of the engine."""


@dataclass(frozen=True, slots=True)
class EngineSource:
    """The engine in one version; `files` by their names below site-packages, `licence` the text of its licence."""

    version: str
    files: Mapping[str, Path] = field(repr=False)
    launcher: Path
    requires: tuple[Requirement, ...]
    licence: Path


def read_engine(directory: Path | None) -> EngineSource:
    """Return the engine whose source is in `directory` (that of its pyproject.toml), or the installed one.

    Raises EngineError.
    """
    if directory is None:
        return _installed_engine()
    try:
        project = tomllib.loads((directory / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        requires = tuple(Requirement(line) for line in project.get("dependencies", ()))
    except (OSError, KeyError, tomllib.TOMLDecodeError, InvalidRequirement) as error:
        raise EngineError(f"{directory / 'pyproject.toml'}: {type(error).__name__}: {error}") from None
    return _source(directory, directory / LAUNCHER, requires, directory / "LICENSE")


def _installed_engine() -> EngineSource:
    """Return the engine that is installed beside this builder, which need not be run for that."""
    try:
        lines = metadata.requires(DISTRIBUTION) or ()
        root = Path(str(metadata.distribution(DISTRIBUTION).locate_file("")))
    except metadata.PackageNotFoundError:
        raise EngineError(f"{DISTRIBUTION} is not installed; install it, or name its source with --engine") from None
    if not (root / PACKAGE).is_dir():
        raise EngineError(f"{DISTRIBUTION} is not installed as files ({root}); name its source with --engine")
    requires = tuple(one for one in map(Requirement, lines) if "extra" not in str(one.marker or ""))
    licences = [one for one in metadata.files(DISTRIBUTION) or () if one.name == "LICENSE"]
    licence = Path(str(licences[0].locate())) if licences else root / "LICENSE"
    return _source(root, BUNDLED / LAUNCHER, requires, licence)


def _source(root: Path, launcher: Path, requires: tuple[Requirement, ...], licence: Path) -> EngineSource:
    if not launcher.is_file():
        raise EngineError(f"{launcher} is missing")
    version = engine_version(root / PACKAGE / "__init__.py")
    files = package_files(root, PACKAGE)
    check_whole(files, launcher, licence)
    return EngineSource(version, files, launcher, requires, licence)


def check_whole(files: Mapping[str, Path], launcher: Path, licence: Path) -> None:
    """Raise EngineError unless `files` are an engine with all its modules, and its licence is at hand.

    An image of a part of it would be made, described and signed like any other, and fail where it is run.
    """
    if not licence.is_file():
        raise EngineError(f"{licence} is missing: an image has the licence of the engine in it")
    there: set[str] = set()
    for name in files:
        parts = PurePosixPath(name).with_suffix("").parts
        there |= {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
    missing = sorted({f"{PACKAGE}.__init__", f"{PACKAGE}.__main__", *_imported([launcher, *files.values()])} - there)
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        named = ", ".join(missing[:_NAMED])
        raise EngineError(f"the engine's sources are not all there, so that no image can be made: no {named}{more}")


def _imported(paths: Iterable[Path]) -> set[str]:
    """Return the modules of the engine that Python files import."""
    texts = (path.read_text(encoding="utf-8") for path in paths if path.suffix == ".py")
    return {name for text in texts for name in _IMPORT.findall(text)}


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
    """Return the files of the package `package` below `root` that belong in an image, by their names below `root`."""
    paths = {path.relative_to(root).as_posix(): path for path in sorted((root / package).rglob("*")) if path.is_file()}
    return {name: path for name, path in paths.items() if belongs_in_image(name)}
