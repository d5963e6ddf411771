"""Which machine the compiled files of an image are for, so that no image holds code for another machine.

A separate module because which wheels come is decided elsewhere, by `policy-builder` or by Bazel's rules; whatever
they chose is looked at here once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from policy_builder.discover.platform import Platform
from policy_builder.validate.resolution import ENGINE, Finding, Resolution
from policy_engine.documents.diagnostics import Diagnostic, Rule

_MAGIC = b"\x7fELF"
_MACHINE = slice(18, 20)  # e_machine of the ELF header
MACHINES = {62: "x86_64", 183: "aarch64"}
"""`uname -m` by the number in an ELF header (System V ABI)."""


def elf_machine(header: bytes) -> str | None:
    """Return the machine that a file with this beginning (20 bytes) is for; None when it is no compiled file."""
    if not header.startswith(_MAGIC):
        return None
    number = int.from_bytes(header[_MACHINE], "little")
    return MACHINES.get(number, f"machine {number}")


def machine_findings(resolution: Resolution, platform: Platform) -> list[Finding]:
    """Return which distributions and libraries hold code that `platform` cannot run."""
    findings: list[Finding] = []
    for subject, needs in {ENGINE: resolution.engine, **resolution.policies}.items():
        parts = [(str(one), one.files) for one in needs.distributions.values()]
        parts += [(f"library {one.name}", one.files) for one in needs.libraries]
        for name, files in parts:
            wrong = next(_foreign(files, platform), None)
            if wrong is not None:
                reason = f"{name} was chosen for another platform: {wrong[0]} is compiled for {wrong[1]}"
                allowed = f"a wheel for {platform}; see builder/README.md on platforms"
                findings.append((subject, Diagnostic(name, reason, allowed=allowed, rule=Rule.REQUIREMENTS)))
    return findings


def _foreign(files: Mapping[str, Path], platform: Platform) -> Iterator[tuple[str, str]]:
    for name, path in files.items():
        with path.open("rb") as file:
            machine = elf_machine(file.read(_MACHINE.stop))
        if machine not in (None, platform.machine):
            yield name, machine or ""
