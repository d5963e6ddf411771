"""The command `schema-checker`: what a policy's class has of the author's interface, and what it lacks.

A separate module because it explains, where `policy-validator` only judges: each declared phase with its hook, and for
a missing one the line to write.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policy_builder.commands.validator_tool import policy_directory
from policy_builder.discover.platform import Platform
from policy_builder.discover.policy_source import PolicySource, discover_directory
from policy_builder.discover.workspace import enter_working_directory
from policy_builder.validate.interface import ClassView, check_interface, class_view, signature
from policy_builder.validate.report import Report, as_json
from policy_engine.documents.diagnostics import ordered
from policy_engine.sdk.hooks import Phase, names_of

_OTHER_HOOKS = ("on_stream_end", "close")

_DESCRIPTION = """\
Explains what a policy's class has of the author's interface and what it lacks: each declared phase with its hook, and
for a missing one the line to write.
"""


@dataclass(frozen=True, slots=True)
class PhaseView:
    """One phase of a policy: whether policy.yaml declares it, the hooks the class has for it, the lines to write."""

    phase: Phase
    declared: bool
    hooks: tuple[str, ...]
    to_write: tuple[str, ...]

    def render(self) -> str:
        """Return the line that explains the phase."""
        if self.hooks and self.declared:
            return f"{self.phase:<17} {', '.join(self.hooks)}"
        if self.hooks:
            return f"{self.phase:<17} {', '.join(self.hooks)}: not declared in policy.yaml, so it never runs"
        return f"{self.phase:<17} declared, but missing in the class; write {' or '.join(self.to_write)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 complete, 1 something is missing, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="schema-checker", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="directory of a policy, or its policy.yaml")
    parser.add_argument("--json", action="store_true", help="the explanation as JSON")
    parser.add_argument("--follow-links", action="store_true", help="policies are trees of links, as Bazel makes them")
    options = parser.parse_args(arguments)
    report = Report()
    explained: list[dict[str, Any]] = []
    for path in options.paths:
        directory = policy_directory(path) or path
        environment = Platform().marker_environment()
        policy = discover_directory(None, directory, environment, follow_links=options.follow_links)
        if policy.manifest is None:
            report.add(str(policy), policy.diagnostics)
            continue
        findings = list(ordered(check_interface(policy.manifest, policy.where, policy.files)))
        report.add(str(policy), findings)
        view = class_view(policy.manifest, policy.where, policy.files)
        phases = explain(policy, view) if view is not None else ()
        explained.append(
            {
                "policy": str(policy),
                "class": policy.manifest.entrypoint,
                "phases": [
                    {"phase": one.phase.value, "declared": one.declared, "hooks": one.hooks, "to_write": one.to_write}
                    for one in phases
                ],
            }
        )
        if not options.json:
            print(f"{policy}  {policy.manifest.entrypoint}")
            print(*(f"  {one.render()}\n" for one in phases), sep="", end="")
            others = [name for name in _OTHER_HOOKS if view is not None and name in view.members]
            if others:
                print(f"  also: {', '.join(others)}")
    if options.json:
        print(as_json({**report.as_document(), "policies": explained}), end="")
    else:
        print(report.render_text(), end="")
    return 1 if report.failed else 0


def explain(policy: PolicySource, view: ClassView) -> tuple[PhaseView, ...]:
    """Return every phase that is declared or that the class has a hook for."""
    declared = policy.manifest.phases if policy.manifest is not None else frozenset()
    phases = []
    for phase in Phase:
        hooks = names_of(phase)
        members = [view.members[hook] for hook in hooks if hook in view.members]
        if phase in declared or members:
            shown = tuple(f"{one.name} ({one.file}:{one.line})" for one in members)
            phases.append(PhaseView(phase, phase in declared, shown, tuple(signature(hook) for hook in hooks)))
    return tuple(phases)


if __name__ == "__main__":
    enter_working_directory()
    sys.exit(main())
