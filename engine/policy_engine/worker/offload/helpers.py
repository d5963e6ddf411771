"""The helper processes of one worker process: few, started when there is work, ended when they are late or idle.

Threads would not do: what reads bodies (json, re, unicodedata) keeps Python's global lock from beginning to end, so
that the event loop stands still beside it. A process also gives its memory back, and can be killed in C code.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

from policy_engine.limits import OFFLOAD_PROCESSES, OFFLOAD_WAITING
from policy_engine.worker.offload import frames
from policy_engine.worker.offload.blocking import PoolFull
from policy_engine.worker.offload.job import Recipe, Report

logger = logging.getLogger("policy_engine.worker")

LARGE = 256 * 1024
"""Bytes of arguments from which a call may not take the last free helper, which is kept for shorter ones."""

START_SECONDS = 20.0
"""For the start of a helper, and for importing and making a policy in it."""

IDLE_SECONDS = 30.0
"""After so long without work a helper ends, and its memory is free."""

GROWN_BYTES = 192 * 1024 * 1024
"""A helper that holds more than this after a call is replaced: what Python keeps of large documents goes back."""

MOST_BYTES = 1024 * 1024 * 1024
"""Private memory of one helper; a call that needs more fails with MemoryError."""

_PIECE = 256 * 1024
_LATE_SECONDS = 0.5
"""After the deadline, before the helper's own timer ends it: the worker process comes first, and says why."""


class HelpersFull(PoolFull):
    """Every helper is busy and as many calls wait as may."""


class HelperLost(RuntimeError):
    """The helper ended during the call: out of memory, a crash in C code, or killed from outside."""


class Outcome(StrEnum):
    """How a call ended."""

    DONE = "done"
    RAISED = "raised"
    """The function, or the making of its policy, raised."""
    REFUSED = "refused"
    """Every helper was busy, and as many calls waited as may."""
    LATE = "late"
    """It was not done within the policy's timeout."""
    LOST = "lost"
    """Its helper ended meanwhile."""
    LEFT = "left"
    """Nobody waited for it any more before a helper took it: the policy's timeout was over, or the client had left."""


class Ending(StrEnum):
    """Why a helper process ended."""

    IDLE = "idle"
    GROWN = "grown"
    LATE = "late"
    LOST = "lost"
    CLOSED = "closed"


@dataclass(slots=True)
class Statistics:
    """What the helpers of this worker process did: calls by how they ended, processes by why they ended."""

    calls: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    started: int = 0
    ended: dict[Ending, int] = field(default_factory=lambda: dict.fromkeys(Ending, 0))


@dataclass(slots=True, eq=False)
class _Job:
    recipe: Recipe
    parts: list[frames.Part]
    deadline: float
    answer: asyncio.Future[Any]
    size: int


class _Helper:
    """One process and the socket to it."""

    def __init__(self, process: asyncio.subprocess.Process, sock: socket.socket) -> None:
        self.process = process
        self._socket = sock
        self._known: set[int] = set()

    @classmethod
    async def start(cls) -> _Helper:
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the working directory adds no code
                "-m",
                "policy_engine.worker.offload.helper",
                str(theirs.fileno()),
                str(os.getpid()),
                str(MOST_BYTES),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
            )
        helper = cls(process, mine)
        try:
            async with asyncio.timeout(START_SECONDS):
                await _receive(mine)
        except BaseException:
            helper.end()
            raise
        return helper

    async def learn(self, recipe: Recipe) -> Exception | None:
        """Have the policy made; returns what its import or its constructor raised."""
        if recipe.key in self._known:
            return None
        report, value = await self._ask(b"", START_SECONDS, [pickle.dumps(recipe)])
        if report.failed:
            return cast(Exception, value)
        self._known.add(recipe.key)
        return None

    async def call(self, job: _Job) -> tuple[Report, Any]:
        return await self._ask(str(job.recipe.key).encode(), job.deadline - time.monotonic(), job.parts)

    async def _ask(self, key: bytes, seconds: float, parts: list[frames.Part]) -> tuple[Report, Any]:
        """Send and wait for at most `seconds`; the helper's own timer comes after ours."""
        async with asyncio.timeout(seconds):
            await _send(self._socket, [key, str(max(seconds, 0) + _LATE_SECONDS).encode(), *parts])
            report, value = frames.decode(await _receive(self._socket))
        for record in report.logged:
            logging.getLogger(record.logger).log(record.level, "%s", record.message, extra=record.extra)
        return report, value

    def end(self) -> None:
        """Kill the process; it is reaped by the event loop."""
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


