"""Closes the policy instances of a chain that has run its last request (R-31), synchronous or not.

Apart from the compiler because it needs the event loop, which a compiler in a validator does not have.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from policy_engine.worker.chains.compiled import CompiledChain

logger = logging.getLogger("policy_engine.worker")
_pending: set[asyncio.Future[None]] = set()


def close_chains(chains: Iterable[CompiledChain]) -> None:
    """Close every instance; a failing `close` is logged and stops nothing. Awaitable results run on the loop."""
    for chain in chains:
        for instance in chain.instances:
            try:
                waiting = instance.close()
                if waiting is not None:
                    task = asyncio.ensure_future(waiting)
                    _pending.add(task)
                    task.add_done_callback(_finished)
            except Exception:
                logger.exception("close of a policy on route %s failed", chain.route_key)


def _finished(task: asyncio.Future[None]) -> None:
    _pending.discard(task)
    if not task.cancelled() and task.exception() is not None:
        logger.error("close of a policy failed", exc_info=task.exception())
