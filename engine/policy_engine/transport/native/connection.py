"""The HTTP/2 connection of a server (RFC 9113) without sockets or clock: bytes in, calls of streams and bytes out.

All frames of one `receive` are handled in one go and their answers collected in `out`, so that one read of the socket
leads to one write, or to a few when the policies take long. Nothing here is a task or a queue; that is where the speed
comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from policy_engine.kernel.stream import Peer
from policy_engine.transport.counters import Counters
from policy_engine.transport.native import frames
from policy_engine.transport.native.buffer_pool import BufferPool
from policy_engine.transport.native.errors import ConnectionFault, ErrorCode, StreamFault
from policy_engine.transport.native.floods import Allowances
from policy_engine.transport.native.flow_control import ReceiveFlow
from policy_engine.transport.native.frame_reader import FrameReader
from policy_engine.transport.native.header_block import HeaderBlockReader
from policy_engine.transport.native.headers import TABLE_SIZE_ZERO, HeaderDecoder, MalformedHeaders, RequestHead
from policy_engine.transport.native.peer_settings import parse_settings
from policy_engine.transport.native.sending import WRITE_BUDGET, Sender
from policy_engine.transport.native.stream import Stream
from policy_engine.transport.options import Limits

_DRAIN_PING: Final = b"draining"
_RECENTLY_ENDED: Final = 4096

_LONGEST_BATCH_SECONDS: Final = 0.002
"""How long the answers of one read are collected before those that are ready go out.

