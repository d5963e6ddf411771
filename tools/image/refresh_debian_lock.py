#!/usr/bin/env python3
"""Writes the newest versions of the packages in debian.lock.json into it: `tools/image/refresh_debian_lock.py`.

Versions come from the suite's own archive and from its security archive, from package lists whose signature was checked
(gpgv with Debian's keyring, so this runs on Debian). The names stay; a package that needs one more than its reviewed
dependencies below is refused, since an image without it might not start. See the lock's diff before you commit it.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import lzma
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in ("builder", "engine")]

from policy_builder.describe.debian_licences import licences_in  # noqa: E402 - found through the line above
from policy_builder.discover.debian import DebianError, DebianPackage, download, members  # noqa: E402

LOCK = Path(__file__).parent / "debian.lock.json"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SNAPSHOT = "https://snapshot.debian.org/archive/debian"
ARCHITECTURES = ("amd64", "arm64")
SOURCES = (("debian", "{suite}"), ("debian-security", "{suite}-security"))
"""Archives and their suites, by name; the first is the one that `archive` in the lock leaves out."""

LEFT_OUT = {
    "awk": "only the installation script of base-files runs it",
    "debconf": "asks questions during an installation",
    "openssl": "only the installation script of ca-certificates runs it",
    "openssl-provider-legacy": "ciphers that nobody should use",
    "libdb5.3t64": "module dbm.ndbm",
    "libncursesw6": "module curses",
    "libreadline8t64": "module readline",
    "libsqlite3-0": "module sqlite3",
    "libtinfo6": "modules curses and readline",
}
"""Dependencies that images do without, and what for."""

Package = Mapping[str, str]


class RefreshError(Exception):
    """The lock cannot be refreshed; the message says why."""


def packages_in(text: str) -> dict[str, Package]:
    """Return the stanzas of a `Packages` file by package (deb822(5); continued lines are not needed here)."""
    found: dict[str, Package] = {}
    for stanza in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and not line.startswith(" "))
        if "Package" in fields:
            found[fields["Package"]] = fields
    return found


def is_newer(version: str, other: str) -> bool:
    """Return whether `version` is newer than `other` in Debian's order."""
    return subprocess.run(["dpkg", "--compare-versions", version, "gt", other], check=False).returncode == 0


def chosen(names: Iterable[str], archives: Mapping[str, Mapping[str, Package]]) -> dict[str, dict[str, Any]]:
    """Return the lock's entry of each name: its newest version in any archive. Raises RefreshError."""
    entries: dict[str, dict[str, Any]] = {}
    names = set(names)
    missing = []
    for name in sorted(names):
        best: tuple[str, Package] | None = None
        for archive, packages in archives.items():
            package = packages.get(name)
            if package and (best is None or is_newer(package["Version"], best[1]["Version"])):
                best = archive, package
        if best is None:
            missing.append(f"{name} is in none of the archives {', '.join(archives)}")
            continue
        archive, package = best
        missing += [f"{name} {package['Version']} needs {need}" for need in unmet(package, names)]
        entries[name] = {"archive": archive} if archive != SOURCES[0][0] else {}
        entries[name] |= {"path": package["Filename"], "sha256": package["SHA256"]}
        entries[name] |= {"size": int(package["Size"]), "version": package["Version"]}
        # The SBOM names both. A source without a version has that of the package.
        entries[name] |= {key.lower(): package[key] for key in ("Source", "Maintainer") if key in package}
    if missing:
        raise RefreshError("\n".join([*missing, f"Add what is needed to {LOCK.name}, or to LEFT_OUT with a reason."]))
    return entries


def unmet(package: Package, names: set[str]) -> list[str]:
    """Return the dependencies of `package` that neither `names` nor LEFT_OUT have."""
    found = []
    for field in ("Pre-Depends", "Depends"):
        for dependency in package.get(field, "").split(","):
            alternatives = [re.split(r"[\s:(]", one.strip(), maxsplit=1)[0] for one in dependency.split("|")]
            if alternatives != [""] and not any(one in names or one in LEFT_OUT for one in alternatives):
                found.append(" | ".join(alternatives))
    return found


def fetch(url: str) -> bytes:
    """Return what is at `url`."""
    with urllib.request.urlopen(url, timeout=300) as response:
        content: bytes = response.read()
    return content


