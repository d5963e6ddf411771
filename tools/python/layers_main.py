"""Holds every import of the repository against the layers: `layers_main.py PYPROJECT`.

A lower layer that imports a higher one, two modules that import each other, and a policy that reaches into the engine
are found wherever the import stands: in a function or under `TYPE_CHECKING` too. Standard library only.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ANY = "*"

_WORKER = "limits documents worker.policies worker.conditions worker.offload worker.chains"

ENGINE: Mapping[str, str] = {
    # The runtime, lowest first: transport → kernel → worker (chains → conditions, policies) → documents → sdk.
    "sdk": "",
    "limits": "",
    "documents": "sdk",
    "worker.policies": "sdk limits documents worker.conditions",
    "worker.conditions": "sdk documents",
    "worker.offload": "sdk limits worker.policies",
    "worker.chains": "sdk limits documents worker.policies worker.conditions worker.offload",
    "kernel": "sdk limits worker.chains",
    "transport": "sdk limits kernel transport.listen transport.client_names",
    "transport.listen": "limits",
    "transport.client_names": "",
    # What is around it. Only `processes` and `cli` know all the rest.
    "settings": "sdk limits documents kernel transport.listen transport.client_names",
    "sources": f"sdk settings {_WORKER}",
    "schemas": f"sdk settings sources {_WORKER}",
    "telemetry": f"sdk explain kernel transport transport.listen sources {_WORKER}",
    "envoy": f"sdk settings sources kernel transport transport.listen {_WORKER}",
    "envoy.lint": "sdk documents settings kernel envoy worker.chains",
    "envoy.command": "sdk documents settings sources kernel envoy envoy.lint worker.policies",
    "dev": f"settings envoy processes telemetry transport.listen {_WORKER}",
    "explain": f"sdk kernel kit {_WORKER}",
    "explain.arguments": "",
    "explain.offline": f"sdk settings sources kernel {_WORKER}",
    "explain.command": f"sdk explain explain.offline settings kernel envoy.lint {_WORKER}",
    "explain.diff": f"sdk explain explain.offline settings kernel {_WORKER}",
    "processes": f"explain sdk settings sources telemetry kernel transport transport.listen {_WORKER}",
    "scaffold": "worker.policies",
    "command_tree": "",
    "completion": "command_tree",
    "kit": f"sdk kernel {_WORKER}",
    "sdk.testing": "sdk kit",
    "cli": ANY,
    "__main__": "cli",
}
"""What each part of `policy_engine` may import of the others. All may import themselves and the version."""

BUILDER: Mapping[str, str] = {
    "recipe": "",
    "stripping": "",
    "discover": "recipe",
    "validate": "recipe discover",
    "describe": "recipe stripping discover validate",
    "package": "recipe stripping discover validate describe",
    "attest": "recipe discover package",
    "commands": "recipe discover validate describe package attest",
    "__main__": "discover commands",
    "testregistry": "package",
    "testtampering": "package testworld",
    "testworld": ANY,
    "conftest": ANY,
}
"""The stages of `policy_builder`, each of which may import those before it."""

_BUILDER_OF_ENGINE = "policy_engine.sdk policy_engine.documents policy_engine.worker.policies"
_CONTROL_PLANE_OF_ENGINE = "sdk limits documents worker.policies worker.chains kernel settings sources envoy telemetry"


def _named(package: str, layers: Mapping[str, str]) -> dict[str, frozenset[str]]:
    return {
        f"{package}.{layer}": frozenset(name if name == ANY else f"{package}.{name}" for name in allowed.split())
        | {package}
        for layer, allowed in layers.items()
    }


LAYERS: Mapping[str, frozenset[str]] = {
    "policy_engine": frozenset(),
    **_named("policy_engine", ENGINE),
    "policy_builder": frozenset(),
    **{name: allowed | {*_BUILDER_OF_ENGINE.split()} for name, allowed in _named("policy_builder", BUILDER).items()},
    "policy_builder.commands": _named("policy_builder", BUILDER)["policy_builder.commands"]
    | {*_BUILDER_OF_ENGINE.split(), "policy_engine.sources"},
    "policy_control_plane": frozenset(f"policy_engine.{name}" for name in _CONTROL_PLANE_OF_ENGINE.split())
    | {"policy_engine"},
    "controlplane_testing": frozenset({ANY}),
    "testsupport": frozenset({ANY}),
    "fuzz": frozenset({ANY}),
    "launch": frozenset({"policy_engine.cli"}),
}
"""Every package with the parts that it may import, by the longest name that fits a module."""

STANDARD_LIBRARY_ONLY = ("policy_engine.sdk", "policy_engine.limits")
"""What may need no third-party package: policies of authors are imported together with it."""

ROOTS = ("engine", "builder", "controlplane")

DISTRIBUTIONS: Mapping[str, str] = {"google-re2": "re2", "pyjwt": "jwt"}
"""The module that a requirement brings, where it is called otherwise."""


@dataclass(frozen=True, slots=True)
class Import:
    """`module`, in line `line` of `file`, imports `target`: a module of this repository, or the name as it stands."""

    file: Path
    line: int
    module: str
    target: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.module} imports {self.target}"


def modules(roots: Iterable[Path]) -> dict[str, Path]:
    """Return the modules below import roots by their names, without tests."""
    found = {}
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if not path.name.endswith("_test.py") and all(part.isidentifier() for part in parts):
                found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(module: str, path: Path, known: Iterable[str] = ()) -> Iterator[Import]:
    """Yield all imports of a module. A name that is imported from a package counts as a module where it is one."""
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, module, alias.name)
        elif isinstance(node, ast.ImportFrom):
            source = _source(module, node, package=path.name == "__init__.py")
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                yield Import(path, node.lineno, module, whole if whole in known else source)


def _source(module: str, node: ast.ImportFrom, *, package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - node.level + package]
    return ".".join([*base, *([node.module] if node.module else [])])


def layer_of(module: str, layers: Mapping[str, frozenset[str]]) -> str | None:
    """Return the longest name in `layers` that is the module or a package it is in; the topmost stands for itself."""
    parts = module.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    found = next((name for name in names if name in layers), None)
    has_parts = any(name.startswith(f"{found}.") for name in layers)
    # A new folder of a package that has parts must not pass as the package.
    return None if found is not None and has_parts and found == parts[0] != module else found


def wrong_arrows(known: Mapping[str, Path], layers: Mapping[str, frozenset[str]]) -> Iterator[str]:
    """Yield what is imported against the arrows, and modules that no line of `layers` speaks of."""
    for module, path in known.items():
        layer = layer_of(module, layers)
        if layer is None and not any(name.startswith(f"{module}.") for name in layers):
            yield f"{path}: {module} belongs to no layer; give it a line in {Path(__file__).name}"
            continue
        allowed = layers.get(layer or "", frozenset())
        for one in imports(module, path, known):
            target = layer_of(one.target, layers)
            if target not in (None, layer) and target not in allowed and ANY not in allowed:
                yield f"{one}; {layer or module} may import {', '.join(sorted(allowed)) or 'nothing of the others'}"
            elif layer in STANDARD_LIBRARY_ONLY and target is None and not _standard(one.target):
                yield f"{one}; {layer} may import the standard library alone"


def _standard(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names


def circles(known: Mapping[str, Path]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or by way of others."""
    edges = {
        module: {one.target for one in imports(module, path, known) if one.target in known and one.target != module}
        for module, path in known.items()
    }
    reached = {module: _reached(module, edges) for module in edges}
    groups = {frozenset(other for other in reached[module] if module in reached[other]) for module in edges}
    return sorted(sorted(group) for group in groups if group)


