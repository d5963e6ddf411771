"""RFC 9113 §5.2 and §6.9: flow control both ways, and the bounds on memory that it enforces."""

from __future__ import annotations

import pytest
from hyperframe.frame import Frame, HeadersFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from policy_engine.limits import KIB, MIB
from policy_engine.transport.native.errors import ErrorCode
from policy_engine.transport.native.flow_control import TIGHT_WINDOW
from policy_engine.transport.options import Limits
from testsupport import http2_peer as raw

SMALL = Limits(
    stream_window_bytes=64 * KIB,
    connection_window_bytes=128 * KIB,
    max_message_bytes=MIB,
    receive_buffer_bytes=2 * MIB + 256 * KIB,
)


def started(limits: Limits | None = None, **settings: int) -> raw.RawPeer:
    peer = raw.RawPeer(limits=limits)
    peer.handshake({getattr(SettingsFrame, name): value for name, value in settings.items()})
    return peer


class Sender:
    """A client that keeps to the windows it is given, also when SETTINGS take them back."""

    def __init__(self, peer: raw.RawPeer, limits: Limits) -> None:
        self.peer = peer
        self.limits = limits
        self.connection_window = limits.connection_window_bytes
        self.initial = limits.stream_window_bytes
        self.smallest = self.initial
        self.windows: dict[int, int] = {}
        self.left: dict[int, bytes] = {}
        self.received: dict[int, bytes] = {}
        self.status: dict[int, str] = {}

    def open(self, stream_id: int, *messages: bytes) -> None:
        self.windows[stream_id] = self.initial
        self.left[stream_id] = b"".join(map(raw.grpc_message, messages))
        self.received[stream_id] = b""
        self.take(self.peer.open(stream_id))

    def take(self, frames: list[Frame]) -> None:
        self.connection_window += raw.updates(frames, 0)
        for frame in frames:
            if isinstance(frame, HeadersFrame):
                fields = self.peer.fields(frame)
                if "grpc-status" in fields:
                    self.status[frame.stream_id] = fields["grpc-status"]
                    self.left[frame.stream_id] = b""
        for stream_id in self.windows:
            self.windows[stream_id] += raw.updates(frames, stream_id)
            self.received[stream_id] += raw.payload_of(frames, stream_id)
        for frame in frames:
            if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
                self.change_initial(frame.settings[SettingsFrame.INITIAL_WINDOW_SIZE])

    def change_initial(self, value: int) -> None:
        for stream_id in self.windows:
            self.windows[stream_id] += value - self.initial
        self.initial = value
        self.smallest = min(self.smallest, value)
        self.take(self.peer.send(SettingsFrame(0, flags=["ACK"])))

    def send_some(self, stream_id: int, most: int = 16_384) -> int:
        size = min(len(self.left[stream_id]), self.windows[stream_id], self.connection_window, most)
        if size <= 0:
            return 0
        piece, self.left[stream_id] = self.left[stream_id][:size], self.left[stream_id][size:]
        self.windows[stream_id] -= size
        self.connection_window -= size
        self.take(self.peer.send(raw.data_frame(stream_id, piece)))
        return size

    def send_all(self) -> None:
        """Round robin, until nothing moves."""
        while any([self.send_some(stream_id) for stream_id in tuple(self.left)]):  # noqa: C419 # all, not the first
            pass


def test_6_9_1_replies_wait_for_the_stream_window() -> None:
    peer = started(INITIAL_WINDOW_SIZE=10)
    frames = peer.open(1, b"0123456789")
    assert raw.payload_of(frames, 1) == raw.grpc_message(b"0123456789")[:10]
    assert raw.payload_of(peer.send(raw.window_update(1, 3)), 1) == b"567"
    assert raw.payload_of(peer.send(raw.window_update(1, 100)), 1) == b"89"


def test_6_9_1_replies_wait_for_the_connection_window() -> None:
    peer = started(INITIAL_WINDOW_SIZE=1_000_000)
    first = raw.payload_of(peer.open(1, b"big:60000"), 1)
    second = raw.payload_of(peer.open(3, b"big:60000"), 3)
    assert len(first) == 60_005
    assert len(second) == 65_535 - 60_005
    assert len(raw.payload_of(peer.send(raw.window_update(0, 1000)), 3)) == 1000


