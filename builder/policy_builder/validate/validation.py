"""Discover and validate: from a manifest to a plan that can be packaged, or to everything that is wrong (R-42).

A separate module because it alone decides the order of the checks: every check that can run does, so that one report
has all findings, and nothing is written before the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from policy_builder.discover.choice import Choice, ChosenPolicy, read_choice
from policy_builder.discover.debian import read_lock
from policy_builder.discover.distributions import Distribution, DistributionError
from policy_builder.discover.engine_source import EngineSource, read_engine
from policy_builder.discover.library import Library, find_libraries
from policy_builder.discover.platform import Platform
from policy_builder.discover.policy_source import PolicySource, discover_directory, discover_package
from policy_builder.discover.requirements_file import Pin, Requirements, read_requirements
from policy_builder.discover.wheel_archive import WheelError
from policy_builder.discover.wheels import FetchError, WheelStore
from policy_builder.discover.workspace import Workspace
from policy_builder.validate.facts import Facts
from policy_builder.validate.imports import check_imports
from policy_builder.validate.interface import check_interface
from policy_builder.validate.machine import machine_findings
from policy_builder.validate.report import Report
from policy_builder.validate.resolution import (
    ENGINE,
    Finding,
    Needs,
    Pinned,
    Resolution,
    Resolver,
    effective_lock,
    installed_findings,
    modules_of,
    pin_findings,
)
from policy_engine.documents.diagnostics import Diagnostic, Rule


@dataclass(frozen=True, slots=True)
class Plan:
    """A choice without errors: all that goes into an image."""

    choice: Choice
    engine: EngineSource
    policies: tuple[PolicySource, ...]
    resolution: Resolution
    facts: Facts
    platform: Platform


def validate(manifest: Path, workspace: Workspace, platform: Platform, report: Report) -> Plan | None:
    """Return the plan for `manifest`, None when `report`, which gets every finding, has an error.

    Raises EngineError, DebianError and FetchError for what is not the manifest's fault; `report` has then what was
    found before.
    """
    environment = platform.marker_environment()
    choice, diagnostics = read_choice(manifest, workspace.modules)
    report.add(str(manifest), diagnostics)
    engine = read_engine(workspace.engine)
    debian = read_lock(workspace.debian_lock, platform.architecture)
    lock = read_requirements(workspace.lock, environment)
    report.add(lock.file, lock.diagnostics)
    if choice is None:
        return None
    store = WheelStore(workspace.cache, platform, choice.wheels)
    policies = tuple(
        sorted(
            (_discover(one, choice, lock, store, environment) for one in choice.policies),
            key=lambda one: (one.name, one.version),
        )
    )
    for policy in policies:
        report.add(str(policy), policy.diagnostics)
    libraries = {str(one): find_libraries(one.files, choice.libraries, environment) for one in policies}
    for directory in choice.others:
        source = discover_directory(None, directory, environment)
        report.add(source.where, [*source.diagnostics, *source_findings(source)])
    for library in {library.name: library for many in libraries.values() for library in many}.values():
        report.add(f"library {library.name}", library.diagnostics)
    try:
        resolution = _resolve(
            engine, policies, libraries, lock=lock, store=store, environment=environment, report=report
        )
    except FetchError:  # what does not depend on what could not be fetched is told all the same
        for policy in policies:
            report.add(str(policy), source_findings(policy))
        raise
    _add(report, machine_findings(resolution, platform))
    for policy in policies:
        needs = resolution.policies[str(policy)]
        report.add(str(policy), code_findings(policy, needs, resolution.engine))
    if report.failed:
        return None
    facts = Facts(engine.version, engine.files, policies, resolution, debian, engine.licence)
    return Plan(choice, engine, policies, resolution, facts, platform)


def source_findings(policy: PolicySource) -> list[Diagnostic]:
    """Return what is wrong with a policy's code whatever its requirements bring."""
    findings = check_imports(policy.where, policy.files, None)
    if policy.manifest is not None:
        findings += check_interface(policy.manifest, policy.where, policy.files)
    return findings


