"""Where bodies are decoded and encoded: small ones at once, all others in threads, so that they hold up nobody.

Threads serve here because zlib and brotli let go of Python's global lock while they compute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from policy_engine.kernel.content_coding import BodyTooLarge, decode, encode

AT_ONCE = 64 * 1024
"""Bytes of a decoded body up to which a thread costs more than the work, which is some milliseconds at most."""

_threads = ThreadPoolExecutor(4, "content-coding")


def decoded(body: bytes, codings: tuple[str, ...], limit: int) -> bytes | Coroutine[Any, Any, bytes]:
    """Return `body` with `codings` undone, or a coroutine of it; both raise as `decode` does."""
    if not codings or limit <= AT_ONCE:
        return decode(body, codings, limit)
    if len(body) <= AT_ONCE:
        try:
            return decode(body, codings, AT_ONCE)
        except BodyTooLarge:
            pass  # for here; a thread begins again
    return _in_thread(decode, body, codings, limit)


def encoded(body: bytes, codings: tuple[str, ...]) -> bytes | Coroutine[Any, Any, bytes]:
    """Return `body` with `codings` applied again, or a coroutine of it."""
    if not codings or len(body) <= AT_ONCE:
        return encode(body, codings)
    return _in_thread(encode, body, codings)


async def _in_thread(work: Any, *args: Any) -> bytes:
    result: bytes = await asyncio.get_running_loop().run_in_executor(_threads, work, *args)
    return result
