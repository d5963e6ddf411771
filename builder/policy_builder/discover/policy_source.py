"""Discovery: where the files of a chosen policy are, in a directory or inside a wheel (R-30, R-43).

A separate module because after it nothing asks any more where a policy came from. Nothing of a policy is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement

from policy_builder.discover.choice import ChosenPolicy
from policy_builder.discover.distributions import Distribution
from policy_builder.discover.file_kinds import compiled_code, irregularity
from policy_builder.discover.requirements_file import Requirements, read_requirements
from policy_builder.recipe import belongs_in_image, is_debris, is_nested_package, is_test
from policy_engine.documents.diagnostics import Diagnostic, Rule, Severity
from policy_engine.documents.fields import did_you_mean
from policy_engine.documents.yaml_document import Document
from policy_engine.worker.policies.manifest import PolicyManifest, parse_manifest
from policy_engine.worker.policies.registry import MANIFEST_FILE

ENTRY_POINTS = "policy_engine.policies"
"""Entry point group by which a wheel says which of its packages are policies."""

REQUIREMENTS_FILE = "requirements.txt"
MAX_FILES = 2000
MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Package:
    """The wheel that brings a policy; `wheel` is its sha256, empty where that is not known."""

    name: str
    version: str
    licence: str
    author: str
    wheel: str

    @classmethod
    def of(cls, distribution: Distribution) -> Package:
        """Return the package that a distribution is."""
        one = distribution
        return cls(one.shown_name, one.version, one.licence, one.author, one.wheel)

    def as_document(self) -> dict[str, str]:
        """Return what build information and the engine's pages show of it."""
        return {
            "name": self.name,
            "version": self.version,
            "licence": self.licence or "not stated",
            "wheel": f"sha256:{self.wheel}" if self.wheel else "",
        }