def signed(content: bytes) -> str:
    """Return the text that an InRelease file signs. Raises RefreshError when no key of Debian's did."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        command = ["gpgv", "--quiet", "--keyring", KEYRING, "--output", "-", file.name]
        try:
            done = subprocess.run(command, check=False, capture_output=True)
        except FileNotFoundError:
            raise RefreshError("gpgv, which checks the signature of package lists, is not installed") from None
    if done.returncode:
        raise RefreshError(f"the signature of the package lists is not good: {done.stderr.decode(errors='replace')}")
    return done.stdout.decode()


def package_list(root: str, suite: str, architecture: str) -> tuple[dict[str, Package], datetime.datetime]:
    """Return the packages of `suite` for `architecture`, and when the archive published them. Raises RefreshError."""
    release = signed(fetch(f"{root}/dists/{suite}/InRelease"))
    name = f"main/binary-{architecture}/Packages.xz"
    listed = re.search(rf"^ ([0-9a-f]{{64}}) +\d+ {name}$", release, re.MULTILINE)
    date = re.search(r"^Date: (.+) UTC$", release, re.MULTILINE)
    content = fetch(f"{root}/dists/{suite}/{name}")
    if not listed or not date or hashlib.sha256(content).hexdigest() != listed[1]:
        raise RefreshError(f"{suite}: {name} is not what its signed release file says; a mirror being updated?")
    published = datetime.datetime.strptime(date[1], "%a, %d %b %Y %H:%M:%S").replace(tzinfo=datetime.UTC)
    return packages_in(lzma.decompress(content).decode()), published


def mirror() -> str:
    """Return DEBIAN_MIRROR, else the mirror in apt's configuration. Raises RefreshError."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(file.read_text(errors="replace") for file in files if file.is_file())
    found = re.search(r"^(?:URIs:|deb(?: +\[[^]]*\])?) +(https?://\S*/debian)/?(?: .*)?$", text, re.MULTILINE)
    url = os.environ.get("DEBIAN_MIRROR") or (found and found[1])
    if not url:
        raise RefreshError("no Debian mirror in /etc/apt/sources.list*; set DEBIAN_MIRROR=URL")
    return url.rstrip("/")


def refreshed(lock: Mapping[str, Any], top: str) -> tuple[dict[str, dict[str, dict[str, Any]]], datetime.datetime]:
    """Return the newest entries of the lock's packages by architecture, and when they were published.

    The names are those of the first architecture, so every image has the same packages. Raises OSError, RefreshError.
    """
    names = lock["packages"][ARCHITECTURES[0]]
    entries, dates = {}, []
    for architecture in ARCHITECTURES:
        archives = {}
        for archive, suite in SOURCES:
            name = suite.format(suite=lock["suite"])
            archives[archive], date = package_list(f"{top}/{archive}", name, architecture)
            dates.append(date)
        entries[architecture] = chosen(names, archives)
    return entries, max(dates)


def add_licences(lock: Mapping[str, Any], top: str) -> None:
    """Give every package of the lock the names of the licences in its copyright file. Raises OSError, DebianError."""
    for architecture in ARCHITECTURES:
        texts: dict[str, str] = {}
        links: dict[str, str] = {}
        for name, entry in lock["packages"][architecture].items():
            package = DebianPackage(
                name, entry["version"], entry["path"], entry["sha256"], entry.get("archive", "debian")
            )
            for path, text in documentation(download(package, [f"{top}/debian", lock["snapshot"]])).items():
                target = links if text.startswith("-> ") else texts
                target[path] = text.removeprefix("-> ")
        for name, entry in lock["packages"][architecture].items():
            entry["licences"] = licences_in(texts.get(links.get(name, name), ""))


def documentation(deb: bytes) -> dict[str, str]:
    """Return the copyright files in a package by the names of their directories; `-> NAME` for one that is a link."""
    found = {}
    for member, content in members(deb, "the package"):
        if not member.startswith("data.tar"):
            continue
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for one in tar:
                match = re.fullmatch(r"(?:\./)?usr/share/doc/([^/]+)(/copyright)?", one.name.rstrip("/"))
                if match and match[2] and (stream := tar.extractfile(one)):
                    found[match[1]] = stream.read().decode(errors="replace")
                elif match and not match[2] and one.issym():
                    found[match[1]] = f"-> {one.linkname.rpartition('/')[2]}"
    return found


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a line for each entry that differs between two sets of packages by architecture."""
    lines = []
    for architecture, entries in after.items():
        known = before.get(architecture, {})
        for name, entry in entries.items():
            if entry != {key: value for key, value in known.get(name, {}).items() if key != "licences"}:
                was = f"{known[name]['version']} → " if name in known else ""
                lines.append(f"{architecture} {name} {was}{entry['version']}")
    return lines


def main() -> int:
    """Refresh the lock and say what changed; returns the exit status."""
    lock = json.loads(LOCK.read_text())
    try:
        top = mirror().removesuffix("/debian")
        entries, published = refreshed(lock, top)
        changed = changes(lock["packages"], entries)
        print("\n".join(changed) or "everything is the newest")
        if changed:
            # The snapshot of a time after the newest list has all packages that it names.
            lock["snapshot"] = f"{SNAPSHOT}/{published + datetime.timedelta(days=1):%Y%m%dT000000Z}"
            lock["packages"] = entries
            add_licences(lock, top)
            LOCK.write_text(json.dumps(lock, indent=1) + "\n")
    except (OSError, RefreshError, DebianError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