Without a bound the first of 500 messages (256 KB, what asyncio reads at once) waits 20 ms for the last. A quarter of
this gives five policies behind a busy Envoy 4 % more requests a second, and costs 6 % more CPU for each.
"""


class Surroundings(Protocol):
    """What all connections of a server share, and what a connection needs from outside."""

    limits: Limits
    counters: Counters
    pool: BufferPool
    head_cache: dict[bytes, RequestHead]

    def time(self) -> float:
        """Seconds of a monotonic clock."""
        ...

    def most_streams(self, head: RequestHead) -> int:
        """Return how many streams may be open at once, on all connections, for one more such request to be taken."""
        ...

    def open_stream(self, connection: Connection, stream_id: int, head: RequestHead) -> Stream | bytes:
        """Make the stream of a request, or a response block that ends it at once."""
        ...


class Connection:
    """One connection, server side. `wake` is called when output appears outside of `receive`, `write` when what is in
    `out` should not wait for the end of `receive`.
    """

    def __init__(self, surroundings: Surroundings, wake: Callable[[], None], write: Callable[[], None]) -> None:
        limits = surroundings.limits
        self.counters = surroundings.counters
        self.streams: dict[int, Stream] = {}
        self.out: list[bytes | memoryview] = []
        self.sender = Sender(self.out, self._end_sent)
        self.flow = ReceiveFlow(
            limits.connection_window_bytes,
            limits.stream_window_bytes,
            surroundings.pool,
            self.streams,
            self._send_control,
        )
        self.peer = Peer()
        """What the handlers of this connection share."""
        self.settings_acknowledged = False
        self.finished = False
        """Nothing more is to be read: write what is left in `out` and close."""
        self._surroundings = surroundings
        self._wake = wake
        self._write = write
        self._time = surroundings.time
        self._write_at = 0.0
        self.send_limit = limits.send_buffer_bytes
        self._limits = limits
        self._allowances = Allowances(surroundings.time)
        self._decoder = HeaderDecoder(limits.max_header_list_bytes, surroundings.head_cache)
        self._block_reader = HeaderBlockReader(4 * limits.max_header_list_bytes)
        self._reader = FrameReader(limits.max_frame_bytes, self._frame)
        self._settings_seen = False
        self._gate = True
        """The next frame must be a certain one: the first SETTINGS, or CONTINUATION."""
        self._last_id = 0
        self._opened = 0
        self._late_resets = 0
        self._highest_served = frames.MAX_STREAM_ID
        self._ended: dict[int, None] = {}
        self._first_block = True
        self._draining = False
        self._stalled: dict[Stream, None] = {}
        self.receiving = False
        """`receive` is at work and collects all output."""
        self.out.append(
            frames.settings(
                {
                    frames.HEADER_TABLE_SIZE: 0,
                    frames.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
                    frames.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
                    frames.MAX_FRAME_SIZE: limits.max_frame_bytes,
                    frames.MAX_HEADER_LIST_SIZE: limits.max_header_list_bytes,
                }
            )
        )
        self.out.append(frames.window_update(0, limits.connection_window_bytes - frames.DEFAULT_WINDOW))

    # -- bytes in -----------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Handle what came from the client. Violations end the connection through `finished`, never by an exception."""
        if self.finished:
            return
        self.counters.bytes_in += len(data)
        self.receiving = True
        self._write_at = self._time() + _LONGEST_BATCH_SECONDS
        try:
            self._reader.feed(data)
            self.settle()
        except ConnectionFault as fault:
            self.fail(fault.code, fault.reason)
        finally:
            self.receiving = False

    def settle(self) -> None:
        """Do what is better done once per batch: waiting payload, windows, the end of a drained connection."""
        if self.sender.ready:
            self.sender.pump()
        if self.flow.wanting:
            self.flow.replenish()
        if self._stalled and not self.saturated:
            stalled, self._stalled = self._stalled, {}
            for stream in stalled:
                if stream.id in self.streams:
                    stream.resume()
        if self._highest_served != frames.MAX_STREAM_ID and not self.streams:
            self.finished = True

    def take_output(self) -> bytes:
        """Return all frames made so far as one piece for one write."""
        output = b"".join(self.out)
        self.out.clear()
        self.sender.budget = WRITE_BUDGET
        self.counters.bytes_out += len(output)
        return output

    def wake(self) -> None:
        """There may be output that no `receive` is going to collect."""
        if not self.receiving:
            self._wake()

    @property
    def saturated(self) -> bool:
        """So many replies wait for the client that no further messages should be handled."""
        return self.sender.pending_bytes > self.send_limit

    def stall(self, stream: Stream) -> None:
        """Resume this stream when the connection is no longer saturated."""
        self._stalled[stream] = None

    def _frame(  # noqa: PLR0917 # keywords would cost time for every frame
        self, kind: int, flags: int, stream_id: int, data: bytes, start: int, stop: int
    ) -> None:
        if self._gate:
            self._check_gate(kind, flags, stream_id)
        try:
            if kind == frames.DATA:
                self._data(stream_id, flags, data, start, stop)
            elif kind == frames.HEADERS:
                self._headers(stream_id, flags, data[start:stop])
            elif kind == frames.RST_STREAM:
                self._rst_stream(stream_id, stop - start)
            elif kind == frames.WINDOW_UPDATE:
                self._window_update(stream_id, data[start:stop])
            else:
                self._other(kind, flags, stream_id, data[start:stop])
        except StreamFault as fault:
            self._stream_fault(stream_id, fault)

    def _check_gate(self, kind: int, flags: int, stream_id: int) -> None:
        if not self._settings_seen:
            if kind != frames.SETTINGS or flags & frames.ACK:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "first frame is not SETTINGS")
            self._settings_seen = True
            self._gate = False
        elif kind != frames.CONTINUATION or stream_id != self._block_reader.stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected CONTINUATION of an open header block")

    # -- DATA ---------------------------------------------------------------------------------------------------------

    def _data(self, stream_id: int, flags: int, data: bytes, start: int, stop: int) -> None:
        size = stop - start
        flow = self.flow
        flow.window -= size
        if flow.window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "connection window exceeded")
        if flags & frames.PADDED:
            start, stop = frames.without_padding(data, start, stop)
        stream = self.streams.get(stream_id)
        if stream is None:
            self._on_closed(stream_id, "DATA")
            return
        stream.window -= size
        ending = flags & frames.END_STREAM
        if stream.window < 0 or stream.half_closed or stream.content_left >= 0:
            self._check_data(stream, stop - start, bool(ending))
        if ending:
            stream.half_closed = True
        if start != stop:
            held = stream.data_received(data[start:stop])
            if held or stream.held:
                flow.settle(stream, stop - start, held)
            if self._time() > self._write_at:
                self._write_early()
        elif not ending:
            self._allowances.empty_frames.spend()
        if ending:
            stream.end_received()
        elif stream.window < flow.stream_low:
            flow.replenish_stream(stream)

    def _write_early(self) -> None:
        if self.out:
            self._write()
        self._write_at = self._time() + _LONGEST_BATCH_SECONDS

    def _check_data(self, stream: Stream, size: int, ending: bool) -> None:
        if stream.window < 0:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "stream window exceeded")
        if stream.half_closed:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "DATA after END_STREAM")
        stream.content_left -= size
        if stream.content_left < 0 or (ending and stream.content_left):
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "content-length differs from the DATA sent")

    # -- HEADERS and CONTINUATION -------------------------------------------------------------------------------------

    def _headers(self, stream_id: int, flags: int, payload: bytes) -> None:
        if not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        block = self._block_reader.begin(stream_id, flags, payload)
        if block is None:
            self._gate = True
        else:
            self._block(stream_id, block, self._block_reader.ending)

    def _continuation(self, stream_id: int, flags: int, payload: bytes) -> None:
        block = self._block_reader.resume(flags, payload)
        if block is not None:
            self._gate = False
            self._block(stream_id, block, self._block_reader.ending)

    def _block(self, stream_id: int, block: bytes, ending: bool) -> None:
        if stream_id <= self._last_id:
            self._trailers(stream_id, block, ending)
            return
        self._last_id = stream_id
        try:
            head = self._decoder.request(block)
        except MalformedHeaders as error:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, str(error)) from None
        counters = self.counters
        if stream_id > self._highest_served:
            # The client has not seen our GOAWAY yet; it will send the request elsewhere (RFC 9113 §6.8).
            self._remember(stream_id)
            return
        # Of the server, not of the connection: a client may have many of those.
        active = counters.streams_active + counters.lingering
        if active >= self._limits.max_concurrent_streams and active >= self._surroundings.most_streams(head):
            raise StreamFault(ErrorCode.REFUSED_STREAM, "too many concurrent streams")
        if ending and head.content_length > 0:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "content-length without content")
        stream = head.rejection or self._surroundings.open_stream(self, stream_id, head)
        counters.streams_total += 1
        if isinstance(stream, bytes):
            self._answer(stream_id, stream, ending)
            return
        counters.streams_active += 1
        self._opened += 1
        self.streams[stream_id] = stream
        if ending:
            stream.half_closed = True
            stream.end_received()

    def _trailers(self, stream_id: int, block: bytes, ending: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is None and stream_id not in self._ended:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"HEADERS on closed stream {stream_id}")
        try:
            self._decoder.trailers(block)
        except MalformedHeaders as error:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, str(error)) from None
        if stream is None:
            return
        if stream.half_closed:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM")
        if not ending or stream.content_left > 0:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "trailers without END_STREAM or before the promised content")
        stream.half_closed = True
        stream.end_received()

    # -- other frames -------------------------------------------------------------------------------------------------

    def _rst_stream(self, stream_id: int, length: int) -> None:
        if length != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes")
        self._check_not_idle(stream_id, "RST_STREAM")
        self.counters.resets_received += 1
        stream = self.streams.get(stream_id)
        if stream is None:
            # Envoy half-closes a stream and resets it at once, so that each stream may have one reset after its end.
            self._late_resets += 1
            if self._late_resets > self._opened:
                self._allowances.empty_frames.spend()
            return
        if not stream.answered:
            self._allowances.premature_resets.spend()
        self._forget(stream)

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes")
        self._allowances.window_updates.spend()
        increment = frames.uint32(payload) & frames.MAX_WINDOW
        if stream_id == 0:
            if increment == 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            self.sender.window_update(increment)
            return
        self._check_not_idle(stream_id, "WINDOW_UPDATE")
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        if increment == 0:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        self.sender.stream_window_update(stream, increment)

    def _other(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.SETTINGS:
            self._on_connection(stream_id, "SETTINGS")
            self._settings(flags, payload)
        elif kind == frames.PING:
            self._on_connection(stream_id, "PING")
            self._ping(flags, payload)
        elif kind == frames.CONTINUATION:
            self._continuation(stream_id, flags, payload)
        elif kind == frames.GOAWAY:
            self._on_connection(stream_id, "GOAWAY")
            if len(payload) < 8:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is shorter than 8 bytes")
            self._allowances.empty_frames.spend()
            self.counters.goaways_received += 1
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        elif kind == frames.PRIORITY:
            if stream_id == 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
            self._allowances.empty_frames.spend()
            if len(payload) != 5:
                if stream_id > self._last_id:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes")
                raise StreamFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes")
        else:
            # Unknown types are ignored (RFC 9113 §4.1, §5.5), but not without end.
            self._allowances.empty_frames.spend()

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with payload")
            self._allowances.settings.spend()
            if self.settings_acknowledged:
                self.flow.settings_acknowledged()
            else:
                self.settings_acknowledged = True
                self._decoder.settings_acknowledged()
            return
        self._allowances.settings.spend()
        settings = parse_settings(payload)
        if settings.max_frame is not None:
            self.sender.max_frame = settings.max_frame
        if settings.initial_window is not None:
            self.sender.change_initial(settings.initial_window, self.streams)
        self.out.append(frames.SETTINGS_ACK)

    def _ping(self, flags: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING is not 8 bytes")
        self._allowances.pings.spend()
        if not flags & frames.ACK:
            self.out.append(frames.ping(payload, ack=True))
        elif payload == _DRAIN_PING and self._draining:
            self.finish_drain()

    def _on_connection(self, stream_id: int, name: str) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{name} on stream {stream_id}")

    def _check_not_idle(self, stream_id: int, name: str) -> None:
        if stream_id == 0 or not stream_id & 1 or stream_id > self._last_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{name} on idle stream {stream_id}")

    def _on_closed(self, stream_id: int, name: str) -> None:
        self._check_not_idle(stream_id, name)
        if stream_id not in self._ended:
            raise StreamFault(ErrorCode.STREAM_CLOSED, f"{name} on closed stream")
        self._allowances.empty_frames.spend()

    # -- replies ------------------------------------------------------------------------------------------------------

    def send_headers(self, stream_id: int, block: bytes, *, end_stream: bool = False) -> None:
        """Send response headers or trailers."""
        if self._first_block:
            self._first_block = False
            block = TABLE_SIZE_ZERO + block
        flags = frames.END_HEADERS | frames.END_STREAM if end_stream else frames.END_HEADERS
        # Our blocks always fit one frame of the smallest allowed size.
        self.out += (frames.FRAME_HEADER.pack(len(block) << 8 | frames.HEADERS, flags, stream_id), block)

    def end(self, stream: Stream, block: bytes) -> None:
        """End a stream with this block, after all its pending payload."""
        stream.end_block = block
        if stream.pending is None:
            self._end_sent(stream)

    def _end_sent(self, stream: Stream) -> None:
        if stream.end_block is not None:
            self._answer(stream.id, stream.end_block, stream.half_closed)
        self._forget(stream)

    def _answer(self, stream_id: int, block: bytes, half_closed: bool) -> None:
        self.send_headers(stream_id, block, end_stream=True)
        if not half_closed:
            # The client need not go on sending (RFC 9113 §8.1).
            self._send_reset(stream_id, ErrorCode.NO_ERROR)

    def _send_reset(self, stream_id: int, code: ErrorCode) -> None:
        self._remember(stream_id)
        self.counters.resets_sent += 1
        self.out.append(frames.rst_stream(stream_id, code))

    def _remember(self, stream_id: int) -> None:
        """Frames of this stream may still be under way and are no fault of the client."""
        self._ended[stream_id] = None
        if len(self._ended) > _RECENTLY_ENDED:
            del self._ended[next(iter(self._ended))]

    def _forget(self, stream: Stream) -> None:
        del self.streams[stream.id]
        self.counters.streams_active -= 1
        stream.ended = True
        if stream.pending is not None:
            self.sender.forget(stream)
        if stream.held or stream.granted:
            self.flow.forget(stream)
        self._stalled.pop(stream, None)
        stream.terminated()

    def _send_control(self, frame: bytes) -> None:
        self.out.append(frame)
        self.wake()

    # -- faults and the end -------------------------------------------------------------------------------------------

    def _stream_fault(self, stream_id: int, fault: StreamFault) -> None:
        self.counters.protocol_error(fault.code.name)
        self._allowances.faults.spend()
        self._send_reset(stream_id, fault.code)
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._forget(stream)

    def fail(self, code: ErrorCode, reason: str) -> None:
        """End the connection with GOAWAY and all its streams with it."""
        if self.finished:
            return
        self.finished = True
        if code is not ErrorCode.NO_ERROR:
            self.counters.protocol_error(code.name)
        self._goaway(self._last_id, code, reason)
        self.abandon()

    def abandon(self) -> None:
        """Drop all streams: there is nobody left to answer."""
        self.finished = True
        for stream in tuple(self.streams.values()):
            self._forget(stream)

    def start_drain(self) -> None:
        """Ask the client to open no more streams, and find out by PING when it knows (RFC 9113 §6.8)."""
        if not self._draining and not self.finished:
            self._draining = True
            self._goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR, "draining")
            self.out.append(frames.ping(_DRAIN_PING, ack=False))
            self.wake()

    def finish_drain(self) -> None:
        """Take no new streams from now on; the connection finishes with its last stream."""
        if not self.finished and self._highest_served == frames.MAX_STREAM_ID:
            self._highest_served = self._last_id
            self._goaway(self._last_id, ErrorCode.NO_ERROR, "draining")
            self.wake()

    def _goaway(self, last_id: int, code: ErrorCode, reason: str) -> None:
        self.counters.goaways_sent += 1
        self.out.append(frames.goaway(last_id, code, reason))