def test_6_9_1_waiting_streams_take_turns() -> None:
    peer = started(INITIAL_WINDOW_SIZE=1_000_000)
    peer.open(1, b"big:60000")
    for stream_id in (3, 5):
        peer.open(stream_id, b"big:100000")
    frames = peer.send(raw.window_update(0, 65_536))
    assert len(raw.payload_of(frames, 3)) == len(raw.payload_of(frames, 5)) == 32_768


def test_6_9_1_trailers_wait_for_the_payload_before_them() -> None:
    peer = started(INITIAL_WINDOW_SIZE=0)
    frames = peer.open(1, b"hello", end=True)
    assert [type(frame).__name__ for frame in frames] == ["HeadersFrame"]
    peer.fields(frames[0])
    frames = peer.send(raw.window_update(1, 100))
    assert raw.payload_of(frames, 1) == raw.grpc_message(b"hello")
    assert peer.fields(frames[-1]) == {"grpc-status": "0"}
    assert peer.recorder.balanced


def test_6_9_1_next_message_waits_until_the_replies_before_it_are_taken() -> None:
    peer = started(INITIAL_WINDOW_SIZE=0)
    peer.open(1, b"one", b"two", b"three", end=True)
    assert peer.recorder.messages == [b"one"]
    frames = peer.send(raw.window_update(1, 8))
    assert peer.recorder.messages == [b"one", b"two"]
    frames += peer.send(raw.window_update(1, 1000))
    assert peer.recorder.messages == [b"one", b"two", b"three"]
    expected = b"".join(map(raw.grpc_message, (b"one", b"first", b"second", b"three")))
    assert raw.payload_of(frames, 1) == expected


def test_6_9_1_replies_of_all_streams_together_are_bounded() -> None:
    peer = started(Limits(send_buffer_bytes=100_000), INITIAL_WINDOW_SIZE=0)
    for stream_id in range(1, 41, 2):
        peer.open(stream_id, b"big:30000", end=True)
    assert len(peer.recorder.messages) == 4
    frames = peer.send(raw.window_update(0, 10_000_000), *(raw.window_update(n, 100_000) for n in range(1, 41, 2)))
    for _ in range(20):
        frames += peer.output()
    assert len(peer.recorder.messages) == 20
    assert all(len(raw.payload_of(frames, n)) == 30_005 for n in range(1, 41, 2))
    assert peer.recorder.balanced


def test_6_9_reset_frees_what_waits() -> None:
    peer = started(INITIAL_WINDOW_SIZE=0)
    peer.open(1, b"big:1000000")
    assert peer.connection.sender.pending_bytes == 1_000_005
    peer.send(RstStreamFrame(1))
    assert peer.connection.sender.pending_bytes == 0
    assert not peer.connection.sender.ready
    assert peer.send(raw.window_update(0, 10)) == []


@pytest.mark.parametrize(("stream_id", "size"), [(0, 3), (0, 5), (1, 0)])
def test_6_9_wrong_size(stream_id: int, size: int) -> None:
    peer = started()
    peer.open(1)
    assert raw.goaway_code(peer.send(raw.raw_frame(8, 0, stream_id, b"\0" * size))) == ErrorCode.FRAME_SIZE_ERROR


def test_6_9_increment_of_zero() -> None:
    peer = started()
    peer.open(1)
    assert raw.reset_code(peer.send(raw.raw_frame(8, 0, 1, b"\0" * 4)), 1) == ErrorCode.PROTOCOL_ERROR
    assert not peer.finished
    assert raw.goaway_code(peer.send(raw.raw_frame(8, 0, 0, b"\0" * 4))) == ErrorCode.PROTOCOL_ERROR


def test_6_9_1_window_above_its_maximum() -> None:
    peer = started()
    peer.open(1)
    top = 2**31 - 1 - 65_535
    assert peer.send(raw.window_update(1, top)) == []
    assert raw.reset_code(peer.send(raw.window_update(1, 1)), 1) == ErrorCode.FLOW_CONTROL_ERROR
    assert peer.send(raw.window_update(0, top)) == []
    assert raw.goaway_code(peer.send(raw.window_update(0, 1))) == ErrorCode.FLOW_CONTROL_ERROR


