"""Sends thousands of requests that are all in flight at once: HTTP/2, so that few sockets carry them.

Apart from `load`, which sends steadily with a thread for each connection; here one loop holds every request.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamEnded, StreamReset
from h2.exceptions import NoAvailableStreamIDError, TooManyStreamsError

from integration.harness.exchange import HeaderList

MAX_REQUESTS = 20_000
CONNECTIONS = 100
"""Envoy at an edge takes 100 streams of each (`max_concurrent_streams` of what `envoy-config` writes)."""
_READ_SIZE = 1 << 18
_SENT_AT_ONCE = 50
"""Requests a connection sends before others have their turn."""

Classify = Callable[[str, int, HeaderList], str]
"""Says what a response to a target is, from its status and headers."""


async def burst(port: int, targets: Sequence[str], classify: Classify, *, timeout_s: float) -> Counter[str]:
    """Send a GET to each target at once, and return what `classify` makes of the responses once all have ended.

    What was broken off counts under the name of the event. Raises TimeoutError, and ValueError for too many.
    """
    if len(targets) > MAX_REQUESTS:
        raise ValueError(f"{len(targets)} requests; at most {MAX_REQUESTS}")
    outcomes: Counter[str] = Counter()
    async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
        for number in range(CONNECTIONS):
            group.create_task(_Share(port, targets[number::CONNECTIONS], classify, outcomes).run())
    return outcomes


class _Share:
    """The requests of one connection."""

    def __init__(self, port: int, targets: Sequence[str], classify: Classify, outcomes: Counter[str]) -> None:
        self._port = port
        self._targets = list(targets)
        self._classify = classify
        self._outcomes = outcomes
        self._h2 = H2Connection(H2Configuration(header_encoding="latin-1"))
        self._open: dict[int, str] = {}
        self._seen: dict[int, str] = {}

    async def run(self) -> None:
        """Send them all and wait for the end of each."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._h2.initiate_connection()
        writer.write(self._h2.data_to_send())
        while self._targets or self._open:
            data = await reader.read(_READ_SIZE)
            if not data:
                self._outcomes["connection closed"] += len(self._targets) + len(self._open)
                break
            for event in self._h2.receive_data(data):
                self._handle(event)
            while self._targets and self._send_some():
                writer.write(self._h2.data_to_send())
                await asyncio.sleep(0)
            writer.write(self._h2.data_to_send())
        writer.close()

    def _send_some(self) -> bool:
        for _ in range(min(_SENT_AT_ONCE, len(self._targets))):
            target = self._targets[-1]
            head = [(":method", "GET"), (":scheme", "http"), (":authority", "burst"), (":path", target)]
            try:
                stream = self._h2.get_next_available_stream_id()
                self._h2.send_headers(stream, head, end_stream=True)
            except (TooManyStreamsError, NoAvailableStreamIDError):
                return False  # the rest goes when others have ended
            self._targets.pop()
            self._open[stream] = target
        return True

    def _handle(self, event: Event) -> None:
        if isinstance(event, ResponseReceived):
            pairs = [(str(name), str(value)) for name, value in event.headers]
            self._seen[event.stream_id] = self._classify(self._open[event.stream_id], int(pairs[0][1]), pairs[1:])
        elif isinstance(event, DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            del self._open[event.stream_id]
            self._outcomes[self._seen.pop(event.stream_id)] += 1
        elif isinstance(event, StreamReset):
            del self._open[event.stream_id]
            self._outcomes["StreamReset"] += 1
        elif isinstance(event, ConnectionTerminated):
            self._outcomes["ConnectionTerminated"] += 1