@dataclass(frozen=True, slots=True)
class PolicySource:
    """A discovered policy: `files` go into the image, `tests` do not; both by name below its directory.

    `where` is how its directory is called in findings. `package` and `requires` are its wheel and what that needs, for
    a policy from one. `manifest` is None when policy.yaml has errors; those are in `diagnostics`.
    """

    name: str
    version: str
    where: str
    files: Mapping[str, Path] = field(repr=False)
    tests: tuple[str, ...]
    manifest: PolicyManifest | None
    requirements: Requirements
    requires: tuple[Requirement, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
    package: Package | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def shown(self, name: str) -> str:
        """Return how the file `name` of this policy is called in findings."""
        return f"{self.where}/{name}"


def discover_directory(
    chosen: ChosenPolicy | None, directory: Path, environment: Mapping[str, str], *, follow_links: bool = False
) -> PolicySource:
    """Return the policy in `directory`; its name and version must be those of `chosen`, when it is given.

    `follow_links` is for trees of links that Bazel made; elsewhere a link leads to what is not part of the policy.
    """
    where = str(directory)
    if not directory.is_dir():
        reason = "is no directory; every policy has one, with its policy.yaml"
        finding = Diagnostic(where, reason, rule=Rule.UNREADABLE)
        return _nothing(chosen, where, finding)
    files, tests, diagnostics = _files(directory, where, follow_links)
    return read_source(chosen, where, files, tests, environment=environment, diagnostics=diagnostics)


def read_source(
    chosen: ChosenPolicy | None,
    where: str,
    files: Mapping[str, Path],
    tests: tuple[str, ...],
    *,
    environment: Mapping[str, str],
    diagnostics: Iterable[Diagnostic] = (),
    requires: tuple[Requirement, ...] = (),
    package: Package | None = None,
) -> PolicySource:
    """Return the policy that consists of `files`, with everything that can be seen from policy.yaml and the names."""
    if len(files) + len(tests) > MAX_FILES or sum(path.stat().st_size for path in files.values()) > MAX_BYTES:
        return _nothing(chosen, where, _too_much(where))
    diagnostics = [*diagnostics, *_compiled(where, files)]
    manifest = None
    if MANIFEST_FILE in files:
        manifest, found = parse_manifest(f"{where}/{MANIFEST_FILE}", files[MANIFEST_FILE].read_bytes())
        diagnostics += found
    else:
        reason = f"has no {MANIFEST_FILE}; `policy-engine new-policy NAME` makes a directory with one"
        diagnostics.append(Diagnostic(where, reason, rule=Rule.UNREADABLE))
    if manifest is not None and chosen is not None:
        for key, wanted in (("name", chosen.name), ("version", str(chosen.version))):
            actual = str(getattr(manifest, key))
            if actual != wanted:
                reason = f"the policy chosen here is {chosen}; make them equal"
                diagnostics.append(manifest.document.diagnostic((key,), reason, value=actual, allowed=wanted))
    requirements = Requirements(f"{where}/{REQUIREMENTS_FILE}", {})
    if REQUIREMENTS_FILE in files:
        requirements = read_requirements(files[REQUIREMENTS_FILE], environment, requirements.file)
        diagnostics += requirements.diagnostics
    if not any(PurePosixPath(name).stem.upper() == "README" and "/" not in name for name in files):
        diagnostics.append(_missing(where, "has no README.md: who chooses it learns nothing about it"))
    if not any(name.endswith("_test.py") for name in tests):
        diagnostics.append(_missing(where, "has no test (*_test.py)"))
    name, version = (manifest.name, str(manifest.version)) if manifest is not None else (where, "")
    if chosen is not None:
        name, version = chosen.name, str(chosen.version)
    return PolicySource(
        name, version, where, files, tests, manifest, requirements, requires, tuple(diagnostics), package
    )


def discover_package(
    chosen: ChosenPolicy, distribution: Distribution, choice: Document, environment: Mapping[str, str]
) -> PolicySource:
    """Return the policy that `distribution` offers by an entry point in the group `policy_engine.policies`.

    The entry point's value is a package of the wheel that is a policy's directory. Only that directory goes into the
    image: a wheel may bring many policies. Code they share belongs into another wheel, which they require.
    """
    where = f"{distribution.shown_name}-{distribution.version}"
    offered: list[str] = []
    for package in _entry_points(distribution):
        prefix = package.replace(".", "/") + "/"
        inside = {
            name.removeprefix(prefix): path for name, path in distribution.files.items() if name.startswith(prefix)
        }
        if MANIFEST_FILE not in inside:
            offered.append(f"{package} (without {MANIFEST_FILE})")
            continue
        manifest, found = parse_manifest(f"{where}/{prefix}{MANIFEST_FILE}", inside[MANIFEST_FILE].read_bytes())
        if manifest is None:
            offered.append(f"{package} ({found[0]})")
            continue
        offered.append(f"{manifest.name} {manifest.version}")
        if offered[-1] == str(chosen):
            tests = tuple(sorted(name for name in inside if is_test(name) and not is_debris(name)))
            files = {name: path for name, path in inside.items() if belongs_in_image(name)}
            needs = distribution.needs((), environment)
            requires = tuple(one for name, many in needs.items() if name != "policy-engine" for one in many)
            place = f"{where}/{prefix.rstrip('/')}"
            return read_source(
                chosen,
                place,
                files,
                tests,
                environment=environment,
                requires=requires,
                package=Package.of(distribution),
            )
    reason = f"{distribution} does not offer {chosen}{did_you_mean(str(chosen), offered)}"
    allowed = ", ".join(offered) or f"nothing: it has no entry point in the group {ENTRY_POINTS}"
    finding = choice.diagnostic(
        ("policies", chosen.index, "package"), reason, allowed=allowed, rule=Rule.UNKNOWN_POLICY
    )
    return _nothing(chosen, where, finding)


def _nothing(chosen: ChosenPolicy | None, where: str, finding: Diagnostic) -> PolicySource:
    """Return a policy of which nothing was found but `finding`."""
    name, version = (chosen.name, str(chosen.version)) if chosen is not None else (where, "")
    return PolicySource(name, version, where, {}, (), None, Requirements(where, {}), diagnostics=(finding,))


def _files(
    directory: Path, where: str, follow_links: bool
) -> tuple[dict[str, Path], tuple[str, ...], list[Diagnostic]]:
    files: dict[str, Path] = {}
    tests: list[str] = []
    size = 0
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if is_nested_package(name) and path.is_file():
            reason = (
                "makes its directory another package for Bazel, which then leaves all of it out of the policy; "
                "only the policy's own directory has a BUILD file"
            )
            return {}, (), [Diagnostic(f"{where}/{name}", reason, rule=Rule.UNREADABLE)]
        if is_debris(name):
            continue
        wrong = irregularity(path, follow_links=follow_links)
        if wrong:
            shown = name.encode(errors="backslashreplace").decode()
            return {}, (), [Diagnostic(f"{where}/{shown}", wrong, rule=Rule.UNREADABLE)]
        if path.is_dir():
            continue
        size += path.stat().st_size
        if len(files) + len(tests) >= MAX_FILES or size > MAX_BYTES:
            return {}, (), [_too_much(where)]
        if is_test(name):
            tests.append(name)
        else:
            files[name] = path
    return files, tuple(tests), []


def _too_much(where: str) -> Diagnostic:
    reason = f"holds more than {MAX_FILES} files or {MAX_BYTES >> 20} MiB; is this the directory of one policy?"
    return Diagnostic(where, reason, rule=Rule.UNREADABLE)


def _compiled(where: str, files: Mapping[str, Path]) -> list[Diagnostic]:
    """Return a finding for each file of compiled code: nobody can review it, and it runs on one platform only."""
    found = []
    for name, path in files.items():
        what = compiled_code(name, path)
        if what:
            reason = f"is {what}; a policy is source that can be read, and runs on every platform"
            allowed = "a wheel that has it, pinned in requirements.txt"
            found.append(Diagnostic(f"{where}/{name}", reason, allowed=allowed, rule=Rule.UNREADABLE))
    return found


def _entry_points(distribution: Distribution) -> list[str]:
    (name,) = (one for one in distribution.files if one.endswith(".dist-info/METADATA"))
    listing = distribution.files.get(name.replace("METADATA", "entry_points.txt"))
    parser = ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[method-assign,assignment] # names keep their case: the documented way
    try:
        parser.read_string(listing.read_text(encoding="utf-8") if listing else "")
        return sorted({value.strip() for _, value in parser.items(ENTRY_POINTS)})
    except (ConfigError, UnicodeDecodeError):
        return []


def _missing(where: str, reason: str) -> Diagnostic:
    return Diagnostic(where, reason, severity=Severity.WARNING, rule=Rule.MISSING_FILE)
