"""What a policy's code imports, checked against the SDK, the standard library, itself and its requirements (R-40).

Separate, and works on syntax for the reasons that `interface` gives. A missing requirement is found here,
before an image is made that cannot load the policy.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from policy_builder.discover.imported_modules import imports_of
from policy_builder.discover.python_source import SourceError, parse_python
from policy_engine.documents.diagnostics import MOST_FINDINGS, Diagnostic, Rule

SDK = "policy_engine.sdk"
TEST_KIT = "policy_engine.sdk.testing"


def check_imports(
    where: str, files: Mapping[str, Path], own: Mapping[str, str] | None, engines: Mapping[str, str] | None = None
) -> list[Diagnostic]:
    """Return a finding for each import that the image could not serve.

    `own` and `engines` say which distribution brings a top-level module: one of the policy's requirements, one of the
    engine's; without `own`, third-party imports are not judged. What stands in `if TYPE_CHECKING` or in a `try` that
    handles ImportError is the author's own affair.
    """
    diagnostics = []
    siblings = {name.partition("/")[0].removesuffix(".py") for name in files if name.endswith(".py")}
    for name, path in files.items():
        if not name.endswith(".py"):
            continue
        try:
            tree = parse_python(path, name)
        except SourceError as error:
            diagnostics.append(Diagnostic(f"{where}/{name}", str(error), error.line, error.column, rule=Rule.IMPORT))
            continue
        depth = name.count("/")
        for node in imports_of(tree):
            if len(diagnostics) >= MOST_FINDINGS:
                return diagnostics
            for reason, allowed in _wrong(node, depth, siblings, own, engines or {}):
                diagnostics.append(
                    Diagnostic(
                        f"{where}/{name}", reason, node.lineno, node.col_offset + 1, allowed=allowed, rule=Rule.IMPORT
                    )
                )
    return diagnostics


def _wrong(
    node: ast.Import | ast.ImportFrom,
    depth: int,
    siblings: set[str],
    own: Mapping[str, str] | None,
    engines: Mapping[str, str],
) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.ImportFrom) and node.level:
        if node.level > depth + 1:
            yield "imports from above the policy's own directory", "modules below it"
        return
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif node.module == "policy_engine":
        modules = [f"policy_engine.{alias.name}" for alias in node.names]
    else:
        modules = [str(node.module)]
    for module in modules:
        top = module.partition(".")[0]
        if top == "policy_engine":
            yield from _wrong_engine_import(module)
        elif top in (own or ()) or top in sys.stdlib_module_names:
            continue
        elif top in siblings:
            reason = f"imports its own module {top} absolutely; another policy may have one of that name"
            yield reason, f"from . import {top}"
        elif own is None:
            continue
        elif top in engines:
            reason = f"imports {top}, which is there only because the engine needs it today"
            yield reason, f"pin {engines[top]} in requirements.txt"
        else:
            yield f"imports {top}, which none of its requirements brings", "pin its distribution in requirements.txt"


def _wrong_engine_import(module: str) -> Iterator[tuple[str, str]]:
    if module == TEST_KIT or module.startswith(f"{TEST_KIT}."):
        yield "imports the test kit, which is for tests (*_test.py) only", SDK
    elif module != SDK and not module.startswith(f"{SDK}."):
        yield f"imports {module}, which is the engine's inside and may change any day", SDK
