"""What a load leaves behind is given back when it is over, and a collection is made when it is worth one."""

from __future__ import annotations

import gc

import pytest

from policy_engine.processes import free_memory
from policy_engine.processes.free_memory import QUIET, Leftovers, resident, trim

MB = 1 << 20


class World:
    """A process whose memory is `now` MB, of which a collection leaves `rest`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.rest, self.collections = 40, 40, 0
        monkeypatch.setattr(free_memory, "resident", lambda: self.now * MB)
        monkeypatch.setattr(gc, "collect", self._collect)

    def _collect(self) -> int:
        self.collections += 1
        self.now = min(self.now, self.rest)
        return 0


def test_a_collection_follows_a_load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world, leftovers, begun = World(monkeypatch), Leftovers(), 0
    for _ in range(5):
        leftovers.look(begun)
    assert world.collections == 0
    world.now = 120
    for _ in range(5):  # under load nobody has time for it
        begun += QUIET
        leftovers.look(begun)
    assert world.collections == 0
    world.rest = 50
    for _ in range(5):
        leftovers.look(begun)
    assert (world.collections, world.now) == (1, 50)


def test_what_was_still_used_at_the_first_collection_is_given_back_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    world, leftovers = World(monkeypatch), Leftovers()
    leftovers.look(0)
    world.now = world.rest = 120  # streams that stay open for long
    leftovers.look(QUIET)
    leftovers.look(QUIET)
    leftovers.look(QUIET)
    assert world.collections == 1
    world.now, world.rest = 70, 45
    leftovers.look(QUIET)
    assert (world.collections, world.now) == (2, 45)


def test_a_machine_that_does_not_tell_has_no_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    world, leftovers = World(monkeypatch), Leftovers()
    world.now = 0
    leftovers.look(0)
    leftovers.look(0)
    assert world.collections == 0


def test_freed_memory_goes_back_to_the_system() -> None:
    kept = [bytes(3000) for _ in range(20_000)]
    last = kept[-1]  # at the end of the heap, so that nothing before it goes back by itself
    most = resident()
    del kept
    trim()
    assert resident() < most - 30 * MB
    assert last == bytes(3000)
