"""Installed distributions: what each brings into an image and what it needs in turn (PEP 566, PEP 427).

A separate module because wheels unpacked by `policy-builder` and wheels unpacked by Bazel are read here alike.
"""

from __future__ import annotations

import email.message
import email.parser
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

_DIST_INFO = re.compile(r"[^/]+\.dist-info/METADATA")
_LONGEST_LICENCE = 100
_LONGEST_AUTHOR = 200


class DistributionError(Exception):
    """Files that should be a distribution are none."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """One distribution as installed; `files` has their names below site-packages. `name` is canonical (PEP 503).

    `wheel` is the sha256 of the wheel that it was unpacked of, `author` who made it; both are empty where not known.
    """

    name: str
    shown_name: str
    version: str
    licence: str
    requires: tuple[Requirement, ...]
    files: Mapping[str, Path] = field(repr=False)
    wheel: str = ""
    author: str = ""

    def __str__(self) -> str:
        return f"{self.shown_name} {self.version}"

    def modules(self) -> frozenset[str]:
        """Return the top-level modules and packages that it brings."""
        return top_level_modules(self.files)

    def needs(self, extras: Iterable[str], environment: Mapping[str, str]) -> dict[str, list[Requirement]]:
        """Return what it needs in `environment` when installed with `extras`, by canonical name.

        An extra may be defined by other extras of the same distribution (`name[all]` as `name[one,two]`).
        """
        wanted = {"", *(canonicalize_name(extra) for extra in extras)}
        while True:
            needed: dict[str, list[Requirement]] = {}
            more: set[str] = set()
            for requirement in self.requires:
                if requirement.marker and not any(
                    requirement.marker.evaluate({**environment, "extra": extra}) for extra in wanted
                ):
                    continue
                name = canonicalize_name(requirement.name)
                if name == self.name:
                    more |= {canonicalize_name(extra) for extra in requirement.extras} - wanted
                else:
                    needed.setdefault(name, []).append(requirement)
            if not more:
                return needed
            wanted |= more


def top_level_modules(files: Iterable[str]) -> frozenset[str]:
    """Return the modules and packages at the top of installed `files`."""
    found = set()
    for name in files:
        top, slash, _ = name.partition("/")
        if slash and not top.endswith((".dist-info", ".data", ".libs")):
            found.add(top)
        elif not slash and top.endswith((".py", ".so")):
            found.add(top.partition(".")[0])
    return frozenset(found)


def read_distribution(files: Mapping[str, Path]) -> Distribution:
    """Return the distribution that consists of `files`; raises DistributionError when they hold no METADATA."""
    metadata_files = [name for name in files if _DIST_INFO.fullmatch(name)]
    if len(metadata_files) != 1:
        raise DistributionError(f"has {len(metadata_files)} files *.dist-info/METADATA, expected one")
    content = files[metadata_files[0]].read_bytes()
    metadata = email.parser.BytesParser().parsebytes(content, headersonly=True)
    name, version = str(metadata["Name"]), str(metadata["Version"])
    if metadata["Name"] is None or metadata["Version"] is None:
        raise DistributionError(f"{metadata_files[0]} lacks Name or Version")
    try:
        requires = tuple(Requirement(str(line)) for line in metadata.get_all("Requires-Dist") or ())
        for requirement in requires:
            if requirement.marker is not None:
                requirement.marker.evaluate({"extra": ""})  # whether it can be judged, not how
    except (InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName, InvalidVersion, RecursionError) as error:
        raise DistributionError(
            f"{metadata_files[0]} has a requirement that cannot be read: {str(error)[:200]}"
        ) from None
    licence, author = licence_of(metadata), author_of(metadata)
    return Distribution(canonicalize_name(name), name, version, licence, requires, dict(files), author=author)


def author_of(metadata: email.message.Message) -> str:
    """Return who made a distribution, as it states: its author, or who maintains it; empty when it says nothing."""
    for field_name in ("Author", "Maintainer", "Author-email", "Maintainer-email"):
        stated = " ".join(str(metadata.get(field_name, "")).split())
        if stated and stated != "UNKNOWN":
            return stated[:_LONGEST_AUTHOR]
    return ""


def licence_of(metadata: email.message.Message) -> str:
    """Return the licence that a distribution states, as an SPDX expression where it does; empty when it states none."""
    expression = str(metadata.get("License-Expression", "")).strip()
    if expression:
        return expression
    stated = str(metadata.get("License", "")).strip()
    if stated and "\n" not in stated and len(stated) <= _LONGEST_LICENCE and stated != "UNKNOWN":
        return stated
    classifiers = [str(one) for one in metadata.get_all("Classifier") or () if str(one).startswith("License ::")]
    return ", ".join(sorted(one.rsplit(" :: ", 1)[-1] for one in classifiers))
