"""Ids of requirements: every one that is cited is explained, and nobody who only runs the product gets to see one."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.pages import WORKSPACE, pages
from tools.python.mypy_main import python_files

LIST = WORKSPACE / "docs/requirements.md"
_ID = re.compile(r"\bR-\d\d\b")
_ANY_ID = re.compile(r"\b(R-\d\d|K[1-9])\b")
_ROW = re.compile(r"^\| (R-\d\d) \| \S")
_CITING = ("*.bzl", "*.bazel", "*.proto", "*.sh")


def _listed() -> list[str]:
    return [row[1] for line in LIST.read_text(encoding="utf-8").splitlines() if (row := _ROW.match(line))]


def _citing() -> Iterator[Path]:
    yield from (WORKSPACE / file for file in python_files(WORKSPACE))
    yield from (page for page in pages() if page != LIST)
    top = {file.parts[0] for file in python_files(WORKSPACE)}
    for pattern in _CITING:
        for directory in sorted(top | {"protos"}):
            yield from (file for file in (WORKSPACE / directory).rglob(pattern) if "bazel-" not in str(file))


def test_every_id_that_is_cited_is_explained() -> None:
    listed = set(_listed())
    for file in _citing():
        if file.is_file():
            cited = set(_ID.findall(file.read_text(encoding="utf-8")))
            assert cited <= listed, f"{file.relative_to(WORKSPACE)} cites {cited - listed}, not in {LIST.name}"


def test_each_is_listed_once_and_in_order() -> None:
    listed = _listed()
    assert listed
    assert [name for name, count in Counter(listed).items() if count > 1] == []
    assert listed == sorted(listed)


def shown_ids(source: str) -> list[int]:
    """Return the lines of texts with an id that people may get to see: all but docstrings, unless help is made of them."""
    tree = ast.parse(source)
    notes = {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    if any(isinstance(node, ast.Name) and node.id == "__doc__" for node in ast.walk(tree)):
        notes -= {node.value for node in tree.body[:1] if isinstance(node, ast.Expr)}
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node not in notes
        and _ANY_ID.search(node.value)
    ]


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ('"""Does it (R-01)."""', []),
        ('"""Does it (R-01)."""\nprint(__doc__)', [1]),
        ('X = 1\n"""What X is (R-01)."""', []),
        ('raise ValueError("no route (R-07)")', [1]),
        ('x = 1\ny = f"{x} is refused, see R-07"', [2]),
        ('parser.add_argument("--x", help="as K3 says")', [1]),
        ('"R-123 and K10, XR-01"', []),
        ('a = "R-123, XR-01"', []),
    ],
)
def test_ids_that_are_shown_are_found(source: str, lines: list[int]) -> None:
    assert shown_ids(source) == lines


def test_no_message_or_help_cites_an_id() -> None:
    files = [file for file in python_files(WORKSPACE) if not file.name.endswith("_test.py")]
    found = {str(file): lines for file in files if (lines := shown_ids((WORKSPACE / file).read_text(encoding="utf-8")))}
    assert not found
