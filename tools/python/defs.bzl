"""Macros for tests and checks: pytest_test, pytest_tests, buildifier_test, layers_test, mypy_test, ruff_test."""

load("@rules_python//python:py_binary.bzl", "py_binary")
load("@rules_python//python:py_test.bzl", "py_test")

# Labels of this repository, also where the macro is used by another module.
_MAIN = Label("//tools/python:pytest_main.py")

def pytest_test(name, srcs, deps = [], data = [], args = [], **kwargs):
    """A pytest run as a Bazel test; `--test_filter` chooses cases as `pytest -k` does.

    Args:
      name: of the test.
      srcs: test files (`*_test.py`), with `conftest.py` and other modules they import.
      deps: libraries under test; pytest itself is added.
      data: files the tests read.
      args: for pytest, before the files.
      **kwargs: as for py_test.
    """
    py_test(
        name = name,
        srcs = srcs + [_MAIN],
        main = _MAIN,
        args = args + ["$(rootpath %s)" % src for src in srcs if src.endswith("_test.py")],
        data = data + [Label("//:pyproject.toml")],
        deps = deps + [Label("@pypi//pytest")],
        **kwargs
    )

def pytest_tests(srcs, common = [], **kwargs):
    """One pytest_test for each test file, named after it.

    Args:
      srcs: test files.
      common: conftest.py and modules that all of them import.
      **kwargs: as for pytest_test.
    """
    for src in srcs:
        pytest_test(
            name = src.removesuffix(".py").replace("/", "."),
            srcs = [src] + common,
            **kwargs
        )

# The checks look at the workspace itself, so Bazel cannot know when their result is out of date: "external" runs them always.
_WORKSPACE_CHECK = ["external", "local"]

def layers_test(name, **kwargs):
    """Every import of the workspace points from a higher layer to a lower one.

    Args:
      name: of the test.
      **kwargs: as for py_test.
    """
    py_test(
        name = name,
        srcs = ["//tools/python:layers_main.py"],
        main = "//tools/python:layers_main.py",
        args = ["$(rootpath //:pyproject.toml)"],
        data = ["//:pyproject.toml"],
        tags = _WORKSPACE_CHECK,
        **kwargs
    )

def mypy_test(name, deps, **kwargs):
    """`mypy --strict` over all Python files of the workspace.

    Args:
      name: of the test.
      deps: libraries whose types are needed.
      **kwargs: as for py_test.
    """
    py_test(
        name = name,
        srcs = ["//tools/python:mypy_main.py"],
        main = "//tools/python:mypy_main.py",
        args = ["$(rootpath //:pyproject.toml)"],
        data = ["//:pyproject.toml"],
        tags = _WORKSPACE_CHECK,
        deps = deps,
        **kwargs
    )

def ruff_test(name, **kwargs):
    """`ruff check` and `ruff format --check` over all Python files of the workspace; `NAME.fix` mends them.

    Args:
      name: of the test.
      **kwargs: as for py_test.
    """
    _tool_test(
        name,
        tool = "//tools/python:ruff",
        check = ["check --no-cache .", "format --check --diff --no-cache ."],
        fix = ["check --no-cache --fix .", "format --no-cache ."],
        **kwargs
    )

def buildifier_test(name, **kwargs):
    """`buildifier` over all BUILD, MODULE and .bzl files of the workspace, format and lint; `NAME.fix` mends them.

    Args:
      name: of the test.
      **kwargs: as for py_test.
    """
    _tool_test(
        name,
        tool = "@buildifier//:program",
        check = ["-mode=diff -lint=warn -r ."],
        fix = ["-mode=fix -lint=fix -r ."],
        **kwargs
    )

def _tool_test(name, tool, check, fix, **kwargs):
    """A test that runs the commands `check` of a tool in the workspace, and `NAME.fix`, which runs `fix`."""
    for rule, target, commands in [(py_test, name, check), (py_binary, name + ".fix", fix)]:
        rule(
            name = target,
            srcs = ["//tools/python:tool_main.py"],
            main = "//tools/python:tool_main.py",
            args = ["$(rootpath %s)" % tool, "$(rootpath //:pyproject.toml)"] + ["'%s'" % command for command in commands],
            data = ["//:pyproject.toml", tool],
            tags = _WORKSPACE_CHECK,
            **(kwargs if rule == py_test else {})
        )
