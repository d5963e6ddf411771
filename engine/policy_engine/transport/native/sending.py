"""What the server may send (RFC 9113 §5.2, §6.9): the client's windows, and payload that waits for them, in turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Final

from policy_engine.transport.native import frames
from policy_engine.transport.native.errors import ConnectionFault, ErrorCode, StreamFault
from policy_engine.transport.native.messages import PREFIX, PREFIX_SIZE
from policy_engine.transport.native.stream import Stream

_MESSAGE_HEAD: Final = Struct(">IBIBI")
"""Header of a DATA frame and, behind it, the prefix of the gRPC message that the frame holds whole."""

# One write hands at most this much waiting payload to the socket, which then says whether it can take more.
WRITE_BUDGET: Final = 1024 * 1024


class Sender:
    """Send side of one connection. `out` collects frames for the next write; `ended` is told of streams fully sent."""

    __slots__ = ("_blocked", "_ended", "budget", "initial", "max_frame", "out", "paused", "pending_bytes", "window")

    def __init__(self, out: list[bytes | memoryview], ended: Callable[[Stream], None]) -> None:
        self.out = out
        self._ended = ended
        self.window = frames.DEFAULT_WINDOW
        self.initial = frames.DEFAULT_WINDOW
        self.max_frame = frames.DEFAULT_FRAME_SIZE
        self.budget = WRITE_BUDGET
        self.paused = False
        """The socket takes no more for now."""
        self.pending_bytes = 0
        self._blocked: dict[Stream, None] = {}

    def send(self, stream: Stream, message: bytes) -> None:
        """Send or queue one gRPC message."""
        length = len(message)
        size = length + PREFIX_SIZE
        if (
            stream.pending is None
            and size <= self.window
            and size <= self.max_frame
            and size <= self.initial + stream.send_credit
            and not self.paused
        ):
            self.window -= size
            stream.send_credit -= size
            self.out += (_MESSAGE_HEAD.pack(size << 8, 0, stream.id, 0, length), message)
            return
        if stream.pending is None:
            stream.pending = deque()
        stream.pending.append(PREFIX.pack(0, length))
        if message:
            stream.pending.append(message)
        stream.pending_bytes += size
        self.pending_bytes += size
        self._blocked[stream] = None

    def window_update(self, increment: int) -> None:
        """Take a WINDOW_UPDATE of the connection."""
        self.window += increment
        if self.window > frames.MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "connection window above 2^31-1")

    def stream_window_update(self, stream: Stream, increment: int) -> None:
        """Take a WINDOW_UPDATE of a stream."""
        if self.initial + stream.send_credit + increment > frames.MAX_WINDOW:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "stream window above 2^31-1")
        stream.send_credit += increment
        if stream.pending is not None:
            self._blocked[stream] = None

    def change_initial(self, value: int, streams: dict[int, Stream]) -> None:
        """Apply SETTINGS_INITIAL_WINDOW_SIZE to all streams (§6.9.2)."""
        grows = value > self.initial
        self.initial = value
        if not grows:
            return
        for stream in streams.values():
            if stream.send_credit + value > frames.MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "stream window above 2^31-1 after SETTINGS")
            if stream.pending is not None:
                self._blocked[stream] = None

    def forget(self, stream: Stream) -> None:
        """Drop what a stream still wanted to send."""
        self._blocked.pop(stream, None)
        self.pending_bytes -= stream.pending_bytes
        stream.pending_bytes = 0
        stream.pending = None

    @property
    def ready(self) -> bool:
        """Whether `pump` has something to do."""
        return bool(self._blocked) and self.window > 0 and not self.paused

    def pump(self) -> None:
        """Send waiting payload, one frame of each stream in turn, until windows or the write budget are used up."""
        blocked = self._blocked
        while blocked and self.window > 0 and self.budget > 0 and not self.paused:
            stream = next(iter(blocked))
            del blocked[stream]
            size = min(self.window, self.initial + stream.send_credit, self.max_frame, stream.pending_bytes)
            if size <= 0:
                continue
            if stream.pending is not None:
                self._send_frame(stream, stream.pending, size)
            if stream.pending_bytes:
                blocked[stream] = None
                continue
            stream.pending = None
            if stream.end_block is not None:
                self._ended(stream)
            else:
                stream.resume()

    def _send_frame(self, stream: Stream, pending: deque[bytes | memoryview], size: int) -> None:
        self.window -= size
        self.budget -= size
        self.pending_bytes -= size
        stream.send_credit -= size
        stream.pending_bytes -= size
        self.out.append(frames.FRAME_HEADER.pack(size << 8, 0, stream.id))
        while size:
            part = pending.popleft()
            if len(part) > size:
                view = memoryview(part)
                self.out.append(view[:size])
                pending.appendleft(view[size:])
                return
            self.out.append(part)
            size -= len(part)
