"""Runs every kept input of the fuzz corpora."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz import native_transport, session

CORPUS = Path(__file__).parent / "corpus"


def inputs(target: str) -> list[Path]:
    return sorted((CORPUS / target).iterdir())


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The policies of the inputs fail on purpose, thousands of times."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("path", inputs("native_transport"), ids=lambda path: path.name)
def test_native_transport(path: Path) -> None:
    native_transport.run(path.read_bytes())


@pytest.mark.parametrize("path", inputs("session"), ids=lambda path: path.name)
def test_session(path: Path) -> None:
    session.run(path.read_bytes())
