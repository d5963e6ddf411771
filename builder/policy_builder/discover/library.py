"""Libraries of the same repository that policies share, found by what a policy imports (R-40).

A separate module because such a library is neither a policy nor a distribution that anybody published. Only those that
a chosen policy imports, directly or through another library, go into an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from policy_builder.discover.engine_source import package_files
from policy_builder.discover.file_kinds import irregularity
from policy_builder.discover.imported_modules import imported_modules
from policy_builder.discover.requirements_file import Requirements, read_requirements
from policy_builder.recipe import is_debris, library_belongs_in_image
from policy_engine.documents.diagnostics import Diagnostic, Rule

REQUIREMENTS_FILE = "requirements.txt"


@dataclass(frozen=True, slots=True)
class Library:
    """One import package of this repository; `files` by their names below site-packages.

    `requirements` are the pins in the package's own requirements.txt, as in a policy; `diagnostics` are what is wrong
    with those and with its files.
    """

    name: str
    files: Mapping[str, Path] = field(repr=False)
    requirements: Requirements
    diagnostics: tuple[Diagnostic, ...] = ()


def find_libraries(
    files: Mapping[str, Path], roots: Sequence[Path], environment: Mapping[str, str]
) -> tuple[Library, ...]:
    """Return the libraries below `roots` that the modules in `files` import, and those that these import in turn."""
    found: dict[str, Library] = {}
    waiting = list(_imported(files.values()))
    while waiting:
        name = waiting.pop()
        root = next((one for one in roots if (one / name / "__init__.py").is_file()), None)
        if name in found or root is None:
            continue
        odd = {path: wrong for path in sorted((root / name).rglob("*")) if (wrong := irregularity(path))}
        findings = [
            Diagnostic(str(path).encode(errors="backslashreplace").decode(), wrong, rule=Rule.UNREADABLE)
            for path, wrong in odd.items()
            if not is_debris(path.relative_to(root).as_posix())
        ]
        package = {file: path for file, path in package_files(root, name).items() if path not in odd}
        requirements = Requirements(f"{root / name / REQUIREMENTS_FILE}", {})
        if f"{name}/{REQUIREMENTS_FILE}" in package:
            requirements = read_requirements(package[f"{name}/{REQUIREMENTS_FILE}"], environment)
        installed = {file: path for file, path in package.items() if library_belongs_in_image(file)}
        found[name] = Library(name, installed, requirements, (*findings, *requirements.diagnostics))
        waiting += _imported(package.values())
    return tuple(found[name] for name in sorted(found))


def _imported(paths: Iterable[Path]) -> set[str]:
    return {name for path in paths if path.suffix == ".py" for name in imported_modules(path)}
