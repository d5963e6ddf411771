"""Notices that files changed and waits until nobody is writing them any more, by looking at them again and again.

A separate module because it is about file systems alone. Looking instead of inotify, on purpose: it sees the same
through symlink swaps (Kubernetes ConfigMaps), overlays and NFS, and costs little: one look at a file takes some 20 µs,
at a directory of 1,000 files 4 ms, and the pause between looks is 200 times that (0.5 % of a core).

A file that is written in place is half a file for as long as its writer takes, and half a chain file may be a valid one
that leaves out a policy. So how long a change has to rest depends on how it came about. A file that was renamed into
place and a symlink that was swapped are whole at once. Everything else (rewritten, cut, grown, created, removed) may be
half of something, and has to be left alone for `in_place` seconds.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from policy_engine.limits import FILE_SETTLE_SECONDS
from policy_engine.sources.renames import Renames

SHORTEST_PAUSE = 0.025
"""Seconds between two looks when a look is quick, and for which a file that came whole has to rest."""

LONGEST_PAUSE = 1.0
"""Seconds between two looks at very many files."""

MOST_CPU = 1 / 200
"""Largest share of one core that looking may take, unless that made the pause longer than `LONGEST_PAUSE`."""

LONGEST_UNSETTLED = 2.0
"""Seconds after which files that are replaced without end are reported all the same; each of them is whole."""

TELL_AFTER = 15.0
"""Seconds of being written in place after which the log says that somebody is waiting for the file's end."""

SECOND_LOOK = 2.0
"""Seconds after a report at which it is repeated once: where a file system's clock is coarse (1 s), a second change
within the tick leaves size and time as they were."""

