"""The Debian packages of the base layer: fetched by URL and sha256 as the lock says, and the archives in them.

A separate module because Bazel fetches the same packages itself (`tools/image/debian.bzl`); this is for building
without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 300.0
_KINDS = ("control", "data")
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
_SOURCE = re.compile(r"^(?:URIs:|deb(?:\s+\[[^]]*\])?)\s+(https?://\S*/debian)/?(?:\s.*)?$", re.MULTILINE)


RELEASES = {"bookworm": "12", "trixie": "13", "forky": "14", "duke": "15"}
"""Numbers of Debian's releases, as /etc/os-release has them."""


class DebianError(Exception):
    """A package could not be had, or is not what the lock says."""


@dataclass(frozen=True, slots=True)
class DebianPackage:
    """One package of the lock; `path` is that below the root of its archive, `debian` or `debian-security`.

    `source` is the source package as Debian writes it, with its version where that is another (`gcc-14 (14.2.0-19)`);
    empty where it is called like the package. `licences` are those that its copyright file names, as Debian names them.
    """

    name: str
    version: str
    path: str
    sha256: str
    archive: str = "debian"
    source: str = ""
    maintainer: str = ""
    licences: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        """As in the name of its file: `amd64`, `arm64` or `all`."""
        return self.path.rpartition("_")[2].removesuffix(".deb")

    def root(self, mirror: str) -> str:
        """Return the root of the package's archive beside that of `mirror` (`…/debian` or a snapshot of it)."""
        before, _, after = mirror.rpartition("/debian")
        return mirror if self.archive == "debian" else f"{before}/{self.archive}{after}"


@dataclass(frozen=True, slots=True)
class DebianLock:
    """What the base layer of one architecture consists of."""

    suite: str
    snapshot: str
    packages: tuple[DebianPackage, ...]

    @property
    def release(self) -> str:
        """The number of the release, `13` for trixie; the suite's name for one that is not known here."""
        return RELEASES.get(self.suite, self.suite)


def read_lock(path: Path, architecture: str) -> DebianLock:
    """Read what a lock, as tools/image has it, says of `architecture`; packages are sorted by name.

    Raises DebianError.
    """
    try:
        document = json.loads(path.read_bytes())
        by_architecture = document["packages"]
        if architecture not in by_architecture:
            available = ", ".join(sorted(by_architecture))
            raise DebianError(f"{path} has no Debian packages for {architecture} (available: {available})")
        packages = tuple(
            DebianPackage(
                name,
                str(one["version"]),
                str(one["path"]),
                str(one["sha256"]),
                str(one.get("archive", "debian")),
                str(one.get("source", "")),
                str(one.get("maintainer", "")),
                tuple(map(str, one.get("licences", ()))),
            )
            for name, one in sorted(by_architecture[architecture].items())
        )
        for package in packages:
            if package.architecture not in (architecture, "all"):
                raise DebianError(f"{path}: {package.name} for {architecture} is {package.path}")
        return DebianLock(str(document["suite"]), str(document["snapshot"]), packages)
    except (AttributeError, OSError, ValueError, KeyError, TypeError) as error:
        raise DebianError(f"{path} is not a lock of Debian packages: {error}") from None


def data_archives(lock: DebianLock, cache: Path) -> dict[str, Path]:
    """Return the data archive of every package by its name, each in a directory named after it. Raises DebianError."""
    found = package_archives(lock, cache)
    return {path.parent.name: path for path in found if path.name.startswith("data.")}


def package_archives(lock: DebianLock, cache: Path) -> list[Path]:
    """Return the archives in every package (`data.tar.xz`, `control.tar.xz`), each in a directory named after it.

    Raises DebianError.
    """
    mirrors = [*_mirrors(), lock.snapshot]
    return [one for package in lock.packages for one in _archives(package, mirrors, cache / "debian")]


def _archives(package: DebianPackage, mirrors: list[str], cache: Path) -> list[Path]:
    directory = cache / package.sha256 / package.name
    kept = [path for kind in _KINDS for path in sorted(directory.glob(f"{kind}.tar*"))[:1]]
    if len(kept) == len(_KINDS):
        return kept
    deb = download(package, mirrors)
    found = {name: content for name, content in members(deb, package.name) if name.partition(".")[0] in _KINDS}
    if len(found) != len(_KINDS):
        raise DebianError(f"{package.name}: the package lacks its archive of data, or that of control files")
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in found.items():
        with tempfile.NamedTemporaryFile(dir=directory, delete=False) as file:
            file.write(content)
        Path(file.name).replace(directory / name)
    return sorted(directory / name for name in found)


def download(package: DebianPackage, mirrors: list[str]) -> bytes:
    """Return the package's file from the first mirror that has it with the right hash. Raises DebianError."""
    failures = []
    for mirror in mirrors:
        url = f"{package.root(mirror.rstrip('/'))}/{package.path}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:  # noqa: S310 - checked by its hash
                content: bytes = response.read()
        except (urllib.error.URLError, OSError) as error:
            failures.append(f"{url}: {error}")
            continue
        if hashlib.sha256(content).hexdigest() == package.sha256:
            return content
        failures.append(f"{url}: not the content that the lock has the hash of")
    raise DebianError(f"{package.name} {package.version} could not be had:\n  " + "\n  ".join(failures))


def members(archive: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield the members of an ar archive (deb(5))."""
    if not archive.startswith(_AR_MAGIC):
        raise DebianError(f"{name}: not a Debian package")
    position = len(_AR_MAGIC)
    while position + _AR_HEADER <= len(archive):
        header = archive[position : position + _AR_HEADER]
        size = int(header[48:58])
        position += _AR_HEADER
        yield header[:16].decode("ascii").rstrip().rstrip("/"), archive[position : position + size]
        position += size + size % 2


def _mirrors() -> list[str]:
    """Return the mirror in DEBIAN_MIRROR, else those of this machine's apt."""
    given = os.environ.get("DEBIAN_MIRROR")
    if given:
        return [given]
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files if path.is_file()]
    return list(dict.fromkeys(_SOURCE.findall("\n".join(texts))))
