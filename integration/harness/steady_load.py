"""A load that goes on at its rate whatever becomes of its requests, as clients do, and knows what failed and when.

Apart from `load`, whose connections each wait for an answer: those send less while something hangs, and so see less.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from integration.harness.exchange import HeaderList

MAX_SECONDS = 120.0
_REQUEST_S = 15.0
OPEN = "open"
"""The outcome of a request that passed without what its chain does."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request: when it was sent and answered (monotonic, seconds), and its status, or what broke."""

    at: float
    answered: float
    outcome: str

    @property
    def good(self) -> bool:
        """Whether it was answered as it should be."""
        return self.outcome == "200"


class SteadyLoad:
    """Sends `rate` requests a second to `target`, each on a connection of its own, until the context ends.

    `headers` go with each. With `mark`, an answer 200 without that text is OPEN: nothing of the chain has seen it.
    """

    def __init__(
        self, port: int, target: str, rate: float = 150.0, *, headers: HeaderList = (), mark: str = ""
    ) -> None:
        self.sent: list[Sent] = []
        self._port = port
        lines = [f"GET {target} HTTP/1.1", "host: load", "connection: close", *(f"{k}: {v}" for k, v in headers)]
        self._request = "\r\n".join([*lines, "", ""]).encode()
        self._mark = mark.encode()
        self._rate = rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="steady-load")

    @property
    def failed(self) -> list[Sent]:
        """Those that were not answered with 200."""
        return [one for one in self.sent if not one.good]

    def summary(self, since: float) -> str:
        """Say what was sent, what failed, and how long after `since` the last failure was sent."""
        failed = self.failed
        last = max((one.at for one in failed), default=since) - since
        kinds = dict(Counter(one.outcome for one in failed))
        return f"sent {len(self.sent)}, failed {len(failed)} {kinds}, recovered after {last:.1f} s"

    async def _run(self) -> None:
        began, number = time.monotonic(), 0
        going: set[asyncio.Task[None]] = set()
        while not self._stop.is_set() and time.monotonic() - began < MAX_SECONDS:
            task = asyncio.ensure_future(self._one())
            going.add(task)
            task.add_done_callback(going.discard)
            number += 1
            await asyncio.sleep(max(0.0, began + number / self._rate - time.monotonic()))
        if going:
            await asyncio.wait(going)

    async def _one(self) -> None:
        at = time.monotonic()
        outcome = "no answer"
        try:
            async with asyncio.timeout(_REQUEST_S):
                outcome = await self._ask()
        except OSError as error:  # TimeoutError is one
            outcome = type(error).__name__
        finally:
            self.sent.append(Sent(at, time.monotonic(), outcome))

    async def _ask(self) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(self._request)
            status = (await reader.readline()).split()
            rest = await reader.read()
            if len(status) < 2:
                return "closed"
            return OPEN if status[1] == b"200" and self._mark not in rest else status[1].decode()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
