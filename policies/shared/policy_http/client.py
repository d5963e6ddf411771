"""Calls to one server from an event loop: in threads, over connections that are kept, refused when too many wait."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from policy_http.address import Server, tls_context
from policy_http.calling import Answer, Call, CallFailed, Connection, Dropped
from policy_http.threads import Busy, Threads

T = TypeVar("T")
_AT_ONCE, _WAITING = 32, 256
_KEPT_SECONDS = 4.0  # an idle connection; most servers keep theirs for five seconds or more


class HttpClient:
    """Asks one server. Safe for use from any thread and any event loop.

    A call asks and changes nothing, as one whose kept connection ends before an answer is asked again, once.
    """

    def __init__(self, server: Server, *, at_once: int = _AT_ONCE, waiting: int = _WAITING) -> None:
        self.server = server
        self._threads = Threads(at_once, waiting)
        self._most_kept = at_once
        self._kept: deque[tuple[float, Connection]] = deque()
        self._lock = threading.Lock()
        self._context: tuple[object, ssl.SSLContext] | None = None
        self._closed = weakref.finalize(self, _close_all, self._kept)

    def start(self, call: Call, read: Callable[[Answer], T]) -> Future[T]:
        """Return what will have what `read`, in the thread, makes of the answer.

        It ends within the server's timeout, and raises CallFailed for what is no answer, or what `read` raises.
        """
        deadline = time.monotonic() + self.server.timeout
        try:
            return self._threads.start(lambda: read(self._ask(call, deadline)))
        except Busy:
            refused: Future[T] = Future()
            refused.set_exception(CallFailed("too many calls are waiting for the server"))
            return refused

    async def wait(self, started: Future[T]) -> T:
        """Return the result of a call that was started here; raises CallFailed when it takes too long."""
        try:
            async with asyncio.timeout(self.server.timeout):
                return await asyncio.wrap_future(started)
        except TimeoutError:
            raise CallFailed(f"no whole answer within {self.server.timeout:g} s") from None

    def close(self) -> None:
        """Close the connections that are kept."""
        self._closed()

    def _ask(self, call: Call, deadline: float) -> Answer:
        if time.monotonic() >= deadline:
            raise CallFailed(f"no whole answer within {self.server.timeout:g} s")
        kept = self._kept_connection()
        if kept is not None:
            try:
                return self._answer(kept, call, deadline)
            except Dropped:
                pass
        return self._answer(Connection(self.server, self._tls(), deadline), call, deadline)

    def _answer(self, connection: Connection, call: Call, deadline: float) -> Answer:
        answer = connection.call(call, deadline)
        if connection.reusable:
            with self._lock:
                if len(self._kept) < self._most_kept and self._closed.alive:
                    self._kept.append((time.monotonic() + _KEPT_SECONDS, connection))
                    return answer
            connection.close()
        return answer

    def _kept_connection(self) -> Connection | None:
        while True:
            with self._lock:
                if not self._kept:
                    return None
                until, connection = self._kept.pop()
            if time.monotonic() < until and connection.is_quiet():
                return connection
            connection.close()

    def _tls(self) -> ssl.SSLContext | None:
        """Return a context, a new one when the CA file is another: a renewed one counts from the next connection on."""
        if self.server.scheme == "http":
            return None
        try:
            version = None if self.server.ca_file is None else _version(self.server.ca_file)
            if self._context is None or self._context[0] != version:
                self._context = (version, tls_context(self.server.ca_file))
        except OSError as error:
            raise CallFailed(f"{type(error).__name__}: {error}") from error
        return self._context[1]


def _version(file: str) -> tuple[int, ...]:
    found = Path(file).stat()
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _close_all(kept: deque[tuple[float, Connection]]) -> None:
    while kept:
        kept.pop()[1].close()
