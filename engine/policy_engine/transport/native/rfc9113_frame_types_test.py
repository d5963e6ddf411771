"""RFC 9113 §6: each frame type, its sizes and its errors."""

from __future__ import annotations

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
)

from policy_engine.transport.native.errors import ErrorCode
from testsupport import http2_peer as raw


@pytest.fixture
def peer() -> raw.RawPeer:
    peer = raw.RawPeer()
    peer.handshake()
    return peer


def test_6_1_padded_data(peer: raw.RawPeer) -> None:
    peer.open(1)
    frame = DataFrame(1, raw.grpc_message(b"padded"), pad_length=200, flags=["PADDED"])
    assert raw.payload_of(peer.send(frame), 1) == raw.grpc_message(b"padded")


def test_6_1_padding_may_fill_the_frame(peer: raw.RawPeer) -> None:
    peer.open(1)
    assert peer.send(raw.raw_frame(0, 0x8, 1, b"\x03\0\0\0")) == []


@pytest.mark.parametrize("payload", [b"\x01", b"\x05abcd", b"\xff" + b"a" * 100])
@pytest.mark.parametrize("kind", [0x0, 0x1])
def test_6_1_6_2_padding_longer_than_the_frame(peer: raw.RawPeer, kind: int, payload: bytes) -> None:
    peer.open(1)
    stream_id = 1 if kind == 0 else 3
    assert raw.goaway_code(peer.send(raw.raw_frame(kind, 0x8 | 0x4, stream_id, payload))) == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("kind", [0x0, 0x1])
def test_6_1_6_2_padded_without_pad_length(peer: raw.RawPeer, kind: int) -> None:
    peer.open(1)
    stream_id = 1 if kind == 0 else 3
    assert raw.goaway_code(peer.send(raw.raw_frame(kind, 0x8 | 0x4, stream_id))) == ErrorCode.FRAME_SIZE_ERROR


@pytest.mark.parametrize("kind", [0x0, 0x1, 0x2, 0x3, 0x9])
def test_6_1_to_6_10_stream_frames_need_a_stream(peer: raw.RawPeer, kind: int) -> None:
    size = {0x2: 5, 0x3: 4}.get(kind, 0)
    assert raw.goaway_code(peer.send(raw.raw_frame(kind, 0x4, 0, b"\0" * size))) == ErrorCode.PROTOCOL_ERROR


def test_6_2_padded_headers_with_priority(peer: raw.RawPeer) -> None:
    frame = HeadersFrame(
        1, b"\x20" + raw.block(raw.REQUEST), pad_length=7, depends_on=9, stream_weight=3, exclusive=True,
        flags=["END_HEADERS", "PADDED", "PRIORITY"],
    )  # fmt: skip
    assert raw.payload_of(peer.send(frame, raw.data_frame(1, raw.grpc_message(b"x"))), 1) == raw.grpc_message(b"x")


def test_6_2_too_short_for_priority(peer: raw.RawPeer) -> None:
    assert raw.goaway_code(peer.send(raw.raw_frame(1, 0x24, 1, b"\0\0\0"))) == ErrorCode.FRAME_SIZE_ERROR


def test_6_3_priority_of_wrong_size_is_a_stream_error(peer: raw.RawPeer) -> None:
    peer.open(1)
    assert raw.reset_code(peer.send(raw.raw_frame(2, 0, 1, b"\0" * 4)), 1) == ErrorCode.FRAME_SIZE_ERROR
    assert not peer.finished


@pytest.mark.parametrize("size", [0, 3, 5])
def test_6_4_rst_stream_of_wrong_size(peer: raw.RawPeer, size: int) -> None:
    peer.open(1)
    assert raw.goaway_code(peer.send(raw.raw_frame(3, 0, 1, b"\0" * size))) == ErrorCode.FRAME_SIZE_ERROR


def test_6_4_rst_stream_ends_the_stream_silently(peer: raw.RawPeer) -> None:
    peer.open(1, b"none")
    assert peer.send(RstStreamFrame(1, error_code=8)) == []
    assert peer.recorder.balanced
    assert peer.dispatcher.counters.streams_active == 0
    assert peer.dispatcher.counters.resets_received == 1