def code_findings(policy: PolicySource, needs: Needs, engine: Needs) -> list[Diagnostic]:
    """Return what is wrong with a policy's code, as far as its source shows."""
    installed: dict[str, Path] = {}
    for one in needs.distributions.values():
        installed |= one.files
    for library in needs.libraries:
        installed |= library.files
    findings = check_imports(policy.where, policy.files, modules_of(needs), modules_of(engine))
    if policy.manifest is not None:
        findings += check_interface(policy.manifest, policy.where, policy.files, installed)
    return findings


def _discover(
    chosen: ChosenPolicy, choice: Choice, lock: Requirements, store: WheelStore, environment: Mapping[str, str]
) -> PolicySource:
    if chosen.path is not None:
        return discover_directory(chosen, chosen.path, environment)
    name, version = chosen.package or ("", "")
    wheel = store.local(name, version)
    reason = ""
    if wheel is None and name in lock.pins and lock.pins[name].version == version:
        found, failed = store.fetch([lock.pins[name]])
        wheel, reason = found.get(name), failed.get(name, "")
    if wheel is not None:
        try:
            distribution = store.installed(wheel)
            return discover_package(chosen, distribution, choice.document, environment)
        except (DistributionError, WheelError) as error:
            reason = f"{wheel}: {error}"
    reason = (
        reason or f"package {name}=={version} is neither in the lock {lock.file} nor in the directories in `wheels`"
    )
    finding = choice.document.diagnostic(("policies", chosen.index, "package"), reason, rule=Rule.REQUIREMENTS)
    nothing = Requirements(name, {})
    return PolicySource(chosen.name, str(chosen.version), name, {}, (), None, nothing, (), (finding,))


def _resolve(
    engine: EngineSource,
    policies: Sequence[PolicySource],
    libraries: Mapping[str, tuple[Library, ...]],
    *,
    lock: Requirements,
    store: WheelStore,
    environment: Mapping[str, str],
    report: Report,
) -> Resolution:
    def fetch(pins: Sequence[Pin]) -> tuple[dict[str, Distribution], dict[str, str]]:
        wheels, failed = store.fetch(pins)
        found: dict[str, Distribution] = {}
        for name, wheel in wheels.items():
            try:
                found[name] = store.installed(wheel)
            except (DistributionError, WheelError) as error:
                failed[name] = f"{wheel}: {error}"
        return found, failed

    users = [Pinned(str(one), str(one), one.requirements) for one in policies]
    users += [
        Pinned(policy, f"library {library.name}", library.requirements)
        for policy, many in libraries.items()
        for library in many
    ]
    resolver = Resolver(effective_lock(users, lock), lock.file, environment, fetch)
    try:
        engine_needs, findings = resolver.closure(ENGINE, [(one, ENGINE) for one in engine.requires])
    except FetchError:
        _add(report, pin_findings(users, lock, {}))
        raise
    findings += pin_findings(users, lock, engine_needs.distributions)
    needs: dict[str, Needs] = {}
    for policy in policies:
        # By name alone: a pin that contradicts the lock has been reported, and where it leads is checked all the same.
        wanted = [
            (Requirement(pin.shown_name), user.name)
            for user in users
            if user.policy == str(policy)
            for pin in user.requirements.pins.values()
        ]
        closure, found = resolver.closure(str(policy), wanted + [(one, str(policy)) for one in policy.requires])
        findings += found
        needs[str(policy)] = Needs(closure.distributions, libraries[str(policy)])
    resolution = Resolution(engine_needs, needs)
    reported = {(subject, one.file, one.line) for subject, one in findings}
    more = installed_findings(users, resolution)
    _add(report, findings + [(subject, one) for subject, one in more if (subject, one.file, one.line) not in reported])
    return resolution


def _add(report: Report, findings: Iterable[Finding]) -> None:
    for subject, finding in findings:
        report.add(subject, [finding])
