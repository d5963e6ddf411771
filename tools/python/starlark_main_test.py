"""What is found in a BUILD file, and that what buildifier writes is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.python.starlark_main import findings, main

GOOD = '''"""A package."""

load("@rules_python//python:py_library.bzl", "py_library")
load("//tools:defs.bzl", "a", "b")
load(":own.bzl", "own")

NAMES = [name for name in glob(["*"])]

py_library(
    name = "lib",
    srcs = [
        "b.py",
        "it's.py",
    ] + NAMES,
    own = own,
    deps = [
        "file.txt",
        ":own",
        "//engine",
        "//engine:other",
        "//engine/sub",
        "@pypi//attrs",
    ],
)
'''


def test_what_buildifier_writes_is_left_alone() -> None:
    assert findings(GOOD) == []
    assert findings("") == []


@pytest.mark.parametrize(
    ("good", "bad", "line", "expected"),
    [
        ('"lib",\n', '"lib", \n', 10, "white space at the end of the line"),
        ("    name", "\tname", 10, "a tab; indentation is four spaces"),
        (")\n", ")", 24, "a file ends with one newline"),
        (")\n", ")\n\n", 26, "a file ends with one newline"),
        ('"lib"', "'lib'", 10, "'lib' is written with double quotes"),
        ('name = "lib"', 'name="lib"', 10, "one space on each side of ="),
        ('load(":own', 'X = 1\nload(":own', 6, "load() stands before everything else"),
        ('load(":own.bzl", "own")', 'load("//a:b.bzl", "own")', 5, 'load("//a:b.bzl") stands before load("//tools'),
        ('"a", "b"', '"b", "a"', 4, "names are loaded in the order a, b"),
        ('    name = "lib",\n', '    testonly = 1,\n    name = "lib",\n', 9, "name is the first attribute"),
        (':own",\n        "//engine"', '//engine",\n        ":own"', 16, "deps is sorted: file.txt, :own, //engine, "),
        ("py_library(\n", "py_library((\n", 1, "cannot be read"),
    ],
)
def test_what_is_found(good: str, bad: str, line: int, expected: str) -> None:
    text = GOOD.replace(good, bad) if not good.endswith(")\n") else GOOD.removesuffix(good) + bad
    assert text != GOOD
    found = findings(text)
    if expected != "cannot be read":
        assert [number for number, _ in found] == [line]
    assert expected in found[0][1]


def test_every_file_of_ours_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for directory in ("a/b", "bazel-out/a", ".git"):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / "BUILD.bazel").write_text("x = 'y'\n")
    assert main(tmp_path) == 1
    assert capsys.readouterr().out.startswith(
        "a/b/BUILD.bazel:1: 'y' is written with double quotes\n1 places in 1 files"
    )
    (tmp_path / "a/b/BUILD.bazel").write_text('x = "y"\n')
    assert main(tmp_path) == 0
    (tmp_path / "a/b/BUILD.bazel").unlink()
    assert main(tmp_path) == 1  # it looks in the wrong place
