"""`policy-manifest.yaml`: which policies go into an image (R-43).

A separate module because `policy-builder` and the Bazel module extension must mean the same by one file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from policy_builder.discover.file_kinds import CONFIGURATION_TAKEN, unfit_configuration
from policy_builder.recipe import (
    COMPRESSION,
    COMPRESSIONS,
    DEFAULT_REPOSITORY,
    LIBRARIES,
    MANIFEST_ENTRY_KEYS,
    MANIFEST_FORMAT,
    MANIFEST_KEYS,
    is_own_label,
    is_own_variable,
)
from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.documents.fields import Fields
from policy_engine.documents.yaml_document import Document, read_document_file
from policy_engine.worker.policies.registry import Version

MAX_POLICIES = 1000

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_REPOSITORY = re.compile(r"[a-z0-9]+([._/:-]+[a-zA-Z0-9]+)*", re.ASCII)
_NO_MODULES: Mapping[str, Path] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ChosenPolicy:
    """One entry: a policy by the `path` of its directory, or by the `package` (name, version) that brings it."""

    name: str
    version: Version
    path: Path | None
    package: tuple[str, str] | None
    index: int

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class Container:
    """What a manifest adds to every image's own labels, environment and tags.

    `annotations` are those of the OCI manifest. `compression` is how layers are compressed.
    """

    tags: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    compression: str = COMPRESSION


@dataclass(frozen=True, slots=True)
class Choice:
    """What a manifest says; paths are absolute, or relative to the working directory as the manifest's own path was.

    `others` are directories that entries name which cannot be taken (chosen twice, no exact version): nothing of them
    goes into an image, and what is wrong in them is told all the same.
    """

    repository: str
    container: Container
    configuration: tuple[Path, ...]
    libraries: tuple[Path, ...]
    wheels: tuple[Path, ...]
    policies: tuple[ChosenPolicy, ...]
    others: tuple[Path, ...]
    document: Document = field(repr=False, compare=False)


def read_choice(path: Path, modules: Mapping[str, Path] = _NO_MODULES) -> tuple[Choice | None, list[Diagnostic]]:
    """Return what the file `path` chooses, as far as that can be read, with everything wrong with it.

    `modules` are the directories of other Bazel modules whose policies may be chosen, by their names. None when nothing
    can be read. With an error among the findings it is there to be examined, not to be built.
    """
    document, diagnostics = read_document_file(path)
    if document is None:
        return None, diagnostics
    fields = Fields(document, (), MANIFEST_KEYS, diagnostics, "a manifest of policies")
    if not isinstance(document.value, dict):
        return None, diagnostics
    base = path.parent
    fields.choice("version", (MANIFEST_FORMAT,))
    repository = fields.text("repository") or DEFAULT_REPOSITORY
    if not _REPOSITORY.fullmatch(repository):
        allowed = "lower-case, such as policy-engine or registry.example.test/team/engine"
        fields.error(("repository",), "is not the name of an image", value=repository, allowed=allowed)
    configuration = _paths(fields, "configuration", base, directories=False)
    libraries = _paths(fields, "libraries", base, directories=True)
    wheels = _paths(fields, "wheels", base, directories=True)
    policies, others, used = _policies(fields, document, diagnostics, base, modules)
    shared = (modules[name] / LIBRARIES for name in used)
    libraries += tuple(one for one in shared if _is_there(one, directory=True) and one not in libraries)
    container = _container(fields)
    return Choice(repository, container, configuration, libraries, wheels, policies, others, document), diagnostics


def _container(fields: Fields) -> Container:
    tags = []
    for index, tag in enumerate(fields.items("tags", required=False, most=100)):
        if isinstance(tag, str) and _TAG.fullmatch(tag):
            tags.append(tag)
        else:
            fields.error(("tags", index), "is not a tag", value=tag, allowed="letters, digits, _ . -, at most 128")
    tables = {name: _texts(fields, name) for name in ("labels", "annotations", "env")}
    for name, own in (("labels", is_own_label), ("env", is_own_variable)):
        for key in filter(own, tables[name]):
            fields.error((name, key), "is what the image says of itself, and is not set here")
    for key in tables["env"]:
        if not _VARIABLE.fullmatch(key):
            fields.error(("env", key), "is not the name of a variable", allowed="letters, digits and _")
    compression = fields.choice("compression", tuple(sorted(COMPRESSIONS)), default=COMPRESSION) or COMPRESSION
    return Container(tuple(tags), tables["labels"], tables["annotations"], tables["env"], compression)


def _texts(fields: Fields, name: str) -> dict[str, str]:
    """Return a mapping of text to text, without what is none."""
    found = {}
    given = fields.raw(name)
    if given is None:
        return {}
    if not isinstance(given, dict):
        fields.error((name,), "must be a mapping of text to text", rule=Rule.WRONG_TYPE)
        return {}
    for key, value in given.items():
        if isinstance(key, str) and key and isinstance(value, str) and f"{key}{value}".isprintable():
            found[key] = value
        else:
            fields.error((name, key), "must be printable text", value=value, allowed='quote numbers and booleans: "1"')
    return found


def _paths(fields: Fields, name: str, base: Path, *, directories: bool) -> tuple[Path, ...]:
    paths = []
    for index, item in enumerate(fields.items(name, required=False, most=100)):
        if not isinstance(item, str) or not item:
            fields.error((name, index), "must be a path", rule=Rule.WRONG_TYPE)
            continue
        path = base / item
        if not _is_there(path, directory=directories):
            fields.error(
                (name, index), f"is no {'directory' if directories else 'file'} beside the manifest", value=item
            )
            continue
        wrong = "" if directories else unfit_configuration(path, base)
        if wrong:
            fields.error((name, index), wrong, value=item, allowed=CONFIGURATION_TAKEN)
            continue
        paths.append(path)
    names = [path.name for path in paths]
    if not directories and len(set(names)) < len(names):
        fields.error((name,), "has two files of one name; they would lie in one directory of the image")
    return tuple(paths)


def _is_there(path: Path, *, directory: bool) -> bool:
    """Return whether the path leads to a directory or a file; one that no file system takes leads nowhere."""
    try:
        return path.is_dir() if directory else path.is_file()
    except (OSError, ValueError):
        return False


def _policies(
    fields: Fields, document: Document, diagnostics: list[Diagnostic], base: Path, modules: Mapping[str, Path]
) -> tuple[tuple[ChosenPolicy, ...], tuple[Path, ...], list[str]]:
    """Return the chosen policies, the directories of those that cannot be taken, and the modules that any come from."""
    used: dict[str, None] = {}
    chosen: list[ChosenPolicy] = []
    others: list[Path] = []
    first: dict[str, int] = {}
    for index, _ in enumerate(fields.items("policies", most=MAX_POLICIES)):
        entry = Fields(document, ("policies", index), MANIFEST_ENTRY_KEYS, diagnostics, "a chosen policy")
        name = entry.text("name", required=True, longest=63)
        version = _version(entry)
        module = _module(entry, modules)
        used |= {module: None} if module is not None else {}
        path = _path(entry, modules[module] if module is not None else base, name, version)
        package = _package(entry)
        if package is not None and "module" in entry:
            entry.error(("module",), "a policy comes from a module or from a package, not from both")
        if path is not None and package is not None and "path" in entry:
            entry.error(("package",), "a policy comes from a path or from a package, not from both")
        if not entry.ok or name is None or version is None:
            others += [path] if path is not None and package is None else []
            continue
        policy = ChosenPolicy(name, version, None if package else path, package, index)
        if str(policy) in first:
            reason = f"policy {policy} is chosen twice; first as entry {first[str(policy)] + 1}"
            entry.error((), reason, rule=Rule.DUPLICATE_POLICY)
            others += [policy.path] if policy.path is not None else []
            continue
        first[str(policy)] = index
        chosen.append(policy)
    known = {one.path for one in chosen}
    there = (path for path in dict.fromkeys(others) if path not in known and _is_there(path, directory=True))
    return tuple(chosen), tuple(there), list(used)


def _version(entry: Fields) -> Version | None:
    text = entry.text("version", required=True, longest=64)
    if text is None:
        return None
    try:
        return Version.parse(text)
    except ValueError:
        entry.error(
            ("version",), "is not an exact version", value=text, allowed="v1.2.3 (major, minor and patch number)"
        )
        return None


def _path(entry: Fields, base: Path, name: str | None, version: Version | None) -> Path | None:
    """Return where the policy lies: by default where policies of this repository lie, `policies/NAME/v1_2_3`."""
    text = entry.text("path", longest=4096)
    if text is not None:
        return base / text
    if name is None or version is None:
        return None
    return base / "policies" / name / str(version).replace(".", "_")


def _module(entry: Fields, modules: Mapping[str, Path]) -> str | None:
    """Return the other Bazel module that has the policy, if the entry names one that is known."""
    name = entry.text("module", longest=255)
    if name is None or name in modules:
        return name
    known = f"{', '.join(sorted(modules)) or 'none'}; `--module NAME=DIRECTORY` tells where one is"
    entry.error(("module",), "is not a module that is known here", value=name, allowed=known)
    return None


def _package(entry: Fields) -> tuple[str, str] | None:
    text = entry.text("package")
    if text is None:
        return None
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        entry.error(("package",), "is not a package", value=text, allowed="name==version")
        return None
    specifiers: Sequence[object] = list(requirement.specifier)
    pinned = len(specifiers) == 1 and str(specifiers[0]).startswith("==") and not str(specifiers[0]).endswith("*")
    if not pinned or requirement.url or requirement.marker or requirement.extras:
        entry.error(("package",), "is not pinned to one version", value=text, allowed="name==version")
        return None
    return canonicalize_name(requirement.name), str(specifiers[0]).removeprefix("==")
