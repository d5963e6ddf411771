"""Watches the signs of life of all worker processes, and ends those that hang, saying where they do.

A sign of life comes from the event loop itself, so that a loop that C code holds, or a process that is stopped, is seen
whatever its other threads do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from policy_engine.processes.child import Child
from policy_engine.processes.serving import sign_of_life_interval

logger = logging.getLogger("policy_engine.supervisor")

_STACK_LINES = 40


class Liveness:
    """`hangs` counts the worker processes that were ended for their silence.

    One is `quiet`, and does not count as serving, after half of `timeout` (seconds) without a sign of life; after all
    of it, it is killed. `changed` is called with one that becomes quiet, or no longer is.
    """

    def __init__(
        self, timeout: float, children: Callable[[], Iterable[Child]], policies: str, changed: Callable[[Child], None]
    ) -> None:
        self._timeout = timeout
        self._children = children
        self._policies = policies
        self._changed = changed
        self._ending: set[asyncio.Task[None]] = set()
        self.hangs = 0

    async def run(self) -> None:
        """Look until cancelled."""
        interval = sign_of_life_interval(self._timeout) / 2
        looked = time.monotonic()
        while True:
            await asyncio.sleep(interval)
            now = time.monotonic()
            # Time in which this process did not run itself is nobody's silence.
            late, looked = max(0.0, now - looked - interval), now
            for child in self._children():
                child.heard = min(now, child.heard + late)
                self._look(child)

    def _look(self, child: Child) -> None:
        quiet = child.silence > self._timeout / 2
        if quiet != child.quiet:
            child.quiet = quiet
            number = child.options.number
            if quiet:
                logger.warning(
                    "worker process %d has given no sign of life for %.1f s", number, child.silence, extra=_about(child)
                )
            else:
                logger.info("worker process %d gives signs of life again", number, extra=_about(child))
            self._changed(child)
        if child.silence > self._timeout and not child.hung and child.alive:
            child.hung = True
            task = asyncio.ensure_future(self._end(child))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _end(self, child: Child) -> None:
        heard = child.heard
        stopped = child.stopped
        seen = await child.last_seen()
        if child.heard != heard and child.silence < self._timeout:
            child.hung = False
            return
        self.hangs += 1
        place = "stopped from outside (SIGSTOP, a debugger)" if stopped else seen.place(self._policies)
        logger.error(
            "worker process %d (pid %d) gave no sign of life for %.1f s, killed: it is %s%s",
            child.options.number,
            child.process.pid,
            child.silence,
            place if stopped else f"in {place or 'a place that it could not write down'}",
            f"; the chain that ran last is that of route {seen.route_key!r}" if seen.route_key else "",
            extra=_about(child)
            | {
                "event": "worker_hung",
                "route": seen.route_key or None,
                "stack": seen.stack.splitlines()[:_STACK_LINES] or None,
            },
        )
        child.kill()


def _about(child: Child) -> dict[str, object]:
    return {"worker": child.options.number}
