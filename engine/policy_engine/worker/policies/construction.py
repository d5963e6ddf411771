"""Authors' code and slow checks run on threads that may be left behind, so that none of it can hold up the engine.

A separate module because Python cannot end a thread: whoever waits for one has to be able to go on without it, and the
threads that were left have to be counted.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import json
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from policy_engine.sdk import Policy

MOST_LEFT_BEHIND = 64
"""Threads that may hang at once; with so many, something is wrong that more of them will not show."""

_GRACE_SECONDS = 0.2

_T = TypeVar("_T")
_P = ParamSpec("_P")

_left_behind: dict[object, threading.Thread] = {}


class Overrun(TimeoutError):
    """The code did not return in time; the message says where it was last."""


def within(seconds: float, key: object, work: Callable[[], _T]) -> _T:
    """Return what `work` returns or raise what it raises; raises Overrun after `seconds`.

    Code that goes on in Python is broken off. What waits in C (a socket without a timeout) is left behind on its
    thread; while it is, work with the same `key` is refused at once, so that trying again and again piles nothing up.
    """
    for one in [one for one, thread in _left_behind.items() if not thread.is_alive()]:
        del _left_behind[one]
    left = _left_behind.get(key)
    if left is not None:
        raise Overrun(f"has not returned from an earlier attempt{_place(left)}")
    if len(_left_behind) >= MOST_LEFT_BEHIND:
        raise Overrun(f"was not tried: {MOST_LEFT_BEHIND} others hang already")
    outcome: list[Callable[[], _T]] = []

    def run() -> None:
        try:
            value = work()
        except BaseException as error:
            outcome.append(_raises(error))
        else:
            outcome.append(lambda: value)

    thread = threading.Thread(target=run, name="bounded", daemon=True)
    thread.start()
    thread.join(seconds)
    if outcome:
        return outcome[0]()
    place = _place(thread)
    _break_off(thread)
    if thread.is_alive():
        _left_behind[key] = thread
    raise Overrun(f"did not return within {seconds:g} s{place}")


def construct(policy_class: type[Policy], parameters: Mapping[str, Any], seconds: float) -> Policy:
    """Return a policy with these parameters; raises what its constructor raises, or Overrun after `seconds`."""
    content = json.dumps(parameters, sort_keys=True, default=repr)
    # Parameters may hold secrets: what is kept of them is a hash.
    key = (policy_class, hashlib.sha256(content.encode()).digest())
    return within(seconds, key, lambda: policy_class(parameters))


async def off_loop(work: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run `work` on a thread like `asyncio.to_thread`, but on one that a process which ends does not wait for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def deliver(put: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            put(value)

    def run() -> None:
        put: Callable[[Any], None] = future.set_result
        value: Any
        try:
            value = work(*args, **kwargs)
        except BaseException as error:
            put, value = future.set_exception, error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(deliver, put, value)

    threading.Thread(target=run, name=getattr(work, "__name__", "off-loop"), daemon=True).start()
    return await future


def _raises(error: BaseException) -> Callable[[], Any]:
    def again() -> Any:
        raise error

    return again


def _break_off(thread: threading.Thread) -> None:
    """Raise SystemExit in the thread, which Python does as soon as it runs Python code there again."""
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
    thread.join(_GRACE_SECONDS)


def _place(thread: threading.Thread) -> str:
    frame: FrameType | None = sys._current_frames().get(thread.ident or 0)
    stack = traceback.extract_stack(frame) if frame is not None else []
    return f"; it is at {stack[-1].filename}:{stack[-1].lineno}" if stack else ""