def _reached(module: str, edges: Mapping[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    waiting = [*edges[module]]
    while waiting:
        one = waiting.pop()
        if one not in reached:
            reached.add(one)
            waiting.extend(edges[one])
    return reached


def wrong_in_policies(policies: Path) -> Iterator[str]:
    """Yield what policies import beside the SDK, what `shared` offers, the standard library and their requirements.

    What `shared` offers may import the SDK too, and of others whatever the policies that use it require.
    """
    shared = policies / "shared"
    offered = {path.name for path in shared.iterdir() if path.is_dir()} if shared.is_dir() else set()
    for path in sorted(policies.rglob("*.py")):
        if path.name.endswith("_test.py") or path.name in ("testing.py", "conftest.py"):
            continue
        parts = path.relative_to(policies).with_suffix("").parts
        directory = policies.joinpath(*parts[:2])
        required = None if parts[0] == shared.name else _required(directory / "requirements.txt")
        for one in imports(".".join(parts), path):
            if not one.target.startswith(".".join(parts[:2])):
                reason = _wrong_in_policy(one.target, offered, required)
                yield from [f"{path}:{one.line}: imports {one.target}, {reason}"] if reason else []


def _wrong_in_policy(target: str, offered: set[str], required: set[str] | None) -> str:
    top = target.partition(".")[0]
    if top == "policy_engine":
        return "" if layer_of(target, LAYERS) == "policy_engine.sdk" else "but of the engine it may import the SDK"
    if _standard(target) or top in offered or required is None or top in required:
        return ""
    return "which is neither its own, nor of policies/shared, nor in its requirements.txt"


def _required(file: Path) -> set[str]:
    """Return the top-level modules that the requirements of a policy bring."""
    names = re.findall(r"^[A-Za-z0-9._-]+", file.read_text(), re.MULTILINE) if file.is_file() else []
    return {DISTRIBUTIONS.get(name.lower(), name.lower().replace("-", "_")) for name in names}


def findings(workspace: Path) -> list[str]:
    """Return everything that is wrong with the imports of a workspace."""
    known = modules(workspace / root for root in ROOTS)
    return [
        *wrong_arrows(known, LAYERS),
        *(f"these modules import each other: {', '.join(circle)}" for circle in circles(known)),
        *wrong_in_policies(workspace / "policies"),
    ]


def main(configuration: Path) -> int:
    """Print what is wrong; returns 1 when anything is."""
    found = findings(configuration.resolve().parent)
    print("\n".join(found) or "every import points down")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
