"""Every test that a page of proof names is there, in the file that the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.pages import WORKSPACE, prose

PAGES = [WORKSPACE / "docs" / name for name in ("proof.md", "proof-configuration.md", "faults-found.md")]
FAULTS = WORKSPACE / "docs" / "faults-found.md"
_CODE = re.compile(r"`([^`]+)`")


def _files(page: Path) -> dict[str, Path]:
    """Return the file of each short name, from the page's table of names."""
    files = {}
    for _, line in prose(page):
        cells = [_CODE.findall(cell) for cell in line.split("|")[1:-1]]
        if len(cells) == 2 and cells[1] and cells[1][0].endswith(".py"):
            files.update({name: WORKSPACE / cells[1][0].replace("NAME", name) for name in cells[0]})
    return files


def _claims(page: Path) -> list[tuple[str, str]]:
    """Return the tests that the page names, each with the short name of its file."""
    claims, short, known = [], "", _files(page)
    for _, line in prose(page):
        for code in _CODE.findall(line):
            name = code.partition("[")[0]
            if name in known:
                short = name
            elif name.startswith("test_") and not name.endswith(".py"):
                claims.append((short, name))
    return claims


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_is_there(page: Path) -> None:
    files = _files(page)
    assert files
    assert [name for name, file in files.items() if not file.is_file()] == []


@pytest.mark.parametrize(("page", "short", "name"), [(page, *claim) for page in PAGES for claim in _claims(page)])
def test_every_test_is_there(page: Path, short: str, name: str) -> None:
    assert f"def {name}(" in _files(page)[short].read_text(encoding="utf-8")


def test_every_fault_has_a_test_or_is_said_to_be_open() -> None:
    rows = [line for _, line in prose(FAULTS) if line.startswith("| ") and not line.startswith(("| name", "| fault"))]
    faults = [line for line in rows if not line.rstrip(" |").endswith(".py`")]
    assert faults
    assert [line for line in faults if "`test_" not in line and "**open**" not in line] == []
