"""Body hooks that do, on the event loop, work that is known to grow with a body: told from their source (R-42, R-46).

A separate module because it is a matter of time, not of the interface: what it finds works, and holds up every other
request of the worker process while it does. So its findings are warnings, and name the call and the way out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from policy_engine.documents.diagnostics import Diagnostic, Rule, Severity
from policy_engine.sdk.hooks import Phase, names_of

BODY_HOOKS = tuple(name for phase in (Phase.REQUEST_BODY, Phase.RESPONSE_BODY) for name in names_of(phase))

_MATCHING = frozenset({"search", "match", "fullmatch", "findall", "finditer", "sub", "subn", "split"})
GROWING = frozenset(
    {
        *(f"re.{name}" for name in _MATCHING),
        *(f"re2.{name}" for name in _MATCHING),
        "json.loads",
        "json.load",
        "json.dumps",
        "unicodedata.normalize",
        "yaml.load",
        "yaml.safe_load",
        "tomllib.loads",
        "pickle.loads",
        "ast.literal_eval",
        "copy.deepcopy",
        "csv.reader",
        "html.unescape",
        "difflib.SequenceMatcher",
        "difflib.get_close_matches",
        "zlib.decompress",
        "gzip.decompress",
        "bz2.decompress",
        "lzma.decompress",
        "brotli.decompress",
        "urllib.parse.parse_qs",
        "urllib.parse.parse_qsl",
        "email.message_from_bytes",
        "email.message_from_string",
        "xml.etree.ElementTree.fromstring",
        "xml.etree.ElementTree.XML",
        "jsonschema.validate",
    }
)
"""Calls whose time grows with what they are given, and which let nothing else run meanwhile."""

_MOST_FUNCTIONS = 200
"""Functions that are followed from one hook."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(slots=True)
class _Module:
    """The names of one module: what they were imported as, its functions, and those that are compiled patterns."""

    imported: dict[str, str] = field(default_factory=dict)
    functions: dict[str, _Function] = field(default_factory=dict)
    patterns: set[str] = field(default_factory=set)


def held_work(
    name: str, members: Mapping[str, tuple[str, _Function]], trees: Mapping[str, ast.Module]
) -> Iterator[Diagnostic]:
    """Yield a warning for each call of growing work that a body hook of class `name` makes on the event loop.

    `members` are the methods of the class, each with the file it is in; `trees` are those files. Functions of the
    class and of its modules are followed; what a hook gives to `self.offload` is not called by it.
    """
    modules = {file: _module(tree) for file, tree in trees.items()}
    own_patterns = {
        target for file, method in members.values() for target in _patterns(ast.walk(method), modules[file].imported)
    }
    for hook in BODY_HOOKS:
        if hook in members:
            yield from _of_hook(f"{name}.{hook}", hook, members, modules, own_patterns)


def _of_hook(
    shown: str,
    hook: str,
    members: Mapping[str, tuple[str, _Function]],
    modules: Mapping[str, _Module],
    own_patterns: set[str],
) -> Iterator[Diagnostic]:
    waiting = [members[hook]]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST_FUNCTIONS:
        file, function = waiting.pop()
        if id(function) in seen:
            continue
        seen.add(id(function))
        module = modules[file]
        for call in _calls(function):
            called = _dotted(call.func)
            meant = _resolved(called, module)
            owner, _, method = called.rpartition(".")
            if meant in GROWING or (method in _MATCHING and (owner in module.patterns or owner in own_patterns)):
                what = meant if meant in GROWING else called
                yield Diagnostic(
                    file,
                    f"{shown} calls {what}, whose time grows with the body, on the event loop: meanwhile no other "
                    "request is served",
                    call.lineno,
                    call.col_offset + 1,
                    allowed="return self.offload_large(self._method, body), or await self.offload(self._method, body)",
                    severity=Severity.WARNING,
                    rule=Rule.HELD_TIME,
                )
            elif called.startswith("self.") and called[5:] in members:
                waiting.append(members[called[5:]])
            elif called in module.functions:
                waiting.append((file, module.functions[called]))


def _module(tree: ast.Module) -> _Module:
    module = _Module()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                module.imported[one.asname or one.name.partition(".")[0]] = (
                    one.name if one.asname else one.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            for one in node.names:
                module.imported[one.asname or one.name] = f"{node.module}.{one.name}"
    for statement in tree.body:
        if isinstance(statement, _Function):
            module.functions[statement.name] = statement
    module.patterns.update(_patterns(tree.body, module.imported))
    return module


def _patterns(nodes: Iterator[ast.AST] | list[ast.stmt], imported: Mapping[str, str]) -> Iterator[str]:
    """Yield the names (`_WORD`, `self._word`) that are given a compiled pattern."""
    for node in nodes:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        if isinstance(value, ast.Call) and _resolved(_dotted(value.func), imported) in ("re.compile", "re2.compile"):
            yield from filter(None, map(_dotted, targets))


def _calls(function: _Function) -> Iterator[ast.Call]:
    """Yield the calls that the function itself makes: not those of functions and lambdas that it only defines."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Call):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            waiting.extend(ast.iter_child_nodes(node))


def _dotted(node: ast.AST) -> str:
    """Return `a.b.c` for such an expression, and nothing for every other."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *names[::-1]]) if isinstance(node, ast.Name) else ""


def _resolved(dotted: str, names: _Module | Mapping[str, str]) -> str:
    imported = names.imported if isinstance(names, _Module) else names
    first, dot, rest = dotted.partition(".")
    return f"{imported[first]}{dot}{rest}" if first in imported else ""
