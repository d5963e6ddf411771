"""Which distributions an image gets, and that they go together: one version of each, the engine's own untouched (R-42).

A separate module because this is where policies of different authors meet. No solver runs: every version is pinned
(by the policy, by the lock), so the same choice gives the same image or the same refusal, with names, on any day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from policy_builder.discover.distributions import Distribution
from policy_builder.discover.library import Library
from policy_builder.discover.requirements_file import Pin, Requirements
from policy_engine.documents.diagnostics import Diagnostic, Rule

ENGINE = "the engine"
Finding = tuple[str, Diagnostic]
"""Whom it is about, and what."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """A requirements file of a policy, or of a library on account of that policy; `name` is how it is called."""

    policy: str
    name: str
    requirements: Requirements


@dataclass(frozen=True, slots=True)
class Needs:
    """All that one policy (or the engine) needs, itself not included; distributions by canonical name."""

    distributions: Mapping[str, Distribution] = field(default_factory=dict)
    libraries: tuple[Library, ...] = ()


@dataclass(frozen=True, slots=True)
class Resolution:
    """What goes into the image beside engine and policies; `policies` by `name version`."""

    engine: Needs
    policies: Mapping[str, Needs]

    def additional(self) -> Needs:
        """Return what policies need and the engine does not."""
        distributions: dict[str, Distribution] = {}
        libraries: dict[str, Library] = {}
        for needs in self.policies.values():
            distributions |= needs.distributions
            libraries |= {library.name: library for library in needs.libraries}
        extra = {name: one for name, one in sorted(distributions.items()) if name not in self.engine.distributions}
        return Needs(extra, tuple(library for _, library in sorted(libraries.items())))

    def required_by(self, name: str) -> tuple[str, ...]:
        """Return who needs the distribution `name`."""
        policies = [policy for policy, needs in self.policies.items() if name in needs.distributions]
        return (*(("engine",) if name in self.engine.distributions else ()), *policies)


def pin_findings(users: Sequence[Pinned], lock: Requirements, engine: Mapping[str, Distribution]) -> list[Finding]:
    """Return where the pins of policies contradict each other, the lock, or what the engine needs."""
    findings: list[Finding] = []
    for name in sorted({name for user in users for name in user.requirements.pins}):
        pins = [(user, user.requirements.pins[name]) for user in users if name in user.requirements.pins]
        for user, pin in pins:
            if name in engine and engine[name].version != pin.version:
                findings.append((user.policy, _at(pin, _replaces(pin, engine[name]), str(engine[name]))))
                continue
            others = [(other, one) for other, one in pins if one.version != pin.version]
            findings += [(user.policy, _conflict(pin, other, one)) for other, one in others]
            wrong = None if others else _against_lock(pin, lock)
            if wrong is not None:
                findings.append((user.policy, wrong))
    return findings


def _against_lock(pin: Pin, lock: Requirements) -> Diagnostic | None:
    locked = lock.pins.get(pin.name)
    if locked is None:
        if pin.hashes:
            return None
        reason = f"{pin} is not in the lock {lock.file} and has no hashes of its own"
        return _at(pin, reason, "add it to the lock (`policy-builder lock`), or its --hash=sha256:… here")
    if locked.version != pin.version:
        reason = f"{pin} contradicts the lock, which has {locked} ({locked.place})"
        return _at(pin, reason, f"{locked} here, or {pin.version} in the lock when nothing else needs the other")
    if not pin.extras <= locked.extras:
        missing = ", ".join(sorted(pin.extras - locked.extras))
        reason = f"{pin} needs the extra {missing}, which the lock's {locked} ({locked.place}) lacks"
        return _at(pin, reason, f"a lock made with {pin.shown_name}[{missing}]")
    return None


def _conflict(pin: Pin, other: Pinned, one: Pin) -> Diagnostic:
    reason = f"{pin} contradicts {other.name}, which pins {one.shown_name}=={one.version} ({one.place})"
    return _at(pin, reason, "one version for both (an image has one of each package), or two images")


def _at(pin: Pin, reason: str, way_out: str) -> Diagnostic:
    return Diagnostic(pin.file, reason, pin.line, 1, allowed=way_out, rule=Rule.REQUIREMENTS)


def effective_lock(users: Iterable[Pinned], lock: Requirements) -> dict[str, Pin]:
    """Return the lock together with what policies pin by hash themselves."""
    pins = dict(lock.pins)
    for user in users:
        for name, pin in user.requirements.pins.items():
            if pin.hashes:
                pins.setdefault(name, pin)
    return pins


@dataclass(slots=True)
class Resolver:
    """Follows requirements through the pins in `lock`.

    `fetch` gets the distributions of pins, by canonical name, and why others cannot be had.
    """

    lock: Mapping[str, Pin]
    lock_file: str
    environment: Mapping[str, str]
    fetch: Callable[[Sequence[Pin]], tuple[Mapping[str, Distribution], Mapping[str, str]]]
    _known: dict[str, Distribution] = field(default_factory=dict)
    _failed: dict[str, str] = field(default_factory=dict)

    def closure(self, subject: str, wanted: Sequence[tuple[Requirement, str]]) -> tuple[Needs, list[Finding]]:
        """Return all that `wanted` (each with who wants it) leads to, and what cannot be had."""
        findings: list[Finding] = []
        found: dict[str, Distribution] = {}
        waiting = list(wanted)
        while waiting:
            names = self._names(subject, waiting, findings)
            missing = [self.lock[name] for name in names if name not in self._known and name not in self._failed]
            if missing:
                known, failed = self.fetch(missing)
                self._known |= known
                self._failed |= failed
            waiting = []
            for name in names:
                if name in self._failed:
                    findings.append((subject, _at(self.lock[name], self._failed[name], "")))
                if name in found or name in self._failed:
                    continue
                found[name] = distribution = self._known[name]
                needed = distribution.needs(self.lock[name].extras, self.environment)
                waiting += [(one, str(distribution)) for many in needed.values() for one in many]
        return Needs(dict(sorted(found.items()))), findings

    def _names(self, subject: str, wanted: Sequence[tuple[Requirement, str]], findings: list[Finding]) -> list[str]:
        """Return the pinned names among `wanted`; the others are findings."""
        names: dict[str, None] = {}
        for requirement, by in wanted:
            name = canonicalize_name(requirement.name)
            pin = self.lock.get(name)
            if pin is None:
                reason = f"{by} needs {requirement.name}{requirement.specifier}, which nothing pins"
                allowed = (
                    f"a line {requirement.name}==VERSION with its hashes in {self.lock_file} (`policy-builder lock`)"
                )
                findings.append((subject, Diagnostic(self.lock_file, reason, allowed=allowed, rule=Rule.REQUIREMENTS)))
            elif not requirement.specifier.contains(pin.version, prereleases=True):
                reason = f"{by} needs {requirement.name}{requirement.specifier}, but {pin} is pinned"
                finding = Diagnostic(
                    pin.file, reason, pin.line, 1, allowed=str(requirement.specifier), rule=Rule.REQUIREMENTS
                )
                findings.append((subject, finding))
            else:
                names[name] = None
        return list(names)


def installed_findings(users: Sequence[Pinned], resolution: Resolution) -> list[Finding]:
    """Return where what is about to be installed contradicts the pins, itself or the engine.

    `policy-builder` comes here with what it resolved; Bazel with what the targets' `deps` brought.
    """
    findings: list[Finding] = []
    for user in users:
        needs = resolution.policies[user.policy]
        for pin in user.requirements.pins.values():
            given = needs.distributions.get(pin.name) or resolution.engine.distributions.get(pin.name)
            if given is None:
                reason = f"{pin} is not among what {user.name} is built with"
                findings.append((user.policy, _at(pin, reason, f"{pin.shown_name} in the deps of its target")))
            elif given.version != pin.version:
                findings.append((user.policy, _at(pin, _other_version(pin, given, resolution), str(given))))
    versions: dict[str, tuple[str, Distribution]] = {
        name: (ENGINE, distribution) for name, distribution in resolution.engine.distributions.items()
    }
    for policy, needs in resolution.policies.items():
        for name, distribution in needs.distributions.items():
            owner, first = versions.setdefault(name, (policy, distribution))
            if first.version != distribution.version:
                reason = f"needs {distribution}, but {owner} needs {first}; one image has one version of a package"
                own = "; the engine's own requirements cannot be replaced" if owner == ENGINE else ""
                finding = Diagnostic(policy, reason + own, allowed=str(first), rule=Rule.REQUIREMENTS)
                findings.append((policy, finding))
    return findings + _collisions(resolution)


def _other_version(pin: Pin, given: Distribution, resolution: Resolution) -> str:
    if pin.name in resolution.engine.distributions:
        return _replaces(pin, given)
    return f"{pin} is pinned, but the policy is built with {given}"


def _replaces(pin: Pin, given: Distribution) -> str:
    return f"{pin} would replace {given}, which the engine itself needs; its requirements cannot be replaced"


def _collisions(resolution: Resolution) -> list[Finding]:
    """Return files and modules that two distributions would both install differently: one would hide the other."""
    findings: list[Finding] = []
    owners: dict[str, tuple[str, Path]] = {}
    modules: dict[str, tuple[str, str]] = {}
    reported: set[tuple[str, str]] = set()

    def claim(subject: str, owner: str, files: Mapping[str, Path]) -> None:
        for name, path in files.items():
            module = _module(name)
            if module is not None:
                first, file = modules.setdefault(module, (owner, name))
                if first != owner and file != name:
                    reason = f"{owner} brings {name}, and {first} {file}: one would hide the other when it is imported"
                    findings.append((subject, Diagnostic(owner, reason, rule=Rule.REQUIREMENTS)))
            first, other = owners.setdefault(name, (owner, path))
            if first == owner or (first, owner) in reported or path.read_bytes() == other.read_bytes():
                continue
            reported.add((first, owner))
            reason = f"{owner} and {first} both install {name}, with different content; they cannot be in one image"
            findings.append((subject, Diagnostic(owner, reason, rule=Rule.REQUIREMENTS)))

    for distribution in resolution.engine.distributions.values():
        claim(ENGINE, str(distribution), distribution.files)
    for subject, needs in resolution.policies.items():
        for distribution in needs.distributions.values():
            if distribution.name not in resolution.engine.distributions:
                claim(subject, str(distribution), distribution.files)
            if "policy_engine" in distribution.modules():
                reason = f"{distribution} brings a package policy_engine, which would hide the engine"
                findings.append((subject, Diagnostic(str(distribution), reason, rule=Rule.REQUIREMENTS)))
        for library in needs.libraries:
            claim(subject, f"library {library.name}", library.files)
    return findings


def _module(name: str) -> str | None:
    """Return the module that the installed file `name` is imported as, dots as slashes; None when it is none."""
    directory, _, file = name.rpartition("/")
    if file == "__init__.py":
        return directory
    if file.endswith((".py", ".so")):
        return f"{directory}/{file.partition('.')[0]}".lstrip("/")
    return None


def modules_of(needs: Needs) -> dict[str, str]:
    """Return which distribution or library brings each top-level module of `needs`."""
    modules = {module: str(one) for one in needs.distributions.values() for module in one.modules()}
    return modules | {library.name: f"library {library.name}" for library in needs.libraries}
