"""Where the builder finds engine, lock, Debian packages and cache; a separate module so that only one place guesses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from policy_builder.recipe import ENGINE_MODULE

ENGINE = Path("engine")
LOCK = Path("requirements_lock.txt")
DEBIAN_LOCK = Path("tools/image/debian.lock.json")
BUNDLED = Path(__file__).parents[1] / "bundled"
"""What the wheel of the builder brings of the checkout that it was made from (pyproject.toml)."""

MODULE = "MODULE.bazel"
LAUNCHER = "launch.py"
"""The command in images: in the directory of the engine's source, and in BUNDLED."""


class WorkspaceError(Exception):
    """Something the builder needs is nowhere; the message says which option names it."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """The parts of every image, and the directory in which downloads are kept; no `engine` means the installed one.

    `modules` are the directories of Bazel modules that have policies, by their names.
    """

    engine: Path | None
    lock: Path
    debian_lock: Path
    cache: Path
    modules: Mapping[str, Path] = field(default_factory=dict)


def find_workspace(
    engine: Path | None = None,
    lock: Path | None = None,
    debian_lock: Path | None = None,
    cache: Path | None = None,
    modules: Mapping[str, Path] | None = None,
) -> Workspace:
    """Return what was given, and for the rest what lies in the checkout this file is in, or what its wheel brought.

    Raises WorkspaceError.
    """
    root = _root()
    bundled = BUNDLED if root is None and BUNDLED.is_dir() else None
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    engine = None if engine is None and bundled else _chosen(engine, root, ENGINE, "--engine")
    return Workspace(
        engine=engine,
        lock=_chosen(lock or (bundled and bundled / LOCK.name), root, LOCK, "--lock"),
        debian_lock=_chosen(
            debian_lock or (bundled and bundled / DEBIAN_LOCK.name), root, DEBIAN_LOCK, "--debian-lock"
        ),
        cache=cache or cache_home / "policy-builder",
        modules=known_modules(engine, modules or {}),
    )


def known_modules(engine: Path | None, given: Mapping[str, Path]) -> dict[str, Path]:
    """Return the Bazel modules that a manifest may name: those given, and the engine's of a checkout."""
    checkout = engine.absolute().parent if engine is not None else None
    own = {ENGINE_MODULE: checkout} if checkout is not None and (checkout / MODULE).is_file() else {}
    return {**own, **given}


def enter_working_directory() -> None:
    """Go where `bazel run` was typed, since paths on the command line are meant from there; elsewhere do nothing."""
    directory = os.environ.get("BUILD_WORKING_DIRECTORY")
    if directory:
        os.chdir(directory)


def _root() -> Path | None:
    """Return the checkout: where Bazel was started, or above this file."""
    started = os.environ.get("BUILD_WORKSPACE_DIRECTORY")
    candidates = ([Path(started)] if started else []) + list(Path(__file__).absolute().parents)
    return next((one for one in candidates if (one / DEBIAN_LOCK).is_file() and (one / ENGINE).is_dir()), None)


def _chosen(given: Path | None, root: Path | None, default: Path, option: str) -> Path:
    path = given or (root / default if root else None)
    if path is None:
        raise WorkspaceError(f"the builder is not run from a checkout of the engine, so {option} must be given")
    if not path.exists():
        raise WorkspaceError(f"{option} {path} does not exist")
    return path
