"""A policy's class checked against the author's interface, from its source alone (R-42, R-46).

Separate: it reads the syntax tree and never imports the policy: the check then needs none of the policy's
requirements, runs nobody's code on the builder's machine, gives the same result for every target platform, and knows
the line of each method. What syntax cannot show (a base class from a library that is not at hand, hooks made at run
time) is said to be unseen and left to the engine, which checks the imported class when it loads the registry.
"""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from policy_builder.discover.python_source import SourceError, parse_python, unparsed
from policy_builder.validate.held_work import held_work
from policy_engine.documents.diagnostics import Diagnostic, Rule, Severity
from policy_engine.sdk import Policy
from policy_engine.sdk.hooks import Phase, names_of
from policy_engine.worker.policies.manifest import PolicyManifest

SDK = "policy_engine.sdk"
_FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_NEAR = 0.8
_MOST_CLASSES = 100
"""Classes and names that are followed from a policy's class to its bases; what lies behind them is unseen."""
_MOST_SHOWN = 20
_MOST_COMPARED = 1000
"""Members whose names are compared with those of hooks."""
_PLAIN = frozenset({"__init__", "on_stream_end"})  # the engine does not await these


def hook_parameters() -> Mapping[str, tuple[str, ...]]:
    """Return every method the engine calls with the names of its parameters, taken from the SDK's own class."""
    methods = [name for name in vars(Policy) if name.startswith("on_")] + ["__init__", "close"]
    return {name: tuple(inspect.signature(vars(Policy)[name]).parameters)[1:] for name in methods}


def signature(hook: str) -> str:
    """Return the line that begins the hook, as an author writes it."""
    return f"def {hook}({', '.join(('self', *hook_parameters()[hook]))}):"


@dataclass(frozen=True, slots=True)
class Hook:
    """A method of the policy's class, or of a base of it; `line` in `file`."""

    name: str
    file: str
    line: int
    node: _FunctionNode | None
    """None for a name that is assigned: its arguments cannot be seen."""


@dataclass(slots=True)
class ClassView:
    """What can be seen of a policy's class: its hooks, its other members, and which bases were out of sight."""

    name: str = ""
    is_policy: bool = False
    unseen_bases: list[str] = field(default_factory=list)
    members: dict[str, Hook] = field(default_factory=dict)
    blocking: bool = False


def check_interface(
    manifest: PolicyManifest, where: str, files: Mapping[str, Path], libraries: Mapping[str, Path] | None = None
) -> list[Diagnostic]:
    """Return everything wrong with the class that `manifest` names in `files`; `where` names the directory.

    `libraries` are the installed files of the policy's requirements, in which base classes may be.
    """
    diagnostics: list[Diagnostic] = []
    reader = _Reader(where, files, libraries or {}, diagnostics)
    view = reader.view(manifest)
    if view is None:
        return diagnostics
    if not view.is_policy and not view.unseen_bases:
        reason = f"{manifest.entrypoint} is not a subclass of policy_engine.sdk.Policy"
        allowed = f"class {manifest.class_name}(Policy), with `from policy_engine.sdk import Policy`"
        diagnostics.append(manifest.document.diagnostic(("entrypoint",), reason, allowed=allowed, rule=Rule.INTERFACE))
        return diagnostics
    for base in view.unseen_bases:
        reason = f"base class {base} is not in the policy or its requirements, so hooks that it has are not seen"
        diagnostics.append(
            manifest.document.diagnostic(("entrypoint",), reason, severity=Severity.WARNING, rule=Rule.INTERFACE)
        )
    diagnostics += _method_findings(view)
    diagnostics += _phase_findings(view, manifest)
    if not view.blocking:
        methods = {name: (one.file, one.node) for name, one in view.members.items() if one.node is not None}
        diagnostics += held_work(view.name, methods, reader.trees())
    return diagnostics


def class_view(manifest: PolicyManifest, where: str, files: Mapping[str, Path]) -> ClassView | None:
    """Return what can be seen of the class, for a report; None when it cannot be found."""
    return _Reader(where, files, {}, []).view(manifest)


