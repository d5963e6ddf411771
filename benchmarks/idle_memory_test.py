"""What an idle engine takes, with the policies of the image there and the chain of the figures: it fails beyond that.

Figures are for a machine where nothing else runs Python: what an engine shares with strangers counts whole.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.run.accounting import memory
from benchmarks.run.servers import EngineServer
from benchmarks.scenarios.chains import five

MB = 1 << 20
ONE_WORKER = 66 * MB
"""Supervisor, what worker processes are forked from, and one of them."""
FURTHER_WORKER = 15 * MB
SETTLE_SECONDS = 1.5


@pytest.fixture(scope="module")
def bytecode() -> Iterator[Path]:
    """Modules compiled, as in an image: a process that compiles takes twice the memory."""
    with tempfile.TemporaryDirectory() as directory, idle(Path(directory)):
        yield Path(directory)


@contextmanager
def idle(bytecode: Path, workers: int = 1) -> Iterator[EngineServer]:
    # Not pytest's directory: it would be kept.
    with (
        tempfile.TemporaryDirectory() as directory,
        EngineServer(Path(directory), {"r": five()}, workers=workers, bytecode=bytecode) as engine,
    ):
        engine.ready()
        time.sleep(SETTLE_SECONDS)
        yield engine


def test_an_idle_engine_stays_within_its_figures(bytecode: Path) -> None:
    taken = []
    for workers in (1, 3):
        with idle(bytecode, workers) as engine:
            shared, alone = memory(engine.pid)
            print(f"{workers} worker processes: {alone / MB:.1f} MB, PSS now {shared / MB:.1f} MB")
            assert shared <= alone
            taken.append(alone)
    assert taken[0] <= ONE_WORKER
    assert (taken[1] - taken[0]) / 2 <= FURTHER_WORKER
