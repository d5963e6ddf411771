"""The imports that a Python file needs, read from its syntax: nothing of a policy runs while it is looked at."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from policy_builder.discover.python_source import SourceError, parse_python, unparsed


def imported_modules(path: Path) -> set[str]:
    """Return the top-level modules that the Python file `path` imports absolutely; none when it cannot be parsed."""
    try:
        tree = parse_python(path, str(path))
    except SourceError:
        return set()
    modules: set[str] = set()
    for node in imports_of(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif not node.level and node.module:
            modules.add(node.module.partition(".")[0])
    return modules


def imports_of(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that have to work: not those for type checkers, nor those in a `try` that does without."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and unparsed(node.test).endswith("TYPE_CHECKING"):
            waiting.extend(node.orelse)
        elif isinstance(node, ast.Try) and any(_handles_import_error(handler) for handler in node.handlers):
            waiting.extend([*node.handlers, *node.orelse, *node.finalbody])
        else:
            waiting.extend(ast.iter_child_nodes(node))


def _handles_import_error(handler: ast.ExceptHandler) -> bool:
    return handler.type is not None and any(
        isinstance(one, ast.Name) and one.id in ("ImportError", "ModuleNotFoundError") for one in ast.walk(handler.type)
    )
