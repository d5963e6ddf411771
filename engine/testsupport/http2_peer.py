"""A client for tests that sends any frames and reads the answers with `hyperframe`, not with our own code."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable
from typing import cast

import hpack
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from policy_engine.transport.health import Health
from policy_engine.transport.native.connection import Connection
from policy_engine.transport.native.dispatch import Dispatcher
from policy_engine.transport.native.frames import PREFACE
from policy_engine.transport.options import Limits
from testsupport.transport import PROCESS, Recorder, scripted

REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PROCESS),
    (":authority", "engine"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)


class FakeLoop:
    """As much of an event loop as handlers without coroutines need. Only the test moves its time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        """Return the test's time."""
        return self.now

    def get_debug(self) -> bool:
        """Timers ask for it."""
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Timers report here."""

    def call_later(self, delay: float, callback: Callable[..., object]) -> asyncio.TimerHandle:
        """Remember the timer."""
        handle = asyncio.TimerHandle(self.now + delay, callback, (), cast(asyncio.AbstractEventLoop, self))
        self._timers.append(handle)
        return handle

    def advance(self, seconds: float) -> None:
        """Move time and call the timers that are due."""
        self.now += seconds
        due = [timer for timer in self._timers if timer.when() <= self.now and not timer.cancelled()]
        self._timers = [timer for timer in self._timers if timer.when() > self.now]
        for timer in due:
            timer._run()


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Encode a header block without dynamic table, so that blocks can be sent in any order."""
    return bytes(hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields]))


def grpc_message(payload: bytes, compressed: int = 0) -> bytes:
    """A length-prefixed message."""
    return struct.pack(">BI", compressed, len(payload)) + payload


def headers_frame(
    stream_id: int, fields: Iterable[tuple[str, str]] = REQUEST, flags: Iterable[str] = ("END_HEADERS",)
) -> HeadersFrame:
    """HEADERS of a request."""
    return HeadersFrame(stream_id, block(fields), flags=list(flags))


def data_frame(stream_id: int, data: bytes, *, end: bool = False) -> DataFrame:
    """DATA."""
    return DataFrame(stream_id, data, flags=["END_STREAM"] if end else [])


def window_update(stream_id: int, increment: int) -> WindowUpdateFrame:
    """WINDOW_UPDATE."""
    return WindowUpdateFrame(stream_id, window_increment=increment)


def raw_frame(kind: int, flags: int, stream_id: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """Any frame at all, also a wrong one."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload


class RawPeer:
    """A connection to the state machine, without sockets."""

    def __init__(self, recorder: Recorder | None = None, limits: Limits | None = None) -> None:
        self.recorder = Recorder(scripted) if recorder is None else recorder
        self.loop = FakeLoop()
        self.health = Health(serving=True)
        self.dispatcher = Dispatcher(
            self.recorder, self.health, limits or Limits(), cast(asyncio.AbstractEventLoop, self.loop)
        )
        self.wakes = 0
        self.early: list[list[Frame]] = []
        """Frames of each write that did not wait for the end of `send`."""
        self.connection = Connection(self.dispatcher, self._woken, self._write_early)
        self._decoder = hpack.Decoder()

    def _woken(self) -> None:
        self.wakes += 1

    def _write_early(self) -> None:
        self.early.append(parse_frames(self.connection.take_output()))

    def handshake(self, settings: dict[int, int] | None = None, *, acknowledge: bool = True) -> list[Frame]:
        """Send preface, SETTINGS and ACK; returns what the server sent."""
        acknowledgement = [SettingsFrame(0, flags=["ACK"])] if acknowledge else []
        return self.send(PREFACE, SettingsFrame(0, settings=settings or {}), *acknowledgement)

    def open(self, stream_id: int, *messages: bytes, end: bool = False) -> list[Frame]:
        """Send a request with these messages."""
        request = [headers_frame(stream_id)]
        # The first block after our ACK has to announce the empty table.
        request[0].data = b"\x20" + request[0].data
        return self.send(
            *request,
            *(
                data_frame(stream_id, grpc_message(message), end=end and n == len(messages) - 1)
                for n, message in enumerate(messages)
            ),
        )

    def send(self, *parts: Frame | bytes) -> list[Frame]:
        """Send frames in one piece; returns the frames of the answer."""
        self.connection.receive(b"".join(part if isinstance(part, bytes) else part.serialize() for part in parts))
        return self.output()

    def output(self) -> list[Frame]:
        """Take what the server wants to send."""
        self.connection.settle()
        return parse_frames(self.connection.take_output())

    def fields(self, frame: Frame) -> dict[str, str]:
        """Decode the block of a HEADERS frame; every one must be decoded, in order."""
        if not isinstance(frame, HeadersFrame):
            raise TypeError(f"expected HEADERS, got {frame!r}")
        return {_text(name): _text(value) for name, value in self._decoder.decode(frame.data)}

    def end(self) -> None:
        """Lose the connection, and check that nothing is left of it; raises AssertionError."""
        self.connection.abandon()
        left = {
            "unbalanced handlers": not self.recorder.balanced,
            "active streams": self.dispatcher.counters.streams_active,
            "held bytes": self.connection.flow.held,
            "reserved bytes": self.dispatcher.pool.capacity - self.dispatcher.pool.available,
            "waiting for room": self.dispatcher.pool.contended,
            "pending bytes": self.connection.sender.pending_bytes,
            "blocked streams": self.connection.sender.ready,
        }
        if any(left.values()):
            raise AssertionError(f"left after the end: {left}")

    @property
    def finished(self) -> bool:
        """The server wants to close the connection."""
        return self.connection.finished


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


def parse_frames(data: bytes) -> list[Frame]:
    """Frames of complete output."""
    frames = []
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        frames.append(frame)
        data = data[9 + length :]
    return frames


def goaway_code(frames: Iterable[Frame]) -> int | None:
    """Error code of the last GOAWAY."""
    codes = [frame.error_code for frame in frames if isinstance(frame, GoAwayFrame)]
    return codes[-1] if codes else None


def reset_code(frames: Iterable[Frame], stream_id: int) -> int | None:
    """Error code of the RST_STREAM of this stream."""
    codes = [f.error_code for f in frames if isinstance(f, RstStreamFrame) and f.stream_id == stream_id]
    return codes[-1] if codes else None


def payload_of(frames: Iterable[Frame], stream_id: int) -> bytes:
    """DATA of a stream."""
    return b"".join(frame.data for frame in frames if isinstance(frame, DataFrame) and frame.stream_id == stream_id)


def updates(frames: Iterable[Frame], stream_id: int) -> int:
    """Sum of the window increments of a stream, or of the connection (0)."""
    return sum(f.window_increment for f in frames if isinstance(f, WindowUpdateFrame) and f.stream_id == stream_id)


def ping_acks(frames: Iterable[Frame]) -> list[bytes]:
    """Payloads of PING ACKs."""
    return [frame.opaque_data for frame in frames if isinstance(frame, PingFrame) and "ACK" in frame.flags]
