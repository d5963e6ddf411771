"""A kernel that serves a chain file in this process, as a worker process would: what `explain` and `diff` run on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from policy_engine.documents.diagnostics import Diagnostic, render_text
from policy_engine.kernel.kernel import Kernel, KernelOptions
from policy_engine.settings.model import Settings, UnmappedRoutes
from policy_engine.sources.chain_file import load_chain_paths
from policy_engine.sources.validate import chain_reader
from policy_engine.worker.chains.closing import close_chains
from policy_engine.worker.chains.compiler import Compiler
from policy_engine.worker.chains.error_answers import ErrorAnswers
from policy_engine.worker.chains.loop_watch import LoopWatch
from policy_engine.worker.chains.spec import ChainsSpec
from policy_engine.worker.policies.registry import Registry


class ChainsInvalid(ValueError):
    """The chain file cannot be used; the message lists everything wrong with it."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__(f"the chains are not valid\n{render_text(diagnostics).rstrip()}")


def load(settings: Settings, registry: Registry, path: Path | None = None) -> ChainsSpec:
    """Return the chains at `path`, or those of the settings; raises ChainsInvalid."""
    reader, marker = chain_reader(registry, settings), settings.chain_files.end_marker
    loaded = load_chain_paths((path or settings.chains,), reader, end_marker=marker)
    if loaded.chains is None:
        raise ChainsInvalid(loaded.diagnostics)
    return loaded.chains


def of_routes(chains: ChainsSpec, keys: Collection[str]) -> ChainsSpec:
    """Return the part of `chains` that requests of these routes need; all, where a key is not written as such."""
    routes = tuple(route for route in chains.routes if route.route_key in keys)
    return replace(chains, routes=routes) if len(routes) == len(set(keys)) else chains


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let the engine log nothing: what is to be said stands in the record."""
    logger = logging.getLogger("policy_engine")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.asynccontextmanager
async def serving(settings: Settings, registry: Registry, chains: ChainsSpec) -> AsyncIterator[Kernel]:
    """Yield a kernel on which `chains` are active, with time limits enforced; raises CompileError."""
    options = KernelOptions(
        pass_unmapped=settings.unmapped_routes is UnmappedRoutes.PASS,
        body_limit=settings.body_limit,
        header_count=settings.limits.header_count,
        header_size=settings.limits.header_size,
        errors=ErrorAnswers(settings.errors.format),
    )
    compiler = Compiler(registry, settings.limits.blocking_threads, settings.construction_timeout)
    watch = LoopWatch()
    try:
        snapshot = await asyncio.to_thread(compiler.compile, chains)
        kernel = Kernel(options)
        kernel.activate(snapshot)
        watch.start()
        try:
            yield kernel
        finally:
            watch.stop()
            close_chains(snapshot.chains.values())
            await asyncio.sleep(0)
    finally:
        compiler.close()