@dataclass(slots=True, eq=False)
class _Place:
    """Room for one helper. The first takes what waited longest, all others what is not large."""

    takes_large: bool
    helper: _Helper | None = None
    busy: asyncio.Task[None] | None = None
    idle: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class Helpers:
    """Runs calls in at most `processes` helpers; `waiting` more may wait, each no longer than its policy's timeout."""

    processes: int = OFFLOAD_PROCESSES
    waiting: int = OFFLOAD_WAITING
    idle_seconds: float = IDLE_SECONDS
    grown_bytes: int = GROWN_BYTES
    statistics: Statistics = field(default_factory=Statistics)
    _queue: deque[_Job] = field(default_factory=deque)
    _places: list[_Place] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def running(self) -> int:
        """How many helper processes there are now."""
        return sum(place.helper is not None for place in self._places)

    @property
    def queued(self) -> int:
        """How many calls wait for a helper."""
        return len(self._queue)

    async def call(self, recipe: Recipe, parts: list[frames.Part], seconds: float) -> Any:
        """Return what the call returned or raise what it raised; `parts` are those of `(name, function, *arguments)`.

        Raises HelpersFull at once, TimeoutError after `seconds`, HelperLost.
        """
        self._on_this_loop()
        if len(self._queue) >= self.waiting:
            self._count(Outcome.REFUSED)
            raise HelpersFull(f"all {self.processes} helpers are busy and {self.waiting} calls wait")
        answer = asyncio.get_running_loop().create_future()
        job = _Job(recipe, parts, time.monotonic() + seconds, answer, sum(map(len, parts)))
        self._queue.append(job)
        self._dispatch()
        try:
            return await answer
        finally:
            # Nobody waits any more: the body goes at once, also where the caller left, or a traceback keeps the job.
            job.parts = []
            if job in self._queue:
                self._queue.remove(job)
                self._count(Outcome.LEFT)

    def close(self) -> None:
        """End all helpers; calls that wait or run fail."""
        for job in self._queue:
            self._settle(job, HelperLost("the helpers were closed"))
        self._queue.clear()
        places, self._places = self._places, []
        for place in places:
            if place.busy is not None and self._loop is not None and not self._loop.is_closed():
                place.busy.cancel()
            self._end(place, Ending.CLOSED)

    def _on_this_loop(self) -> None:
        """Begin anew on another event loop: the processes of one that is closed are of no use."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.close()
            self._loop = loop
        if not self._places:
            self._places = [_Place(takes_large=number == 0 or self.processes == 1) for number in range(self.processes)]

    def _dispatch(self) -> None:
        # Those that run already come first, so that a second one is started only when both are needed.
        for place in sorted(self._places, key=lambda one: one.helper is None):
            if place.busy is not None:
                continue
            job = self._next(place)
            if job is not None:
                if place.idle is not None:
                    place.idle.cancel()
                place.busy = asyncio.ensure_future(self._serve(place, job))

    def _next(self, place: _Place) -> _Job | None:
        for job in self._queue:
            if place.takes_large or job.size < LARGE:
                self._queue.remove(job)
                return job
        return None

    async def _serve(self, place: _Place, job: _Job) -> None:
        try:
            if job.answer.done():
                self._count(Outcome.LEFT)
            else:
                await self._run(place, job)
        finally:
            place.busy = None
            loop = asyncio.get_running_loop()
            place.idle = loop.call_later(self.idle_seconds, self._end_idle, place)
            self._dispatch()

    async def _run(self, place: _Place, job: _Job) -> None:
        try:
            if place.helper is None:
                # Not on the call's time: under load a start may take longer, and the next call finds it done.
                place.helper = await _Helper.start()
                self.statistics.started += 1
            problem = await place.helper.learn(job.recipe)
            if problem is None and job.deadline <= time.monotonic():
                problem = TimeoutError("the policy's time was over before a helper process was ready")
            if problem is not None or job.answer.done():
                self._settle(job, problem)
                return
            report, value = await place.helper.call(job)
        except BaseException as error:
            named = _named(error)
            self._end(place, _ending(named))
            self._settle(job, named)
            if not isinstance(error, Exception):
                raise
            return
        if report.resident_bytes > self.grown_bytes:
            self._end(place, Ending.GROWN)
        self._settle(job, value if report.failed else None, value, Outcome.RAISED if report.failed else Outcome.DONE)

    def _settle(self, job: _Job, error: Exception | None, value: Any = None, outcome: Outcome | None = None) -> None:
        """Count the call and answer it, unless nobody waits for it any more."""
        self._count(outcome or _outcome(error))
        if job.answer.done() or job.answer.get_loop().is_closed():
            return
        if error is not None:
            job.answer.set_exception(error)
        else:
            job.answer.set_result(value)

    def _count(self, outcome: Outcome) -> None:
        self.statistics.calls[outcome] += 1

    def _end(self, place: _Place, why: Ending) -> None:
        helper, place.helper = place.helper, None
        if place.idle is not None:
            place.idle.cancel()
        if helper is not None:
            self.statistics.ended[why] += 1
            helper.end()

    def _end_idle(self, place: _Place) -> None:
        if place.busy is None:
            self._end(place, Ending.IDLE)


def _named(error: BaseException) -> Exception:
    """Return the error that the caller gets for what went wrong between here and the helper."""
    if isinstance(error, TimeoutError):
        return TimeoutError("the offloaded work was not done in time, its helper process was ended")
    if isinstance(error, EOFError | ConnectionError):
        return HelperLost("the helper process ended during the call (out of memory, or a crash)")
    if isinstance(error, Exception):
        return error
    return HelperLost("the helpers were closed")


def _outcome(error: Exception | None) -> Outcome:
    """Return how a call ended that no helper answered; without an error, nobody waited for it any more."""
    if error is None:
        return Outcome.LEFT
    if isinstance(error, TimeoutError):
        return Outcome.LATE
    return Outcome.LOST if isinstance(error, HelperLost) else Outcome.RAISED


def _ending(error: Exception) -> Ending:
    return Ending.LATE if isinstance(error, TimeoutError) else Ending.LOST


async def _send(sock: socket.socket, parts: Sequence[frames.Part]) -> None:
    """Write a frame, as much at a time as the socket takes; raises ConnectionError when the helper is gone."""
    loop = asyncio.get_running_loop()
    for piece in frames.pieces_of(parts):
        await loop.sock_sendall(sock, piece)


async def _receive(sock: socket.socket) -> list[frames.Part]:
    """Read the parts of one frame; raises EOFError when the helper is gone."""
    count = frames.COUNT.unpack(await _exactly(sock, frames.COUNT.size))[0]
    lengths = await _exactly(sock, count * frames.LENGTH.size)
    return [await _exactly(sock, length) for (length,) in frames.LENGTH.iter_unpack(lengths)]


async def _exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    pieces = []
    while size:
        piece = await loop.sock_recv(sock, min(size, _PIECE))
        if not piece:
            raise EOFError
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