def test_6_5_settings_are_acknowledged() -> None:
    peer = raw.RawPeer()
    frames = peer.handshake({SettingsFrame.INITIAL_WINDOW_SIZE: 100, 0xABCD: 7})
    assert [set(frame.flags) for frame in frames if isinstance(frame, SettingsFrame)][-1] == {"ACK"}


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (raw.raw_frame(4, 0, 0, b"\0" * 5), ErrorCode.FRAME_SIZE_ERROR),
        (raw.raw_frame(4, 1, 0, b"\0" * 6), ErrorCode.FRAME_SIZE_ERROR),
        (raw.raw_frame(4, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (raw.raw_frame(4, 0, 0, b"\0\2\0\0\0\2"), ErrorCode.PROTOCOL_ERROR),
        (raw.raw_frame(4, 0, 0, b"\0\4\x80\0\0\0"), ErrorCode.FLOW_CONTROL_ERROR),
        (raw.raw_frame(4, 0, 0, b"\0\5\0\0\x3f\xff"), ErrorCode.PROTOCOL_ERROR),
        (raw.raw_frame(4, 0, 0, b"\0\5\1\0\0\0"), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_6_5_wrong_settings(peer: raw.RawPeer, frame: bytes, code: ErrorCode) -> None:
    assert raw.goaway_code(peer.send(frame)) == code


def test_6_5_2_frames_are_no_larger_than_the_client_allows() -> None:
    for size in (16_384, 40_000):
        peer = raw.RawPeer()
        peer.handshake({SettingsFrame.MAX_FRAME_SIZE: size, SettingsFrame.INITIAL_WINDOW_SIZE: 1_000_000})
        peer.send(raw.window_update(0, 1_000_000))
        frames = [frame for frame in peer.open(1, b"big:100000") if isinstance(frame, DataFrame)]
        assert max(len(frame.data) for frame in frames) == size
        assert raw.payload_of(frames, 1) == raw.grpc_message(b"b" * 100_000)


def test_6_6_push_promise_from_a_client(peer: raw.RawPeer) -> None:
    peer.open(1)
    frame = PushPromiseFrame(1, promised_stream_id=2, data=b"", flags=["END_HEADERS"])
    assert raw.goaway_code(peer.send(frame)) == ErrorCode.PROTOCOL_ERROR


def test_6_7_ping_is_answered_with_its_payload(peer: raw.RawPeer) -> None:
    assert raw.ping_acks(peer.send(PingFrame(0, b"12345678"))) == [b"12345678"]
    assert peer.send(PingFrame(0, b"12345678", flags=["ACK"])) == []


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (raw.raw_frame(6, 0, 0, b"1234567"), ErrorCode.FRAME_SIZE_ERROR),
        (raw.raw_frame(6, 0, 0, b"123456789"), ErrorCode.FRAME_SIZE_ERROR),
        (raw.raw_frame(6, 0, 1, b"12345678"), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_6_7_wrong_ping(peer: raw.RawPeer, frame: bytes, code: ErrorCode) -> None:
    assert raw.goaway_code(peer.send(frame)) == code


def test_6_8_goaway_of_the_client_lets_its_streams_finish(peer: raw.RawPeer) -> None:
    peer.open(1)
    assert peer.send(GoAwayFrame(0, last_stream_id=0, additional_data=b"bye")) == []
    frames = peer.send(raw.data_frame(1, raw.grpc_message(b"hello"), end=True))
    assert raw.payload_of(frames, 1) == raw.grpc_message(b"hello")
    assert peer.dispatcher.counters.goaways_received == 1


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (raw.raw_frame(7, 0, 0, b"\0" * 7), ErrorCode.FRAME_SIZE_ERROR),
        (raw.raw_frame(7, 0, 1, b"\0" * 8), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_6_8_wrong_goaway(peer: raw.RawPeer, frame: bytes, code: ErrorCode) -> None:
    assert raw.goaway_code(peer.send(frame)) == code


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_6_10_continuation(peer: raw.RawPeer, pieces: int) -> None:
    block = b"\x20" + raw.block(raw.REQUEST)
    size = len(block) // (pieces + 1) + 1
    parts = [block[n : n + size] for n in range(0, len(block), size)]
    frames: list[Frame] = [HeadersFrame(1, parts[0])]
    frames += [ContinuationFrame(1, part) for part in parts[1:]]
    frames[-1].flags.add("END_HEADERS")
    peer.send(*frames)
    answer = peer.send(raw.data_frame(1, raw.grpc_message(b"hello")))
    assert raw.payload_of(answer, 1) == raw.grpc_message(b"hello")


def test_6_10_continuation_keeps_end_stream(peer: raw.RawPeer) -> None:
    block = b"\x20" + raw.block(raw.REQUEST)
    frames = peer.send(
        HeadersFrame(1, block[:5], flags=["END_STREAM"]), ContinuationFrame(1, block[5:], flags=["END_HEADERS"])
    )
    assert peer.fields(frames[0])["grpc-status"] == "0"


def test_6_10_continuation_without_headers(peer: raw.RawPeer) -> None:
    peer.open(1)
    assert raw.goaway_code(peer.send(ContinuationFrame(1, b"", flags=["END_HEADERS"]))) == ErrorCode.PROTOCOL_ERROR


def test_6_10_malformed_request_in_continuation_is_a_stream_error(peer: raw.RawPeer) -> None:
    block = b"\x20" + raw.block((*raw.REQUEST, ("Upper", "x")))
    frames = peer.send(HeadersFrame(1, block[:5]), ContinuationFrame(1, block[5:], flags=["END_HEADERS"]))
    assert raw.reset_code(frames, 1) == ErrorCode.PROTOCOL_ERROR
    assert not peer.finished