class _Reader:
    """Finds a class and its bases over the modules of a policy and its libraries."""

    def __init__(
        self, where: str, files: Mapping[str, Path], libraries: Mapping[str, Path], diagnostics: list[Diagnostic]
    ) -> None:
        self._where = where
        self._files = files
        self._libraries = libraries
        self._diagnostics = diagnostics
        self._trees: dict[str, ast.Module | None] = {}

    def view(self, manifest: PolicyManifest) -> ClassView | None:
        module = self._module_file(manifest.module)
        if module is None:
            reason = f"there is no module {manifest.module} ({manifest.module.replace('.', '/')}.py) in the policy"
            allowed = ", ".join(sorted(name for name in self._files if name.endswith(".py"))) or "none is there"
            self._report(manifest, reason, allowed)
            return None
        if self._tree(module) is None:
            return None  # its syntax error has been reported
        view = ClassView(manifest.class_name)
        if not self._collect(view, module, manifest.class_name, set()):
            classes = self._classes(module)
            near = difflib.get_close_matches(manifest.class_name, classes, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            reason = f"module {manifest.module} has no class {manifest.class_name!r}{meant}"
            shown = [f"{manifest.module}:{name}" for name in classes[:_MOST_SHOWN]]
            self._report(manifest, reason, ", ".join(shown) + (", …" if len(classes) > _MOST_SHOWN else ""))
            return None
        return view

    def trees(self) -> dict[str, ast.Module]:
        """Return what was read, by the names that findings have."""
        return {self._shown(file): tree for file, tree in self._trees.items() if tree is not None}

    def _shown(self, file: str) -> str:
        return f"{self._where}/{file}" if file in self._files else file

    def _report(self, manifest: PolicyManifest, reason: str, allowed: str) -> None:
        finding = manifest.document.diagnostic(("entrypoint",), reason, allowed=allowed, rule=Rule.INTERFACE)
        self._diagnostics.append(finding)

    def _module_file(self, module: str, files: Mapping[str, Path] | None = None) -> str | None:
        path = module.replace(".", "/")
        for name in (f"{path}.py", f"{path}/__init__.py") if path else ("__init__.py",):
            if name in (self._files if files is None else files):
                return name
        return None

    def _tree(self, file: str) -> ast.Module | None:
        if file not in self._trees:
            path = self._files.get(file) or self._libraries[file]
            self._trees[file] = None
            try:
                self._trees[file] = parse_python(path, file)
            except SourceError as error:
                if file in self._files:  # in a requirement's file it is a base class that cannot be seen
                    where = f"{self._where}/{file}"
                    self._diagnostics.append(Diagnostic(where, str(error), error.line, error.column, rule=Rule.IMPORT))
        return self._trees[file]

    def _classes(self, file: str) -> list[str]:
        tree = self._tree(file)
        return [node.name for node in _top_level(tree) if isinstance(node, ast.ClassDef)] if tree else []

    def _collect(self, view: ClassView, file: str, name: str, seen: set[tuple[str, str]]) -> bool:
        """Add the members of class `name` of `file` and of its bases to `view`, nearest first; False when not found."""
        tree = self._tree(file)
        if tree is None or (file, name) in seen or len(seen) >= _MOST_CLASSES:
            return (file, name) in seen
        seen.add((file, name))
        definition = next(
            (node for node in _top_level(tree) if isinstance(node, ast.ClassDef) and node.name == name), None
        )
        if definition is None:
            return self._follow(view, file, name, seen)
        for node in definition.body:
            self._member(view, file, node)
        for base in definition.bases:
            shown = unparsed(base)
            if shown in ("object", "ABC", "abc.ABC", "Generic", "typing.Generic") or isinstance(base, ast.Subscript):
                continue
            if isinstance(base, ast.Name) and self._collect(view, file, base.id, seen):
                continue
            if isinstance(base, ast.Attribute) and self._is_sdk_attribute(tree, base):
                view.is_policy = True
                continue
            if view.is_policy and shown == "Policy":
                continue
            view.unseen_bases.append(shown)
        return True

    def _follow(self, view: ClassView, file: str, name: str, seen: set[tuple[str, str]]) -> bool:
        """Follow the import or the assignment that gives `name` its meaning in `file`."""
        tree = self._tree(file)
        for node in _top_level(tree) if tree else ():
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and name in _names(node.targets):
                return self._collect(view, file, node.value.id, seen)
            if not isinstance(node, ast.ImportFrom):
                continue
            for alias in node.names:
                if (alias.asname or alias.name) != name:
                    continue
                if not node.level and (node.module == SDK or str(node.module).startswith(f"{SDK}.")):
                    view.is_policy = view.is_policy or alias.name == "Policy"
                    return alias.name == "Policy"
                target = self._imported_file(file, node)
                return target is not None and self._collect(view, target, alias.name, seen)
        return False

    def _imported_file(self, file: str, node: ast.ImportFrom) -> str | None:
        if not node.level:
            return self._module_file(node.module or "", self._libraries)
        package = file.split("/")[:-1]
        if node.level - 1 > len(package):
            return None
        package = package[: len(package) - (node.level - 1)]
        module = ".".join([*package, *([node.module] if node.module else [])])
        return self._module_file(module, self._libraries if file in self._libraries else self._files)

    def _is_sdk_attribute(self, tree: ast.Module, base: ast.Attribute) -> bool:
        """Return whether `base` is the SDK's Policy by way of a module: `sdk.Policy`, `policy_engine.sdk.Policy`."""
        if base.attr != "Policy":
            return False
        module = unparsed(base.value)
        for node in _top_level(tree):
            if isinstance(node, ast.Import):
                names = {alias.asname or alias.name for alias in node.names if alias.name == SDK}
            elif isinstance(node, ast.ImportFrom) and node.module == "policy_engine":
                names = {alias.asname or alias.name for alias in node.names if alias.name == "sdk"}
            else:
                continue
            if module in names:
                return True
        return False

    def _member(self, view: ClassView, file: str, node: ast.stmt) -> None:
        shown = self._shown(file)
        if isinstance(node, _FunctionNode):
            view.members.setdefault(node.name, Hook(node.name, shown, node.lineno, node))
            return
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Name):
                view.members.setdefault(target.id, Hook(target.id, shown, node.lineno, None))
                value = getattr(node, "value", None)
                if target.id == "blocking" and isinstance(value, ast.Constant):
                    view.blocking = view.blocking or value.value is True


