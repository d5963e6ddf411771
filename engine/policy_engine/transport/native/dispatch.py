"""From a request's path to its handler, and what the connections and calls of one server share."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from policy_engine.kernel.stream import Replies, StreamError, StreamHandler, StreamHandlerFactory
from policy_engine.sdk.repeated_lines import RepeatedLines
from policy_engine.transport.counters import Counters
from policy_engine.transport.health import EXT_PROC_SERVICE, Health
from policy_engine.transport.native import headers
from policy_engine.transport.native.buffer_pool import BufferPool
from policy_engine.transport.native.call import Call
from policy_engine.transport.native.connection import Connection
from policy_engine.transport.native.health_service import HealthCheck, HealthWatch
from policy_engine.transport.options import Limits

repeated = RepeatedLines(logging.getLogger("policy_engine.transport"))

_CHECK, _WATCH = b"/grpc.health.v1.Health/Check", b"/grpc.health.v1.Health/Watch"
_HEALTH_PATHS = (_CHECK, _WATCH)
_HEALTH_STREAMS = 256


class Dispatcher:
    """Methods by path, tasks, and the shared counters, buffers and cache. Bound to the event loop of its server."""

    def __init__(
        self, handler_factory: StreamHandlerFactory, health: Health, limits: Limits, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.limits = limits
        self.max_message_bytes = limits.max_message_bytes
        self.counters = Counters()
        self.pool = BufferPool(limits.receive_buffer_bytes, loop.time, loop.call_later)
        self.head_cache: dict[bytes, headers.RequestHead] = {}
        self.tasks: set[asyncio.Task[Replies]] = set()
        """Coroutines of handlers that still run."""
        self.time = loop.time
        self.call_later = loop.call_later
        self._loop = loop
        self._methods: dict[bytes, Callable[[Call], StreamHandler]] = {
            f"/{EXT_PROC_SERVICE}/Process".encode(): lambda call: handler_factory(call.connection.peer),
            _CHECK: lambda call: HealthCheck(health),
            _WATCH: lambda call: HealthWatch(health, call.push),
        }

    def most_streams(self, head: headers.RequestHead) -> int:
        """Return how many streams may be open at once, on all connections, for one more such request to be taken.

        A server with all its streams in use is healthy: checks of that have a few of their own.
        """
        limit = self.limits.max_concurrent_streams
        return limit + _HEALTH_STREAMS if head.path in _HEALTH_PATHS else limit

    def open_stream(self, connection: Connection, stream_id: int, head: headers.RequestHead) -> Call | bytes:
        """Make the call of a request, or the response block that refuses it."""
        method = self._methods.get(head.path)
        if method is None:
            name = head.path[:128].decode("ascii", "replace")
            return headers.trailers_only(headers.UNIMPLEMENTED, f"unknown method {name}")
        call = Call(connection, stream_id, head, self)
        try:
            call.attach(method(call))
        except StreamError as error:
            call.cancel_deadline()
            return headers.trailers_only(error.status, error.message)
        except Exception:
            self.counters.handler_errors += 1
            repeated.log(logging.ERROR, "made", "stream handler could not be made", exc_info=True)
            call.cancel_deadline()
            return headers.trailers_only(headers.INTERNAL, "internal error")
        return call

    def start_task(self, coroutine: Coroutine[Any, Any, Replies]) -> asyncio.Task[Replies]:
        """Run a handler's coroutine. From Python 3.12 on it starts at once: one that need not wait is done already."""
        if sys.version_info >= (3, 12):
            task = asyncio.Task(coroutine, loop=self._loop, eager_start=True)
        else:
            task = asyncio.Task(coroutine, loop=self._loop)
        if not task.done():
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        return task