def test_6_9_2_changed_initial_window_applies_to_open_streams() -> None:
    peer = started(INITIAL_WINDOW_SIZE=10)
    sent = raw.payload_of(peer.open(1, b"big:100"), 1)
    assert len(sent) == 10
    more = peer.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 30}))
    assert len(raw.payload_of(more, 1)) == 20
    # The window is now negative: 60 more bytes only bring it to 40.
    peer.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 10}))
    assert len(raw.payload_of(peer.send(raw.window_update(1, 60)), 1)) == 40


def test_6_9_2_initial_window_that_overflows_a_stream() -> None:
    peer = started()
    peer.open(1)
    peer.send(raw.window_update(1, 1000))
    frames = peer.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 2**31 - 1}))
    assert raw.goaway_code(frames) == ErrorCode.FLOW_CONTROL_ERROR


def test_6_9_client_that_exceeds_the_stream_window() -> None:
    peer = started(SMALL)
    peer.dispatcher.pool.available = 0
    peer.open(1)
    frames: list[Frame] = peer.send(raw.data_frame(1, b"\0\0\x0f\0\0"))
    for _ in range(4):
        assert raw.reset_code(frames, 1) is None
        frames += peer.send(raw.data_frame(1, b"x" * 16_384))
    assert raw.reset_code(frames, 1) == ErrorCode.FLOW_CONTROL_ERROR
    assert not peer.finished


def test_6_9_client_that_exceeds_the_connection_window() -> None:
    peer = started(SMALL)
    peer.dispatcher.pool.available = 0
    frames: list[Frame] = []
    for stream_id in range(1, 13, 2):
        frames += peer.open(stream_id)
        frames += peer.send(raw.data_frame(stream_id, b"\0\0\0\xff\xff"))
        for _ in range(3):
            frames += peer.send(raw.data_frame(stream_id, b"x" * 16_384))
    assert raw.goaway_code(frames) == ErrorCode.FLOW_CONTROL_ERROR


def test_6_9_padding_counts_and_is_given_back() -> None:
    peer = started(SMALL)
    peer.open(1)
    sent = returned = connection = 0
    for _ in range(400):
        frames = peer.send(raw.raw_frame(0, 0x8, 1, b"\xff" + b"\0" * 255))
        sent += 256
        returned += raw.updates(frames, 1)
        connection += raw.updates(frames, 0)
    assert raw.goaway_code(frames) is None
    assert sent - returned <= SMALL.stream_window_bytes
    assert sent - connection <= SMALL.connection_window_bytes


def test_6_9_data_of_ended_streams_is_given_back_to_the_connection() -> None:
    peer = started(SMALL)
    peer.open(1, b"status:3:no")
    connection = 0
    for _ in range(100):
        connection += raw.updates(peer.send(raw.data_frame(1, b"x" * 16_384)), 0)
    assert connection >= 100 * 16_384 - SMALL.connection_window_bytes


def test_5_2_updates_are_batched() -> None:
    peer = started()
    peer.open(1)
    updates = 0
    for _ in range(100):
        frames = peer.send(raw.data_frame(1, raw.grpc_message(b"x" * 1000)))
        updates += sum(isinstance(frame, WindowUpdateFrame) for frame in frames)
    assert updates == 0


def test_5_2_message_longer_than_all_windows() -> None:
    peer = started(SMALL, INITIAL_WINDOW_SIZE=2**31 - 1)
    peer.send(raw.window_update(0, 2**31 - 1 - 65_535))
    sender = Sender(peer, SMALL)
    message = bytes(range(256)) * 4000
    sender.open(1, message, b"small", message)
    sender.send_all()
    assert peer.recorder.messages == [message, b"small", message]
    assert peer.connection.flow.held == 0
    assert peer.dispatcher.pool.available == SMALL.receive_buffer_bytes


