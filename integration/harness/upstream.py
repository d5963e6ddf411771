"""A real upstream server for tests and the demo: records what reaches it and answers what it is told.

Runs in a thread of a test, so that the test scripts it; `upstream_process` runs the same server apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

import h11

from integration.harness import upstream_h1
from integration.harness.exchange import Answer, Received, Responder, echo
from integration.harness.upstream_h2 import H2Server

_READ_SIZE = 65536
_H2_PREFACE_START = b"PRI * HTTP/2.0"


async def start_server(record: Callable[[Received], None], respond: Responder, port: int = 0) -> asyncio.Server:
    """Serve HTTP/1.1 and cleartext HTTP/2 on one port of 127.0.0.1; port 0 takes a free one."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, h11.RemoteProtocolError, asyncio.CancelledError):
            first = await reader.read(_READ_SIZE)
            if first.startswith(_H2_PREFACE_START):
                await H2Server(reader, writer, record, respond).serve(first)
            elif first:
                await upstream_h1.serve(reader, writer, first, record, respond)
        writer.close()

    return await asyncio.start_server(connected, "127.0.0.1", port, backlog=1024)


class Upstream:
    """The server in a thread; `received` grows as requests arrive and `answer_with` changes what it answers."""

    def __init__(self) -> None:
        self.port = 0
        self.received: list[Received] = []
        self._responder: Responder = echo
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._answering = asyncio.Event()
        self._answering.set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), name="upstream")

    def answer_with(self, answer: Answer | Responder) -> None:
        """Answer every later request by `answer`, or by what it returns for that request."""
        self._responder = answer if callable(answer) else lambda _: answer

    def hold(self) -> None:
        """Keep back the answers of all requests that come from now on, until `release`."""
        self._loop.call_soon_threadsafe(self._answering.clear)

    def release(self) -> None:
        """Answer what was held, and go on."""
        self._loop.call_soon_threadsafe(self._answering.set)

    def reset(self) -> None:
        """Forget what was received and echo again."""
        self.received.clear()
        self._responder = echo

    def last(self) -> Received:
        """Return the newest request; raises IndexError when none arrived."""
        return self.received[-1]

    def _respond(self, request: Received) -> Answer:
        answer = self._responder(request)
        return answer if self._answering.is_set() else replace(answer, held=self._answering.wait)

    async def _serve(self) -> None:
        server = await start_server(self.received.append, self._respond)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()
