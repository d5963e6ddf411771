"""Starlark that other repositories load means this repository by its own things, whichever of the two is the main one.

A string such as "//tools/python:x" in a macro is a label of whoever calls it, and `../` or `_main/` in a path is true of
the main repository alone. Bazel says neither as long as this repository is the main one; integration/elsewhere has a test
with another one, which takes minutes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

WORKSPACE = Path(__file__).resolve().parents[2]

MODULE = "policy_engine"

FOR_THIS_WORKSPACE = ("layers_test", "mypy_test", "ruff_test", "buildifier_test", "_tool_test")
"""Macros of checks over the workspace that calls them: nobody else can."""

OF_BAZEL = ("//conditions:default", "//command_line_option:", "//visibility:", "@bazel_tools//", "@@%s//")
"""Labels that mean the same everywhere; `@@` and a name is one of a repository, whoever says it."""

RULE_ATTRIBUTES = ("label", "label_list", "label_keyed_string_dict")
"""What `default` belongs to is resolved where it is written."""


def wrong(source: str) -> Iterator[tuple[int, str]]:
    """Yield the strings of a .bzl file that mean something else where another repository is the main one, with lines."""
    tree = ast.parse(source)
    resolved: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in FOR_THIS_WORKSPACE:
            resolved |= {id(one) for one in ast.walk(node)}
        elif isinstance(node, ast.Call) and _is_resolved(node.func):
            resolved |= {id(one) for one in [*node.args[:1], *_parts_of_label(node)]}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in RULE_ATTRIBUTES:
            defaults = [keyword.value for keyword in node.keywords if keyword.arg == "default"]
            resolved |= {id(one) for default in defaults for one in ast.walk(default)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or _is_documentation(node.value):
            continue
        of_main = any(part in node.value for part in ("@@//", "_main/")) or node.value.startswith("../")
        of_caller = node.value.startswith(("//", "@")) and _names_a_target(node.value) and id(node) not in resolved
        if of_caller or (of_main and not _takes_off(tree, node)):
            yield node.lineno, node.value


def _is_resolved(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and function.id in ("load", "Label", "use_extension", "use_repo_rule")


def _parts_of_label(call: ast.Call) -> Iterator[ast.AST]:
    """Yield what a label is put together of: `Label("//x:" + name)`."""
    for argument in call.args[:1]:
        yield from ast.walk(argument)


def _is_documentation(text: str) -> bool:
    return "\n" in text or " " in text


def _names_a_target(text: str) -> bool:
    return text not in ("//", "@", "@@") and not text.startswith(OF_BAZEL)


def _takes_off(tree: ast.Module, constant: ast.Constant) -> bool:
    """Return whether `../` is only taken off a path: what is left is the same in every repository."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "removeprefix"
        and constant in node.args
        for node in ast.walk(tree)
    )


def starlark() -> list[Path]:
    """Return the .bzl files that another repository may load, or that a file which it loads does."""
    found = [path for top in ("builder", "tools") for path in sorted((WORKSPACE / top).rglob("*.bzl"))]
    # The stand-in for rules_python is a module of its own; its labels are resolved in repositories that it makes.
    return [path for path in found if not path.is_relative_to(WORKSPACE / "tools/offline/rules_python")]


@pytest.mark.parametrize("path", starlark(), ids=lambda path: str(path.relative_to(WORKSPACE)))
def test_nothing_in_starlark_depends_on_being_the_main_repository(path: Path) -> None:
    found = list(wrong(path.read_text(encoding="utf-8")))
    assert not found, f"{path.relative_to(WORKSPACE)}: write Label(…), or compare repositories: {found}"


@pytest.mark.parametrize(
    "text",
    [
        'def macro(name):\n    native.alias(name = name, actual = "//engine:policy_engine")',
        'def macro(name, deps = ["@pypi//pytest"]):\n    pass',
        'DEPS = ["//engine"]',
        '_TOOL = {"_tool": attr.label(default = "@@//builder:oci_tool")}',
        'x = select({"@platforms//cpu:aarch64": "a"})',
        'def f(file):\n    return file.short_path.startswith("../")',
        'def f(file):\n    return "_main/" + file.short_path',
        'def f(name):\n    native.genrule(name = name, tools = ["//tools:a"], cmd = "x")',
        'r = rule(attrs = {"a": attr.label(default = Label("//a:b"), doc = "//a:b")})',
    ],
)
def test_what_does_is_found(text: str) -> None:
    assert list(wrong(text))


@pytest.mark.parametrize(
    "text",
    [
        'load("//builder:defs.bzl", "policy")',
        'x = Label("//engine:policy_engine")',
        'def f(name):\n    return Label("@pypi//" + name)',
        'r = rule(attrs = {"_a": attr.label(default = "//a:b"), "b": attr.label_list(default = ["//a:b"])})',
        'x = select({Label("@platforms//cpu:aarch64"): "a", "//conditions:default": "b"})',
        'def f(file):\n    return file.short_path.removeprefix("../")',
        'def f(label):\n    return str(label).split("//")[0]',
    ],
)
def test_what_means_the_same_everywhere_is_left_alone(text: str) -> None:
    assert not list(wrong(text))


SHARED = {"parse": "hub_name", "read": "name"}
"""Tags of module extensions that name a repository, which all modules see: the attribute with the name."""


def test_repositories_of_shared_extensions_have_the_name_of_the_module() -> None:
    tree = ast.parse((WORKSPACE / "MODULE.bazel").read_text(encoding="utf-8"))
    names = [
        keyword.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SHARED
        for keyword in node.keywords
        if keyword.arg == SHARED[node.func.attr] and isinstance(keyword.value, ast.Constant)
    ]
    assert len(names) >= 3
    assert [name for name in names if not str(name).startswith(MODULE)] == []
