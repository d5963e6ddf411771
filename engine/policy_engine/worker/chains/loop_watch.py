"""Finds the policy that holds the event loop, names it, and breaks it off (R-12).

A plain hook runs on the loop, where no timer can fire while it runs. A thread looks every few milliseconds at what the
executor noted; when a hook is over its time it signals the main thread, whose handler raises inside the hook. The
handler runs in the loop's own thread and looks again, so a hook that has just ended is never hit.

C code that holds the interpreter keeps that thread from looking. So at each look it puts off an alarm of the operating
system, which needs no interpreter: when it rings, C code that lets signal handlers run, as `re` does, is broken off in
the same way. Code that does not is for the supervisor, which replaces the process.
"""

from __future__ import annotations

import logging
import mmap
import signal
import threading
from collections.abc import Awaitable, Generator
from time import perf_counter
from types import FrameType
from typing import Any

from policy_engine.worker.chains.compiled import Step
from policy_engine.worker.chains.mark import MARK_BYTES

logger = logging.getLogger("policy_engine.worker")

SIGNAL = signal.SIGUSR2
ALARM = signal.SIGALRM
LOOK_SECONDS = 0.02
ALARM_SECONDS = 0.25
"""Without a look for so long, the alarm rings."""


class PolicyOverrun(TimeoutError):
    """Raised inside a hook that kept the event loop for longer than its timeout."""


class PolicyExit(RuntimeError):
    """Stands for the SystemExit or KeyboardInterrupt of a policy, which asyncio would end the worker for (R-11)."""


class Running:
    """What the loop's thread is running now: written by the executor (two stores per hook), read by the watch.

    `page` begins with the `mark` of the chain that ran last; in a worker process the supervisor can read it.
    """

    __slots__ = ("mark", "page", "since", "step")

    def __init__(self) -> None:
        self.step: Step | None = None
        self.since = 0.0
        self.mark = b""
        self.page: bytearray | mmap.mmap = bytearray(MARK_BYTES)

    def show(self, mark: bytes) -> None:
        """Note the chain that runs now, to be called when it is another than the last."""
        self.mark = mark
        self.page[:MARK_BYTES] = mark


RUNNING = Running()
"""One per process, as there is one loop per process."""


class LoopWatch:
    """Watches the hooks of this process. Start and stop it in the main thread, where Python runs signal handlers."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="loop-watch", daemon=True)
        self._main = threading.main_thread().ident or 0
        self._broken_off = 0.0

    def start(self) -> None:
        """Install the handlers and begin to look."""
        signal.signal(SIGNAL, self._break_off)
        signal.signal(ALARM, self._ring)
        _ring_in(ALARM_SECONDS)
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; the signals are ignored from then on."""
        self._stop.set()
        self._thread.join()
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (SIGNAL, ALARM):
            signal.signal(number, signal.SIG_IGN)

    def _look(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            _ring_in(ALARM_SECONDS)
            step, since = RUNNING.step, RUNNING.since
            if step is not None and perf_counter() - since > step.timeout:
                signal.pthread_kill(self._main, SIGNAL)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        """The watch could not look. Break the hook off if its time is over, else ring again when it is."""
        step, since = RUNNING.step, RUNNING.since
        if step is None or since == self._broken_off:
            return
        left = since + step.timeout - perf_counter()
        if left > 0:
            _ring_in(left + LOOK_SECONDS)
        else:
            self._break_off(number, frame)

    def _break_off(self, _number: int, _frame: FrameType | None) -> None:
        step, since = RUNNING.step, RUNNING.since
        if step is None or since == self._broken_off:
            return
        held = perf_counter() - since
        if held > step.timeout:
            self._broken_off = since
            raise PolicyOverrun(
                f"held the event loop for {held:.2f} s (timeout {step.timeout:g} s); a policy that blocks must set "
                f"`blocking = True`"
            )


def _ring_in(seconds: float) -> None:
    """Set the alarm, to ring again and again from then on, unless it is set anew."""
    signal.setitimer(signal.ITIMER_REAL, seconds, ALARM_SECONDS)


class Watched:
    """An awaitable whose steps on the loop are noted in `RUNNING`, so that a coroutine that never yields is found."""

    __slots__ = ("_mark", "_step", "_waiting")

    def __init__(self, step: Step, waiting: Awaitable[Any], mark: bytes) -> None:
        self._step = step
        self._waiting = waiting
        self._mark = mark

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._waiting.__await__()
        resume, value = inner.__next__, None
        while True:
            if RUNNING.mark is not self._mark:
                RUNNING.show(self._mark)
            RUNNING.since = perf_counter()
            RUNNING.step = self._step
            try:
                pending = resume() if value is None else resume(value)  # type: ignore[call-arg] # next or throw
            except StopIteration as end:
                return end.value
            except (SystemExit, KeyboardInterrupt) as error:
                raise PolicyExit(f"raised {type(error).__name__}") from error
            finally:
                RUNNING.step = None
                value = None  # else a cancellation and this frame would keep each other, and with them the body
            try:
                yield pending
                resume, value = inner.__next__, None
            except BaseException as error:
                throw = getattr(inner, "throw", None)
                if throw is None:
                    raise
                resume, value = throw, error