Paths = Callable[[], Iterable[Path]]
OfInterest = Callable[[str], bool]
"""Of a name in a directory: what else lies there, and may change without end, does not matter."""
_State = dict[str, tuple[int, ...]]
"""For each file what a change of it shows in: device, inode, size, mtime, ctime; or the error number alone."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settled:
    """Files at a moment when nobody was writing them."""

    _paths: Paths
    _of_interest: OfInterest
    _state: _State

    def still(self) -> bool:
        """Return whether the files are as they were then; asked after reading them, it says that all were whole."""
        return _look_at(self._paths, self._of_interest) == self._state


async def watch(
    paths: Paths,
    in_place: float = FILE_SETTLE_SECONDS,
    quiet: float = SHORTEST_PAUSE,
    of_interest: OfInterest = bool,
) -> AsyncGenerator[Settled, None]:
    """Yield as soon as the files that `paths()` names have settled, and then whenever they have changed and settled.

    A directory stands for itself and the files directly in it whose names are `of_interest`. A file that came whole has
    settled when it stayed the same for `quiet` seconds, any other for `in_place` seconds. `paths` is asked at every
    look, from another thread, so that what is watched may change. The consumer compares contents: a yield says that
    something may have changed, and several changes may become one yield.
    """
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    watcher = _Watcher(paths, of_interest, in_place, quiet, lambda: loop.call_soon_threadsafe(changed.set))
    thread = threading.Thread(target=watcher.run, name="file-watch", daemon=True)
    thread.start()
    try:
        while True:
            await changed.wait()
            changed.clear()
            yield Settled(paths, of_interest, watcher.seen)
    finally:
        watcher.stop.set()


async def settled(paths: Paths, in_place: float = FILE_SETTLE_SECONDS, of_interest: OfInterest = bool) -> Settled:
    """Return when the files that `paths()` names have not been written for `in_place` seconds."""
    settling = _Settling(in_place, SHORTEST_PAUSE)
    state = await asyncio.to_thread(_look_at, paths, of_interest)
    settling.begin(paths(), state)
    while not settling.done():
        await asyncio.sleep(SHORTEST_PAUSE)
        before, state = state, await asyncio.to_thread(_look_at, paths, of_interest)
        settling.note(before, state, lambda _path: False)
    return Settled(paths, of_interest, state)


@dataclass(slots=True)
class _Settling:
    """Decides when changed files have rested for long enough."""

    in_place: float
    quiet: float
    _due: dict[str, float] = field(default_factory=dict)
    _begun: float = field(default_factory=time.monotonic)
    _told: bool = False

    def begin(self, paths: Iterable[Path], state: _State) -> None:
        """Take files, and directories, that were written a moment ago for ones that still are."""
        now, clock = time.monotonic(), time.time_ns()
        for path in {*map(str, paths), *state}:
            with suppress(OSError):
                age = (clock - os.stat(path).st_mtime_ns) / 1e9  # noqa: PTH116 - see `_of_file`
                # A time to come says nothing of the age: another machine's clock, or somebody's joke.
                if age < self.in_place:
                    self._due[path] = now + self.in_place - max(age, 0.0)

    def note(self, before: _State, after: _State, came_whole: Callable[[str], bool]) -> None:
        """Take in what changed between two looks."""
        if before == after:
            return
        now = time.monotonic()
        for path in before.keys() | after.keys():
            if before.get(path) == after.get(path):
                continue
            if _is_another_file(before.get(path, ()), after.get(path, ())) and came_whole(path):
                self._due[path] = min(now + self.quiet, self._begun + LONGEST_UNSETTLED)
            else:
                self._due[path] = now + self.in_place

    def done(self) -> bool:
        """Return whether every file has rested; to be asked after `note`."""
        now = time.monotonic()
        if now >= max(self._due.values(), default=0.0):
            return True
        if not self._told and now >= self._begun + max(TELL_AFTER, 2 * self.in_place):
            self._told = True
            files = ", ".join(sorted(path for path, due in self._due.items() if due > now))
            logger.warning("still being written, so not loaded: %s; replace files by a rename instead", files)
        return False


@dataclass(slots=True)
class _Watcher:
    """Looks, on a thread of its own: a file system that hangs (NFS) must not stop an event loop."""

    paths: Paths
    of_interest: OfInterest
    in_place: float
    quiet: float
    notify: Callable[[], object]
    seen: _State = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    _renames: Renames = field(default_factory=Renames)
    _real: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Look until stopped."""
        try:
            self._run()
        finally:
            self._renames.stop()

    def _run(self) -> None:
        start = _Settling(self.in_place, self.quiet)
        now, pause = self._look()
        self._real = _real_paths(now)
        start.begin(self.paths(), now)
        self._settle(start, now)
        second_look = math.inf
        while not self.stop.wait(pause):
            now, pause = self._look()
            if now != self.seen:
                settling = _Settling(self.in_place, max(self.quiet, pause))
                settling.note(self.seen, now, self._came_whole)
                self._settle(settling, now)
                second_look = time.monotonic() + SECOND_LOOK
            elif time.monotonic() >= second_look:
                second_look = math.inf
                self._notify()

    def _settle(self, settling: _Settling, last: _State) -> None:
        """Look until the files have settled, and report them."""
        pause = SHORTEST_PAUSE
        while not settling.done():
            if self.stop.wait(pause):
                return
            now, pause = self._look()
            settling.note(last, now, self._came_whole)
            last = now
        self._real = _real_paths(last)
        self.seen = last
        self._notify()

    def _look(self) -> tuple[_State, float]:
        """Return what there is and the pause until the next look."""
        # Processor time, not time: on a busy machine a look may be interrupted for long, and must not be waited for.
        start = time.thread_time()
        paths = tuple(self.paths())
        self._renames.follow({os.path.realpath(one if one.is_dir() else one.parent) for one in paths})
        state = _look_at(lambda: paths, self.of_interest)
        # After the look, so that whatever has been written to a file by the time of the look is known.
        self._renames.update()
        pause = (time.thread_time() - start) / MOST_CPU
        return state, min(max(pause, SHORTEST_PAUSE), LONGEST_PAUSE)

    def _came_whole(self, path: str) -> bool:
        """Return whether the other file that is at `path` now was put there in one step."""
        directory, name = os.path.split(path)
        real, before = os.path.realpath(path), self._real.get(path)
        swapped = before is not None and before != real
        return swapped or self._renames.is_whole(os.path.join(os.path.realpath(directory), name))  # noqa: PTH118

    def _notify(self) -> None:
        # The loop may have been closed without the watch being closed first; then nobody listens any more.
        with suppress(RuntimeError):
            self.notify()


def _look_at(paths: Paths, of_interest: OfInterest) -> _State:
    return {name: _of_file(name) for path in paths() for name in _names(path, of_interest)}


def _names(path: Path, of_interest: OfInterest) -> Iterable[str]:
    """Yield the files that `path` stands for; hidden ones are where editors and ConfigMap volumes keep theirs."""
    try:
        with os.scandir(path) as entries:
            yield from sorted(entry.path for entry in entries if entry.name[0] != "." and of_interest(entry.name))
    except OSError:
        yield str(path)


def _of_file(path: str) -> tuple[int, ...]:
    """Return everything a change may show in; links are followed, so that a swapped link shows in the inode."""
    try:
        state = os.stat(path)  # noqa: PTH116 - a Path for each file of each look doubles the cost
    except OSError as error:
        return (error.errno or 0,)
    return (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def _is_another_file(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Return whether a file is there now, and not the one that was there before."""
    return len(after) > 1 and before[:2] != after[:2]


def _real_paths(state: _State) -> dict[str, str]:
    """Return where the links of every file that is there lead to."""
    return {path: os.path.realpath(path) for path, found in state.items() if len(found) > 1}
