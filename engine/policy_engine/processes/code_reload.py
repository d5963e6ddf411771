"""Loads policies anew when their files change (`run --reload`): for development, not for production.

New code runs in new processes. This one needs it too, as it checks chains with it, and takes it only when the new
processes serve; until then, and for good where something is wrong, everything goes on with the old code.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from pathlib import Path

from policy_engine.processes.code_on_disk import CodeOnDisk
from policy_engine.sources.file_watch import watch
from policy_engine.worker.policies.importing import forget_modules, restore_modules
from policy_engine.worker.policies.loader import PoliciesUnusable, import_traceback, load_policies
from policy_engine.worker.policies.registry import Registry, Unusable

logger = logging.getLogger("policy_engine.supervisor")

SETTLE_SECONDS = 0.2
"""For which files that somebody writes have to rest: half a file of Python seldom is a whole one, and does no harm."""

Use = Callable[[Registry], Awaitable[str]]
"""Puts a registry to use; returns why it cannot be, empty when it is."""


class CodeReload:
    """Keeps what runs as it is in `directory`. `registry` is what runs, `pending` whether newer code could not."""

    def __init__(self, directory: Path, registry: Registry, use: Use) -> None:
        self._directory = directory
        self.registry = registry
        self._use = use
        self._lock = asyncio.Lock()
        self.pending = False

    async def run(self) -> None:
        """Load what changed whenever something did, until cancelled."""
        for one in self.registry.unusable:
            logger.error("policy %s cannot be loaded:\n%s", one, await asyncio.to_thread(self._why, one))
        async with aclosing(watch(self._directories, SETTLE_SECONDS, of_interest=_is_code)) as changes:
            async for _ in changes:
                await self.load()

    async def load(self) -> None:
        """Load what is on disk, if it is not what runs; says in the log what became of it."""
        async with self._lock:
            changes = await asyncio.to_thread(lambda: list(CodeOnDisk(self.registry, self._directory).changes()))
            if not changes:
                self.pending = False
                return
            listed = ", ".join(changes)
            before = await asyncio.to_thread(forget_modules, self._directory)
            problem = "it was broken off"
            try:
                problem = await self._tried()
            except Exception:  # of this engine's own: it must not end what runs
                problem = traceback.format_exc()
            finally:
                self.pending = bool(problem)
                if problem:
                    restore_modules(self._directory, before)
            if problem:
                logger.error(
                    "the new code of %s is not used, what ran before goes on:\n%s",
                    listed,
                    problem,
                    extra={"event": "code_refused", "problems": problem.splitlines()},
                )
            else:
                logger.info("the new code of %s runs", listed, extra={"event": "code_reloaded"})

    async def _tried(self) -> str:
        try:
            registry = await asyncio.to_thread(load_policies, self._directory)
        except PoliciesUnusable as error:
            return str(error)
        worked = {str(one) for one in self.registry}
        broken = [one for one in registry.unusable if str(one) in worked]
        if broken:
            return "\n".join([await asyncio.to_thread(self._why, one) for one in broken])
        problem = await self._use(registry)
        if not problem:
            self.registry = registry
        return problem

    def _why(self, unusable: Unusable) -> str:
        directory = self._directory / unusable.name / str(unusable.version).replace(".", "_")
        return import_traceback(directory).rstrip() or "\n".join(map(str, unusable.diagnostics))

    def _directories(self) -> Iterable[Path]:
        return [self._directory, *(one for one in self._directory.rglob("*") if one.is_dir() and _is_code(one.name))]


def _is_code(name: str) -> bool:
    return not name.startswith((".", "__pycache__"))
