"""Closes policy instances (R-31), plain or `async`: the one place where `Policy.close` is called.

A separate module because those who close are many and few of them have an event loop: a worker process has one, the
thread that compiles, the validator and the command line have none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from policy_engine.sdk import Policy
from policy_engine.worker.policies.construction import within

CLOSE_SECONDS = 5.0
"""How long `close_now` waits for one policy."""

logger = logging.getLogger("policy_engine.worker")
_FAILED = "close of a policy on route %s failed"
_pending: set[asyncio.Task[None]] = set()


def close_now(policy: Policy) -> None:
    """Close an instance on a thread with an event loop of its own, and return when that is done.

    Raises what `close` raises, Overrun or TimeoutError when it takes longer than `CLOSE_SECONDS`.
    """
    within(CLOSE_SECONDS, (type(policy), "close"), lambda: asyncio.run(_closed(policy)))


def give_up(policy: Policy, route_key: str) -> None:
    """Do as `close_now`, but log a failure: for an instance that is given up because something else went wrong."""
    try:
        close_now(policy)
    except (Exception, SystemExit):
        logger.exception(_FAILED, route_key)


def close_soon(policy: Policy, route_key: str) -> None:
    """Close an instance that served requests: an `async` close goes on, on the running event loop, after the return.

    A failure is logged and stops nothing. Without a running loop the instance is closed when this returns.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        give_up(policy, route_key)
        return
    try:
        waiting = policy.close()
        if waiting is not None:
            task = loop.create_task(_awaited(waiting, route_key))
            _pending.add(task)
            task.add_done_callback(_pending.discard)
    except (Exception, SystemExit):
        logger.exception(_FAILED, route_key)


async def _closed(policy: Policy) -> None:
    waiting = policy.close()
    if waiting is not None:
        await asyncio.wait_for(waiting, CLOSE_SECONDS)


async def _awaited(waiting: Awaitable[None], route_key: str) -> None:
    try:
        await waiting
    except (Exception, SystemExit):
        logger.exception(_FAILED, route_key)
