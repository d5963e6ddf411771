"""Macros for tests and checks: pytest_test, pytest_tests, layers_test, mypy_test, ruff_test, starlark_test."""

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
    """`ruff check` and `ruff format --check` over all Python files of the workspace.

    Args:
      name: of the test.
      **kwargs: as for py_test.
    """
    py_test(
        name = name,
        srcs = ["//tools/python:ruff_main.py"],
        main = "//tools/python:ruff_main.py",
        args = ["$(rootpath //tools/python:ruff)", "$(rootpath //:pyproject.toml)"],
        data = ["//:pyproject.toml", "//tools/python:ruff"],
        tags = _WORKSPACE_CHECK,
        **kwargs
    )

def starlark_test(name, **kwargs):
    """How BUILD and .bzl files are written, as far as that can be told without buildifier.

    Args:
      name: of the test.
      **kwargs: as for py_test.
    """
    py_test(
        name = name,
        srcs = ["//tools/python:starlark_main.py"],
        main = "//tools/python:starlark_main.py",
        args = ["$(rootpath //:pyproject.toml)"],
        data = ["//:pyproject.toml"],
        tags = _WORKSPACE_CHECK,
        **kwargs
    )