def test_5_2_more_unfinished_messages_than_room_are_served_in_turn() -> None:
    peer = started(SMALL, INITIAL_WINDOW_SIZE=2**31 - 1)
    peer.send(raw.window_update(0, 2**31 - 1 - 65_535))
    sender = Sender(peer, SMALL)
    message = b"m" * (1000 * KIB)
    ids = range(1, 41, 2)
    for stream_id in ids:
        sender.open(stream_id, message)
    sender.open(51)
    held = 0
    while any([sender.send_some(stream_id) for stream_id in ids]):  # noqa: C419 # all of them, not only the first
        granted = SMALL.receive_buffer_bytes - peer.dispatcher.pool.available
        held = max(held, peer.connection.flow.held + granted)
    assert all(sender.received[stream_id] == raw.grpc_message(message) for stream_id in ids)
    assert held <= SMALL.receive_buffer_bytes + SMALL.connection_window_bytes + 20 * TIGHT_WINDOW
    assert peer.connection.flow.held == 0
    assert peer.dispatcher.pool.available == SMALL.receive_buffer_bytes
    # Streams were made small, and are normal again: new ones, and those that were open all the time.
    sender.open(101)
    assert sender.smallest == TIGHT_WINDOW
    assert sender.initial == SMALL.stream_window_bytes
    for stream_id in (51, 101):
        sender.left[stream_id] = raw.grpc_message(b"w" * 60_000)
        while sender.send_some(stream_id):
            pass
        assert sender.received[stream_id] == raw.grpc_message(b"w" * 60_000)


def test_5_2_headers_only_messages_get_through_while_the_pool_is_full() -> None:
    peer = started(SMALL, INITIAL_WINDOW_SIZE=2**31 - 1)
    peer.send(raw.window_update(0, 2**31 - 1 - 65_535))
    sender = Sender(peer, SMALL)
    long = range(1, 41, 2)
    for stream_id in long:
        sender.open(stream_id, b"m" * (1000 * KIB))
    for _ in range(20):
        for stream_id in long:
            sender.send_some(stream_id)
        if peer.connection.flow.tight:
            break
    assert peer.connection.flow.tight
    sender.open(101, b"headers only")
    while sender.left[101]:
        assert any([sender.send_some(stream_id, 1000) for stream_id in (101, *long)])  # noqa: C419 # all
    assert sender.received[101] == raw.grpc_message(b"headers only")


def test_5_2_room_is_taken_from_messages_that_are_never_finished() -> None:
    peer = started(SMALL, INITIAL_WINDOW_SIZE=2**31 - 1)
    peer.send(raw.window_update(0, 2**31 - 1 - 65_535))
    sender = Sender(peer, SMALL)
    for stream_id in (1, 3, 5):
        sender.open(stream_id, b"m" * (1000 * KIB))
        sender.send_some(stream_id)
    assert peer.dispatcher.pool.contended
    peer.loop.advance(29)
    sender.take(peer.output())
    assert not sender.status
    peer.loop.advance(2)
    sender.take(peer.output())
    assert sender.status == {1: "8", 3: "8"}
    sender.send_all()
    assert sender.received[5] == raw.grpc_message(b"m" * (1000 * KIB))
    assert peer.dispatcher.pool.available == SMALL.receive_buffer_bytes


def test_5_2_small_messages_split_over_all_streams_do_not_deadlock() -> None:
    """Half of every message fills the connection's window several times over; all must still get through."""
    peer = started(SMALL, INITIAL_WINDOW_SIZE=2**31 - 1)
    peer.send(raw.window_update(0, 2**31 - 1 - 65_535))
    sender = Sender(peer, SMALL)
    ids = range(1, 201, 2)
    for stream_id in ids:
        sender.open(stream_id, b"s" * 10_000)
    for stream_id in ids:
        sender.send_some(stream_id, 5000)
    sender.send_all()
    assert all(sender.received[stream_id] == raw.grpc_message(b"s" * 10_000) for stream_id in ids)
    assert peer.connection.flow.held == 0
    assert peer.dispatcher.pool.available == SMALL.receive_buffer_bytes


def test_5_2_reset_and_lost_connection_free_what_is_held() -> None:
    peer = started(SMALL)
    sender = Sender(peer, SMALL)
    for stream_id in (1, 3, 5):
        sender.open(stream_id, b"x" * 1_000_000)
        sender.send_some(stream_id)
        sender.send_some(stream_id)
    assert peer.dispatcher.pool.available < SMALL.receive_buffer_bytes
    sender.take(peer.send(RstStreamFrame(1)))
    peer.connection.abandon()
    assert peer.dispatcher.pool.available == SMALL.receive_buffer_bytes
    assert peer.connection.flow.held == 0
    assert peer.recorder.balanced
