"""Makes the lock of a choice: engine and policies resolved together once, every wheel with its hash.

A separate module because it is the only part of the builder that solves, and so the only one whose result depends on
the day. It runs `uv`, as `tools/python/lock.sh` does for the whole repository.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from policy_builder.discover.choice import read_choice
from policy_builder.discover.engine_source import read_engine
from policy_builder.discover.library import find_libraries
from policy_builder.discover.platform import Platform
from policy_builder.discover.policy_source import discover_directory
from policy_builder.discover.workspace import known_modules
from policy_builder.recipe import PYTHON
from policy_builder.validate.report import Report
from policy_engine.documents.diagnostics import Diagnostic, Rule

TIMEOUT = 1800.0


class LockError(Exception):
    """There is no uv, or it could not reach a registry."""


def write_lock(
    manifest: Path, engine: Path | None, out: Path, platform: Platform, modules: Mapping[str, Path] | None = None
) -> Report:
    """Write the lock for `manifest` to `out`; requirements that no versions satisfy are findings in the report.

    Raises EngineError and LockError.
    """
    report = Report()
    environment = platform.marker_environment()
    choice, diagnostics = read_choice(manifest, known_modules(engine, modules or {}))
    report.add(str(manifest), diagnostics)
    lines = [str(one) for one in read_engine(engine).requires]
    for chosen in choice.policies if choice else ():
        if chosen.path is None:
            lines.append("==".join(chosen.package or ()))
            continue
        policy = discover_directory(chosen, chosen.path, environment)
        report.add(str(policy), policy.requirements.diagnostics)
        lines += [str(pin) for pin in policy.requirements.pins.values()]
        for library in find_libraries(policy.files, choice.libraries, environment) if choice else ():
            lines += [str(pin) for pin in library.requirements.pins.values()]
    if choice is None or report.failed:
        return report
    refusal = _compile(sorted(set(lines)), [str(path) for path in choice.wheels], out, platform)
    if refusal:
        report.add(str(manifest), [Diagnostic(str(manifest), refusal, rule=Rule.REQUIREMENTS)])
    return report


def _compile(lines: list[str], wheels: list[str], out: Path, platform: Platform) -> str | None:
    """Run uv; return its explanation when the requirements contradict each other."""
    uv = shutil.which("uv")
    if uv is None:
        raise LockError("`policy-builder lock` needs uv: pip install uv")
    command = [uv, "pip", "compile", "--quiet", "--generate-hashes", "--no-strip-extras", "--no-header"]
    command += ["--no-emit-index-url", "--no-emit-find-links", f"--python-version={PYTHON}"]
    command += [f"--python-platform={platform.machine}-manylinux_2_31", "--only-binary=:all:", "-"]
    for directory in wheels:
        command += ["--find-links", directory]
    done = subprocess.run(command, input="\n".join(lines), text=True, capture_output=True, check=False, timeout=TIMEOUT)
    if done.returncode == 0:
        out.write_text(done.stdout, encoding="utf-8")
        return None
    if "No solution found" in done.stderr:
        return " ".join(re.sub(r"[^\x20-\x7e]", " ", done.stderr).split())  # without what draws its tree
    raise LockError(f"uv failed:\n{done.stderr.strip()}")
