"""The upstream's cleartext HTTP/2 side (prior knowledge, RFC 9113, 3.3): one connection over the `h2` state machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset, TrailersReceived
from h2.settings import SettingCodes, Settings

from integration.harness.exchange import Answer, Received, Responder

_READ_SIZE = 65536
_STREAMS = 16_384


class H2Server:
    """Serves one connection; every stream is answered in its own task so that slow answers do not hold up others."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        record: Callable[[Received], None],
        respond: Responder,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._record = record
        self._respond = respond
        self._connection = H2Connection(H2Configuration(client_side=False, header_encoding="latin-1"))
        # Envoy sends what its cluster allows before it has seen our SETTINGS; h2 allows 100 unless told.
        self._connection.local_settings = Settings(
            client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: _STREAMS}
        )
        self._requests: dict[int, Received] = {}
        self._answers: dict[int, asyncio.Task[None]] = {}
        self._moved = asyncio.Condition()  # a window grew or a stream ended

    async def serve(self, first: bytes) -> None:
        """Serve until the peer closes; `first` are bytes already read from the connection."""
        self._connection.initiate_connection()
        data = first
        try:
            while data:
                for event in self._connection.receive_data(data):
                    self._handle(event)
                self._flush()
                async with self._moved:
                    self._moved.notify_all()
                data = await self._reader.read(_READ_SIZE)
        finally:
            for task in self._answers.values():
                task.cancel()
            await asyncio.gather(*self._answers.values(), return_exceptions=True)

    def _handle(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            pairs = [(str(name), str(value)) for name, value in event.headers]
            pseudo = {name: value for name, value in pairs if name.startswith(":")}
            headers = [(name, value) for name, value in pairs if not name.startswith(":")]
            headers.insert(0, ("host", pseudo.get(":authority", "")))
            request = Received(pseudo[":method"], pseudo[":path"], headers, "HTTP/2")
            self._requests[event.stream_id] = request
            self._record(request)
        elif isinstance(event, DataReceived):
            self._requests[event.stream_id].body += event.data
            self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, TrailersReceived):
            self._requests[event.stream_id].trailers = [(str(name), str(value)) for name, value in event.headers]
        elif isinstance(event, StreamEnded):
            request = self._requests.pop(event.stream_id)
            request.complete = True
            self._answers[event.stream_id] = asyncio.ensure_future(
                self._answer(event.stream_id, self._respond(request))
            )
        elif isinstance(event, StreamReset):
            self._requests.pop(event.stream_id, None)
            if answering := self._answers.pop(event.stream_id, None):
                answering.cancel()

    async def _answer(self, stream_id: int, answer: Answer) -> None:
        await self._send_answer(stream_id, answer)
        del self._answers[stream_id]

    async def _send_answer(self, stream_id: int, answer: Answer) -> None:
        if answer.held is not None:
            await answer.held()
        await asyncio.sleep(answer.delay_s)
        ends_with_headers = not answer.chunks and not answer.trailers
        self._connection.send_headers(
            stream_id, [(":status", str(int(answer.status))), *answer.headers], end_stream=ends_with_headers
        )
        self._flush()
        for number, chunk in enumerate(answer.chunks, 1):
            await asyncio.sleep(answer.chunk_delay_s)
            await self._send(stream_id, chunk, end=number == len(answer.chunks) and not answer.trailers)
        if answer.trailers:
            self._connection.send_headers(stream_id, answer.trailers, end_stream=True)
            self._flush()
        await self._writer.drain()

    async def _send(self, stream_id: int, data: bytes, *, end: bool) -> None:
        while True:
            window = self._connection.local_flow_control_window(stream_id)
            size = min(window, self._connection.max_outbound_frame_size, len(data))
            if size or not data:
                piece, data = data[:size], data[size:]
                self._connection.send_data(stream_id, piece, end_stream=end and not data)
                self._flush()
                if not data:
                    return
            else:
                async with self._moved:
                    await self._moved.wait()

    def _flush(self) -> None:
        self._writer.write(self._connection.data_to_send())
