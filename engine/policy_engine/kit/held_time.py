"""Warns authors whose body hooks hold the event loop: in a test one request is alone, in an engine thousands wait.

A separate module because the kit has no helper processes: what a policy offloads is done in place here, as its own
copy would do it, and must not be counted.
"""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from policy_engine.sdk import Chunk, Policy, Request, Response
from policy_engine.worker.offload import frames
from policy_engine.worker.offload.job import Unpicklable, call_of, explained

MOST_SECONDS = 0.02
"""What no hook may take of the event loop, whatever the body."""


class HeldTimeWarning(UserWarning):
    """A body hook held the event loop for longer than any may; the message has the time and the size of the body."""


class Stopwatch:
    """Measures what body hooks compute on the event loop, without what they offload.

    In processor time: how busy the machine is that runs the test says nothing about the policy.
    """

    def __init__(self) -> None:
        self._offloaded = 0.0

    @contextmanager
    def offloading(self, policies: Sequence[Policy]) -> Generator[None]:
        """Let policies that no engine has made offload: in place, with arguments that a helper could be sent."""
        own = [one for one in policies if one._away is None]
        for policy in own:
            policy._away = self._away(policy)
        try:
            yield
        finally:
            for policy in own:
                del policy._away

    def timed(self, name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        """Return a body hook (`Class.method`) of the same arguments that warns when it took too long."""

        def call(*arguments: Any) -> Any:
            size = _size(arguments)
            result = self._step(name, size, lambda: hook(*arguments))
            return _Steps(self, name, size, result) if inspect.isawaitable(result) else result

        return call

    def _step(self, name: str, size: int, step: Callable[[], Any]) -> Any:
        self._offloaded, began = 0.0, time.thread_time()
        try:
            return step()
        finally:
            held = time.thread_time() - began - self._offloaded
            if held > MOST_SECONDS:
                warnings.warn(
                    f"{name} held the event loop for {held * 1000:.0f} ms with a body of {size:,} bytes; no hook may "
                    f"for longer than {MOST_SECONDS * 1000:.0f} ms, as all other requests wait meanwhile. Leave work "
                    "that grows with the body to `self.offload` or `self.offload_large`",
                    HeldTimeWarning,
                    stacklevel=2,
                )

    def _away(self, policy: Policy) -> Callable[[Callable[..., Any], tuple[Any, ...]], Awaitable[Any]]:
        async def away(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
            began = time.thread_time()
            try:
                name, sent = call_of(policy, function)
                try:
                    frames.encode((name, sent, *arguments))
                except Unpicklable as error:
                    raise explained(error, function) from None
                return function(*arguments)
            finally:
                self._offloaded += time.thread_time() - began

        return away


class _Steps:
    """An awaitable whose steps on the loop are measured one by one."""

    def __init__(self, watch: Stopwatch, name: str, size: int, waiting: Awaitable[Any]) -> None:
        self._watch, self._name, self._size, self._waiting = watch, name, size, waiting

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._waiting.__await__()
        resume: Callable[[], Any] = inner.__next__
        while True:
            try:
                pending = self._watch._step(self._name, self._size, resume)
            except StopIteration as end:
                return end.value
            try:
                yield pending
                resume = inner.__next__
            except BaseException as error:
                throw = getattr(inner, "throw", None)
                if throw is None:
                    raise
                resume = partial(throw, error)


def _size(arguments: Sequence[Any]) -> int:
    """Return the bytes of the body that a hook is given."""
    last = arguments[-1]
    body = last.data if isinstance(last, Chunk) else last.body if isinstance(last, Request | Response) else b""
    return len(body or b"")
