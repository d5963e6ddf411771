"""The command `policy-validator`: policies and chain files checked where they are written, before anything is built.

Policies are read and never imported. Chain files name policies, so those in --policies are loaded, as an engine would.
A separate module because its arguments and its exit status are what people put into their CI.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from policy_builder.discover.platform import Platform
from policy_builder.discover.policy_source import PolicySource, discover_directory
from policy_builder.discover.workspace import enter_working_directory
from policy_builder.validate.imports import check_imports
from policy_builder.validate.interface import check_interface
from policy_builder.validate.report import Report
from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.sources.validate import validate_paths
from policy_engine.worker.policies.loader import PoliciesUnusable, load_policies
from policy_engine.worker.policies.registry import MANIFEST_FILE

_DESCRIPTION = """\
Checks policies and chain files where they are written, before anything is built.

Policies are read and never imported. Chain files name policies, so those in --policies are loaded, as an engine would.
"""
_EPILOG = """exit status:
  0  valid; warnings are possible
  1  not valid; the report has everything that is wrong
  2  the command line is wrong, or the policies in --policies cannot be used

examples:
  policy-validator policies/set-header/v1_0_0
  policy-validator policies/
  policy-validator --policies policies configs/chains.yaml"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="policy-validator",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="policy (its directory or policy.yaml), tree of policies, or chains",
    )
    parser.add_argument("--policies", type=Path, metavar="PATH", help="registry.json or a tree of policies, for chains")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("--follow-links", action="store_true", help="policies are trees of links, as Bazel makes them")
    options = parser.parse_args(arguments)
    for path in options.paths:
        if not path.exists():
            parser.error(f"{path}: no such file or directory")
    directories = [directory for path in options.paths for directory in policy_directories(path)]
    chains = [path for path in options.paths if not policy_directories(path)]
    report = Report()
    check_policies(directories, report, follow_links=options.follow_links)
    if chains:
        if options.policies is None:
            parser.error(f"{chains[0]} is a chain file, so --policies must say which policies there are")
        try:
            registry = load_policies(options.policies)
        except PoliciesUnusable as error:
            print(f"policy-validator: --policies {options.policies} cannot be used:\n{error}", file=sys.stderr)
            return 2
        for finding in validate_paths(chains, registry):
            report.add(finding.file, [finding])
    print(report.render_json() if options.json else report.render_text(), end="")
    return 1 if report.failed else 0


def policy_directory(path: Path) -> Path | None:
    """Return the directory of the policy that `path` names, None when it is no policy."""
    if path.name == MANIFEST_FILE:
        return path.parent
    return path if (path / MANIFEST_FILE).is_file() else None


def policy_directories(path: Path) -> list[Path]:
    """Return the directories of the policies in `path`: a policy, all versions of one, or a tree `<name>/<v1_0_0>/`."""
    one = policy_directory(path)
    if one is not None:
        return [one]
    found = {file.parent for pattern in ("*", "*/*") for file in path.glob(f"{pattern}/{MANIFEST_FILE}")}
    found |= {version for pattern in ("v*_*_*", "*/v*_*_*") for version in path.glob(pattern) if version.is_dir()}
    return sorted(found)


def check_policies(directories: Sequence[Path], report: Report, *, follow_links: bool = False) -> list[PolicySource]:
    """Add everything wrong with the policies in `directories` to `report`; return them."""
    policies: list[PolicySource] = []
    for directory in directories:
        policy = discover_directory(None, directory, Platform().marker_environment(), follow_links=follow_links)
        twin = next((one for one in policies if policy.manifest and str(one) == str(policy)), None)
        if twin is not None:
            reason = f"{policy} is also in {twin.where}; the same name and version must mean the same policy"
            file = policy.shown(MANIFEST_FILE)
            report.add(str(policy), [Diagnostic(file, reason, 1, 1, rule=Rule.DUPLICATE_POLICY)])
        policies.append(policy)
        report.add(str(policy), policy.diagnostics)
        report.add(str(policy), check_imports(policy.where, policy.files, None))
        if policy.manifest is not None:
            report.add(str(policy), check_interface(policy.manifest, policy.where, policy.files))
    return policies


if __name__ == "__main__":
    enter_working_directory()
    sys.exit(main())
