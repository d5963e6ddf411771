"""Brings one version of a suite here, by the client of its registry, held against a hash of this repository.

Nothing of a suite is in this repository. Go modules stay in Go's own cache; everything else goes where the caller says.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.conformance.suite import SuiteError

_SECONDS = 300
_LOCK = Path(__file__).parents[2] / "requirements_lock.txt"


@dataclass(frozen=True, slots=True)
class GoModule:
    """A Go module at one version; `checksum` is its `h1:` of go.sum."""

    path: str
    version: str
    checksum: str


@dataclass(frozen=True, slots=True)
class NpmPackage:
    """A package of npm at one version; `integrity` is the base64 of the SHA-512 of its archive."""

    name: str
    version: str
    integrity: str


def go_module(module: GoModule) -> Path:
    """Return the directory of a module's files, which may not be changed; raises SuiteError."""
    named = f"{module.path}@{module.version}"
    with tempfile.TemporaryDirectory() as elsewhere:  # no go.mod of anybody's decides
        answer = run(["go", "mod", "download", "-json", named], Path(elsewhere))
    found = json.loads(answer)
    same(f"{named}, h1", found["Sum"], module.checksum)
    return Path(found["Dir"])


def go_program(module: GoModule, package: str, directory: Path) -> Path:
    """Build the program of a module into `directory` and return its path; raises SuiteError."""
    go_module(module)
    run(["go", "install", f"{module.path}/{package}@{module.version}"], directory, {"GOBIN": str(directory)})
    return directory / package.rpartition("/")[2]


def npm_package(package: NpmPackage, directory: Path) -> Path:
    """Unpack a package into `node_modules` of `directory`, without its dependencies; raises SuiteError."""
    named = f"{package.name}@{package.version}"
    answer = run(["npm", "pack", "--json", "--ignore-scripts", "--pack-destination", str(directory), named], directory)
    archive = directory / json.loads(answer)[0]["filename"]
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    same(f"{named}, sha512", digest, package.integrity)
    return _unpacked(archive, directory / "node_modules" / package.name)


def locked_source(name: str, directory: Path) -> Path:
    """Unpack the source archive of a Python package, as the lock pins it, into `directory`; raises SuiteError."""
    requirement = requirement_of(name, _LOCK.read_text("utf-8"))
    wanted = directory / "requirement.txt"
    wanted.write_text(requirement, "utf-8")
    options = [
        "--no-deps",
        "--no-binary",
        name,
        "--require-hashes",
        "--requirement",
        str(wanted),
        "--dest",
        str(directory),
    ]
    run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *options], directory)
    (archive,) = directory.glob("*.tar.gz")
    return _unpacked(archive, directory / "source")


def requirement_of(name: str, lock: str) -> str:
    """Return the lines of a lock file that pin a package with its hashes; raises SuiteError."""
    found = re.search(rf"^{re.escape(name)}==(?:.*\\\n)*.*\n", lock, re.MULTILINE)
    if found is None or "--hash=" not in found[0]:
        raise SuiteError(f"{name} is not pinned by a hash in requirements_lock.txt")
    return found[0]


def run(command: list[str], directory: Path, env: Mapping[str, str] | None = None) -> str:
    """Return what a command prints; raises SuiteError when it is not there, fails or does not end."""
    if shutil.which(command[0]) is None:
        raise SuiteError(f"{command[0]} is not on PATH")
    shown = " ".join(command[:4])
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SuiteError(f"{shown}: not done within {_SECONDS} s") from None
    if done.returncode != 0:
        raise SuiteError(f"{shown}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout


def same(what: str, found: str, expected: str) -> None:
    """Raise SuiteError unless a hash is the one that is written here."""
    if found != expected:
        raise SuiteError(f"{what}: it is {found}, not {expected}: not what was looked at here, so it is not used")


def _unpacked(archive: Path, directory: Path) -> Path:
    """Unpack an archive whose files are all below one directory."""
    with tarfile.open(archive) as files, tempfile.TemporaryDirectory(dir=archive.parent) as aside:
        files.extractall(aside, filter="data")
        (top,) = Path(aside).iterdir()
        directory.parent.mkdir(parents=True, exist_ok=True)
        top.rename(directory)
    return directory
