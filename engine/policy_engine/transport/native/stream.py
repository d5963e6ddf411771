"""One HTTP/2 stream as the connection sees it: windows and which side is done. What the bytes mean, subclasses know."""

from __future__ import annotations

from collections import deque


class Stream:
    """State that flow control and the frame loop need; one object per stream, so it is slotted and has no dict."""

    __slots__ = (
        "answered",
        "content_left",
        "end_block",
        "ended",
        "granted",
        "half_closed",
        "held",
        "id",
        "pending",
        "pending_bytes",
        "send_credit",
        "window",
    )

    def __init__(self, stream_id: int, window: int, content_length: int) -> None:
        self.id = stream_id
        self.window = window
        """What the client may still send."""
        self.held = 0
        """Bytes received that still occupy memory."""
        self.granted = 0
        """Bytes reserved for this stream in the shared pool."""
        self.content_left = content_length
        """What `content-length` promises and has not come yet; -1 when it was not given."""
        self.send_credit = 0
        """Send window minus the client's SETTINGS_INITIAL_WINDOW_SIZE, so that changing that touches no stream."""
        self.pending: deque[bytes | memoryview] | None = None
        """Payload that waits for windows; None when nothing waits."""
        self.pending_bytes = 0
        self.end_block: bytes | None = None
        """Trailers that follow the pending payload."""
        self.answered = False
        """Response headers were sent."""
        self.half_closed = False
        """The client has sent END_STREAM."""
        self.ended = False
        """We have decided to end the stream; what the client still sends is of no interest."""

    def data_received(self, chunk: bytes) -> int:
        """Take payload; returns the bytes of the stream that now stay in memory."""
        raise NotImplementedError

    def end_received(self) -> None:
        """Take note that the client has half-closed the stream."""
        raise NotImplementedError

    def missing(self) -> int:
        """Bytes the client must still send before anything held can be used; 0 when that is not known."""
        raise NotImplementedError

    def resume(self) -> None:
        """Go on: everything pending was sent, or the connection has room for replies again."""
        raise NotImplementedError

    def terminated(self) -> None:
        """The stream is gone from the connection, for whatever reason. Called exactly once."""
        raise NotImplementedError

    def fail(self, status: int, message: str) -> None:
        """End the stream with this gRPC status."""
        raise NotImplementedError
