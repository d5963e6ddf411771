"""A lane starts although somebody else was quicker to take the port it was given."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.run import lanes
from benchmarks.run.lanes import Engine, Lane, _ready
from integration.harness.processes import Process, ProcessError

LANE = Lane(name="native", server=Engine(chain=[]))


class Server(Process):
    """Says one thing, and stays if that is that it listens."""

    def __init__(self, says: str, place: Path) -> None:
        program = f"print({says!r}, flush=True); {'input()' if says == 'listening' else 'raise SystemExit(1)'}"
        super().__init__("server", [sys.executable, "-S", "-c", program], log_path=place / "log", stdin=-1)

    def ready(self) -> Sequence[int]:
        self.wait_until(lambda: "listening" in self.log(), what="ready")
        return [1]


def run(says: list[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, int]:
    """Start a lane whose servers say these things, one after the other; returns the last, and how many are left."""
    left = iter(says)
    monkeypatch.setattr(lanes, "_server", lambda lane, where: Server(next(left), where))
    with ExitStack() as parts:
        first: Any = parts.enter_context(Server(next(left), place))
        server, addresses = _ready(LANE, first, place, parts)
        assert addresses == [1]
        assert server is not None
        assert server.running()
    return server, len(list(left))


TAKEN = "OSError: [Errno 98] Address already in use"


def test_a_lane_whose_port_was_taken_gets_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run([TAKEN, TAKEN, "listening", "never"], tmp_path, monkeypatch)[1] == 1


def test_that_is_not_tried_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProcessError, match="already in use"):
        run([TAKEN] * 10, tmp_path, monkeypatch)


def test_what_else_keeps_a_server_from_starting_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ProcessError, match="no such transport"):
        run(["no such transport", "listening"], tmp_path, monkeypatch)
