"""Runs every kept input of the fuzz corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import native_transport

CORPUS = sorted(path for path in (Path(__file__).parent / "corpus").iterdir() if path.is_file())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_corpus(path: Path) -> None:
    native_transport.run(path.read_bytes())
