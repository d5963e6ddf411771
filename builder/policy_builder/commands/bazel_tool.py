"""What `policy_image` runs (builder/defs.bzl): validates and describes the policies that targets and `deps` brought.

    bazel_tool REQUEST.json registry=PATH build_info=PATH sbom=PATH licences=PATH labels=PATH tags=PATH metadata=DIR

A separate module because the request's form belongs to that rule. Checks and documents are those of
`policy-builder`; only who gathers the files differs. All mistakes are in one report, nothing is written then (R-42).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from policy_builder.describe.documents import documents
from policy_builder.describe.engine_metadata import engine_metadata
from policy_builder.describe.generate import labels
from policy_builder.discover.choice import ChosenPolicy
from policy_builder.discover.debian import read_lock
from policy_builder.discover.distributions import Distribution, DistributionError, read_distribution
from policy_builder.discover.engine_source import EngineError, check_whole, engine_version
from policy_builder.discover.file_kinds import CONFIGURATION_TAKEN, unfit_configuration
from policy_builder.discover.library import Library
from policy_builder.discover.platform import Platform
from policy_builder.discover.policy_source import Package, PolicySource, read_source
from policy_builder.discover.requirements_file import Requirements
from policy_builder.recipe import is_own_label
from policy_builder.validate.facts import Facts
from policy_builder.validate.machine import machine_findings
from policy_builder.validate.report import Report
from policy_builder.validate.resolution import Needs, Pinned, Resolution, installed_findings
from policy_builder.validate.validation import code_findings
from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.worker.policies.registry import Version


def main(arguments: Sequence[str] | None = None) -> int:
    """Write registry, build information, SBOM, licences, labels and tags; returns the exit status."""
    request_file, *outputs = sys.argv[1:] if arguments is None else arguments
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    report = Report()
    try:
        facts = gather(request, report)
    except EngineError as error:
        print(f"{request['label']}: {error}", file=sys.stderr)
        return 1
    if report.findings:
        print(f"{request['label']}:\n{report.render_text()}", end="", file=sys.stderr)
    if report.failed:
        return 1
    written = documents(facts) | {
        "labels": "".join(f"{key}={value}\n" for key, value in {**labels(facts), **request.get("labels", {})}.items()),
        "remote_tags": "".join(f"{tag}\n" for tag in request.get("tags", ())),
        "tags": "".join(f"{request['repository']}:{tag}\n" for tag in request.get("tags") or (facts.engine_version,)),
    }
    for output in outputs:
        name, _, path = output.partition("=")
        files = engine_metadata(facts) if name == "metadata" else {"": written[name]}
        for file, text in files.items():
            target = Path(path, file) if file else Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    return 0


def gather(request: Mapping[str, Any], report: Report) -> Facts:
    """Return what the request describes, with everything wrong with it in `report`."""
    platform = Platform(request["architecture"])
    for key in filter(is_own_label, request.get("labels", {})):
        finding = Diagnostic(f"labels, {key}", "is what the image says of itself, and is not set here")
        report.add(request["label"], [finding])
    for file in request.get("configuration", ()):
        wrong = unfit_configuration(Path(file))
        if wrong:
            finding = Diagnostic(file, wrong, allowed=CONFIGURATION_TAKEN, rule=Rule.UNREADABLE)
            report.add(f"{request['label']}, configuration", [finding])
    engine = _needs("the engine", request["engine"]["requirements"], report)
    sources: list[PolicySource] = []
    needs: dict[str, Needs] = {}
    labels_of: dict[str, str] = {}
    for policy in request["policies"]:
        source = _source(policy, platform, report)
        if str(source) in needs:
            reason = f"{source} is both {labels_of[str(source)]} and {policy['label']}; choose one of them"
            report.add(str(source), [Diagnostic(policy["label"], reason, rule=Rule.DUPLICATE_POLICY)])
            continue
        labels_of[str(source)] = policy["label"]
        needs[str(source)] = _needs(str(source), policy["requirements"], report)
        report.add(str(source), source.diagnostics)
        sources.append(source)
    sources.sort(key=lambda one: (one.name, one.version))
    resolution = Resolution(engine, {str(one): needs[str(one)] for one in sources})
    users = [Pinned(str(one), str(one), one.requirements) for one in sources]
    for subject, finding in [*installed_findings(users, resolution), *machine_findings(resolution, platform)]:
        report.add(subject, [finding])
    for source in sources:
        report.add(str(source), code_findings(source, needs[str(source)], engine))
    files = _named(request["engine"]["files"])
    version, licence = engine_version(Path(request["engine"]["version"])), Path(request["engine"]["licence"])
    check_whole(files, Path(request["engine"]["launcher"]), licence)
    debian = read_lock(Path(request["debian_lock"]), platform.architecture)
    return Facts(version, files, tuple(sources), resolution, debian, licence)


def _source(policy: Mapping[str, Any], platform: Platform, report: Report) -> PolicySource:
    try:
        version = Version.parse(policy["version"])
    except ValueError as error:
        report.add(policy["name"], [Diagnostic(policy["label"], str(error), rule=Rule.WRONG_VALUE)])
        version = Version(0, 0, 0)
    chosen = ChosenPolicy(policy["name"], version, None, None, 0)
    requires = tuple(Requirement(line) for line in policy.get("requires", ()))
    files = _named(policy["files"])
    environment = platform.marker_environment()
    return read_source(
        chosen,
        policy["where"],
        files,
        tuple(policy["tests"]),
        environment=environment,
        requires=requires,
        package=_package(policy.get("package"), report),
    )


def _package(described: Mapping[str, Any] | None, report: Report) -> Package | None:
    """Return the wheel that brings a policy, of its METADATA and, where it is at hand, of the wheel itself."""
    if not described:
        return None
    try:
        distribution = read_distribution(_named(described["files"]))
    except DistributionError as error:
        report.add(described["owner"], [Diagnostic(described["owner"], str(error), rule=Rule.REQUIREMENTS)])
        return None
    wheel = Path(described["wheel"]) if described.get("wheel") else None
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest() if wheel is not None else ""
    return Package.of(replace(distribution, wheel=digest))


def _needs(subject: str, entries: Sequence[Mapping[str, str]], report: Report) -> Needs:
    """Return the distributions and libraries that installed files (each with its owner) belong to."""
    by_owner: dict[str, dict[str, Path]] = defaultdict(dict)
    for entry in entries:
        by_owner[entry["owner"]][entry["path"]] = Path(entry["source"])
    distributions: dict[str, Distribution] = {}
    packages: dict[str, dict[str, Path]] = defaultdict(dict)
    for owner, files in by_owner.items():
        if any(name.partition("/")[0].endswith(".dist-info") for name in files):
            try:
                distribution = read_distribution(files)
            except DistributionError as error:
                report.add(subject, [Diagnostic(owner, str(error), rule=Rule.REQUIREMENTS)])
                continue
            distributions[distribution.name] = distribution
        else:
            for name, path in files.items():
                packages[name.partition("/")[0]][name] = path
    libraries = tuple(Library(name, packages[name], Requirements(name, {})) for name in sorted(packages))
    return Needs(dict(sorted(distributions.items())), libraries)


def _named(entries: Sequence[Mapping[str, str]]) -> dict[str, Path]:
    return {entry["path"]: Path(entry["source"]) for entry in sorted(entries, key=lambda one: one["path"])}


if __name__ == "__main__":
    sys.exit(main())
