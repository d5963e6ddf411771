"""A policy's code imported as a package of its own, so that versions of one policy never share a module (R-13).

A separate module because it is the only place that touches the interpreter's module table.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import traceback
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from policy_engine.sdk.expressions import Expression, compile_with


def _compiled(text: str, *, boolean: bool, with_response: bool) -> Expression[Any]:
    # A process whose policies have no expressions has no use for CEL.
    from policy_engine.worker.conditions.expressions import compile_expression  # noqa: PLC0415

    return compile_expression(text, boolean=boolean, with_response=with_response)


compile_with(_compiled)


class PolicyImportError(Exception):
    """A policy's code could not be imported; `file` and `line` say where in it, as far as that is known."""

    def __init__(self, reason: str, file: Path, line: int | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.file = file
        self.line = line


def import_policy_module(directory: Path, module: str, name: str) -> ModuleType:
    """Import `module` from `directory` under the package name that belongs to this directory alone.

    Modules of the directory import each other relatively (`from . import rules`). `name` only makes tracebacks and
    logs readable. Raises PolicyImportError.
    """
    directory = directory.resolve()
    where = hashlib.sha256(str(directory).encode(errors="surrogateescape")).hexdigest()[:12]
    package = f"policy_{''.join(char if char.isalnum() else '_' for char in name)}_{where}"
    known = set(sys.modules)
    try:
        if package not in sys.modules:
            _import_package(package, directory)
        return importlib.import_module(f"{package}.{module}")
    except (Exception, SystemExit) as error:
        for one in set(sys.modules) - known:
            if one == package or one.startswith(f"{package}."):
                del sys.modules[one]
        raise _explained(error, directory, module, package) from error


def forget_modules(root: Path) -> dict[str, ModuleType]:
    """Take every module whose code is below `root` from the interpreter's table, so that it is read anew; returns them.

    Classes and objects made of them live on. `restore_modules` puts them back.
    """
    importlib.invalidate_caches()
    below = root.resolve()
    gone = {name: module for name, module in tuple(sys.modules.items()) if _is_below(module, below)}
    for name in gone:
        del sys.modules[name]
    return gone


def restore_modules(root: Path, modules: dict[str, ModuleType]) -> None:
    """Put modules back that `forget_modules(root)` has taken, in place of what was read since."""
    forget_modules(root)
    sys.modules.update(modules)


def _is_below(module: ModuleType, root: Path) -> bool:
    places = [getattr(module, "__file__", None), *(getattr(module, "__path__", None) or ())]
    return any(isinstance(one, str) and Path(one).resolve().is_relative_to(root) for one in places)


def _import_package(package: str, directory: Path) -> None:
    init = directory / "__init__.py"
    spec: ModuleSpec | None
    if init.is_file():
        spec = spec_from_file_location(package, init, submodule_search_locations=[str(directory)])
    else:
        spec = ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(directory)]
    if spec is None:
        raise ImportError(f"{init} cannot be imported")
    sys.modules[package] = module = module_from_spec(spec)
    if spec.loader is not None:
        spec.loader.exec_module(module)


def _explained(error: BaseException, directory: Path, module: str, package: str) -> PolicyImportError:
    if isinstance(error, SyntaxError) and error.filename:
        return PolicyImportError(f"is not valid Python: {error.msg}", Path(error.filename), error.lineno)
    file = directory / f"{module.replace('.', '/')}.py"
    line = None
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename).is_relative_to(directory):
            file, line = Path(frame.filename), frame.lineno
    reason = f"cannot be imported: {type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = error.name.removeprefix(f"{package}.")
        top = missing.partition(".")[0]
        if missing != error.name:
            return PolicyImportError(f"cannot be imported: there is no module {missing} in {directory}", file, line)
        if (directory / f"{top}.py").exists() or (directory / top).is_dir():
            reason += f"; a policy imports its own modules relatively: from . import {top}"
        else:
            reason += f"; is {top!r} among the policy's requirements?"
    return PolicyImportError(reason, file, line)