def _names(targets: list[ast.expr]) -> set[str]:
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements of a module, also those under `if` and `try`, in their order."""
    waiting: list[ast.stmt] = tree.body[::-1]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If):
            waiting += [*node.body, *node.orelse][::-1]
        elif isinstance(node, ast.Try):
            handled = [one for handler in node.handlers for one in handler.body]
            waiting += [*node.body, *handled, *node.orelse][::-1]


def _method_findings(view: ClassView) -> Iterator[Diagnostic]:
    known = hook_parameters()
    hooks = [name for name in known if name.startswith("on_")]
    for number, member in enumerate(view.members.values()):
        if member.name in known:
            yield from _signature_findings(view, member, known[member.name])
        elif member.name.startswith("on_"):
            near = difflib.get_close_matches(member.name, hooks, n=1, cutoff=0.5)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            reason = f"{view.name}.{member.name} is no hook: the engine would never call it{meant}"
            yield _finding(member, reason, ", ".join(hooks))
        elif member.node is not None and not member.name.startswith("_") and number < _MOST_COMPARED:
            near = difflib.get_close_matches(_hook_like(member.name), hooks, n=1, cutoff=_NEAR)
            if near:
                reason = f"{view.name}.{member.name} looks like the hook {near[0]!r}, but the engine does not call it"
                yield _finding(member, reason, f"{near[0]}, or a name that is less like it", Severity.WARNING)


def _hook_like(name: str) -> str:
    """Return a name as a hook would be written: `onRequestHeaders` and `handle_request_headers` are meant as hooks."""
    snake = "".join(f"_{char.lower()}" if char.isupper() else char for char in name)
    for prefix in ("handle_", "process_", "do_", "on_"):
        snake = snake.removeprefix(prefix)
    return f"on_{snake}"


def _signature_findings(view: ClassView, member: Hook, wanted: tuple[str, ...]) -> Iterator[Diagnostic]:
    node = member.node
    if node is None:
        return
    where = f"{view.name}.{member.name}"
    expected = signature(member.name)
    decorators = {unparsed(one).rpartition(".")[2] for one in node.decorator_list}
    if "property" in decorators or "cached_property" in decorators:
        yield _finding(member, f"{where} is a property, not a method", expected)
        return
    given = node.args
    required = len(given.posonlyargs) + len(given.args) - len(given.defaults)
    most = None if given.vararg else len(given.posonlyargs) + len(given.args)
    count = len(wanted) + (0 if "staticmethod" in decorators else 1)
    if required > count or (most is not None and most < count):
        takes = (
            f"at least {required}" if most is None else f"{required}" if required == most else f"{required} to {most}"
        )
        called = ", ".join(("self", *wanted))
        yield _finding(member, f"{where} takes {takes} arguments, but is called with {count} ({called})", expected)
    if any(default is None for default in given.kw_defaults):
        yield _finding(
            member, f"{where} has a keyword argument without default, which the engine does not give", expected
        )
    if _yields(node):
        yield _finding(member, f"{where} is a generator (it has `yield`); a hook returns its action", expected)
    if isinstance(node, ast.AsyncFunctionDef):
        if member.name in _PLAIN:
            yield _finding(member, f"{where} must not be async: the engine does not await it", expected)
        elif view.blocking and member.name.startswith("on_"):
            reason = f"{where} is async, but the class says blocking = True: hooks of a blocking policy run in threads"
            yield _finding(member, reason, f"{expected}, or remove blocking = True")


def _yields(function: _FunctionNode) -> bool:
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            waiting.extend(ast.iter_child_nodes(node))
    return False


def _phase_findings(view: ClassView, manifest: PolicyManifest) -> Iterator[Diagnostic]:
    declared = list(manifest.document.value["phases"])
    for phase in Phase:
        overridden = [view.members[hook] for hook in names_of(phase) if hook in view.members]
        if phase in manifest.phases and not overridden and not view.unseen_bases:
            reason = f"declares {phase}, but {view.name} has no {' or '.join(names_of(phase))}"
            allowed = f"{' or '.join(signature(hook) for hook in names_of(phase))}, or remove the phase"
            place = ("phases", declared.index(phase))
            yield manifest.document.diagnostic(place, reason, allowed=allowed, rule=Rule.PHASES)
        elif overridden and phase not in manifest.phases:
            for hook in overridden:
                reason = f"{view.name}.{hook.name} would never run, since policy.yaml does not declare its phase"
                yield Diagnostic(
                    hook.file,
                    reason,
                    hook.line,
                    1,
                    allowed=f"add {phase} to phases, or remove the method",
                    rule=Rule.PHASES,
                )


def _finding(member: Hook, reason: str, allowed: str, severity: Severity = Severity.ERROR) -> Diagnostic:
    return Diagnostic(member.file, reason, member.line, 1, allowed=allowed, severity=severity, rule=Rule.INTERFACE)
