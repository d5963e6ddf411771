"""RFC 9113 §3.4 (preface), §4 (frames), §5.1 (stream states), §5.4 (errors), §5.5 (extensions)."""

from __future__ import annotations

import hpack
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from policy_engine.transport.native.errors import ErrorCode
from policy_engine.transport.native.frames import PREFACE
from policy_engine.transport.options import Limits
from testsupport import http2_peer as raw


def started(limits: Limits | None = None) -> raw.RawPeer:
    peer = raw.RawPeer(limits=limits)
    peer.handshake()
    return peer


def test_3_4_server_begins_with_its_settings() -> None:
    peer = raw.RawPeer()
    settings, update = peer.output()
    assert isinstance(settings, SettingsFrame)
    assert settings.settings[SettingsFrame.HEADER_TABLE_SIZE] == 0
    assert settings.settings[SettingsFrame.MAX_CONCURRENT_STREAMS] == Limits().max_concurrent_streams
    assert settings.settings[SettingsFrame.INITIAL_WINDOW_SIZE] == Limits().stream_window_bytes
    assert isinstance(update, WindowUpdateFrame)
    assert update.window_increment == Limits().connection_window_bytes - 65_535


@pytest.mark.parametrize(
    "wrong", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nXX", b"\x16\x03\x01\x02\x00", b"\0"]
)
def test_3_4_wrong_preface_ends_the_connection(wrong: bytes) -> None:
    peer = raw.RawPeer()
    assert raw.goaway_code(peer.send(wrong)) == ErrorCode.PROTOCOL_ERROR
    assert peer.finished


@pytest.mark.parametrize(
    "first", [PingFrame(0), raw.window_update(0, 1), SettingsFrame(0, flags=["ACK"]), raw.headers_frame(1)]
)
def test_3_4_first_frame_must_be_settings(first: HeadersFrame) -> None:
    peer = raw.RawPeer()
    assert raw.goaway_code(peer.send(PREFACE, first)) == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("kind", [0x0, 0x1, 0x4, 0x6, 0xFA])
def test_4_2_frame_larger_than_allowed(kind: int) -> None:
    peer = started()
    frames = peer.send(raw.raw_frame(kind, 0, 1, b"", length=Limits().max_frame_bytes + 1))
    assert raw.goaway_code(frames) == ErrorCode.FRAME_SIZE_ERROR


def test_4_2_largest_allowed_frame() -> None:
    peer = started(Limits(max_frame_bytes=20_000))
    message = raw.grpc_message(b"x" * 19_995)
    peer.open(1)
    assert raw.payload_of(peer.send(raw.data_frame(1, message)), 1) == message


def test_4_3_undecodable_block_is_a_compression_error() -> None:
    peer = started()
    assert raw.goaway_code(peer.send(HeadersFrame(1, b"\xff\xff\xff\xff\xff\xff", flags=["END_HEADERS"]))) == 9
    assert peer.recorder.opened == 0


def test_4_3_table_size_must_be_reduced_after_our_settings_were_acknowledged() -> None:
    peer = started()
    frames = peer.send(raw.headers_frame(1))
    assert raw.goaway_code(frames) == ErrorCode.COMPRESSION_ERROR


def test_4_3_dynamic_table_may_be_used_before_the_acknowledgement() -> None:
    peer = raw.RawPeer()
    peer.handshake(acknowledge=False)
    encoder = hpack.Encoder()
    first, second = (encoder.encode(list(raw.REQUEST)) for _ in range(2))
    assert len(second) < len(first)
    peer.send(HeadersFrame(1, first, flags=["END_HEADERS"]), HeadersFrame(3, second, flags=["END_HEADERS"]))
    encoder.header_table_size = 0
    peer.send(
        SettingsFrame(0, flags=["ACK"]), HeadersFrame(5, encoder.encode(list(raw.REQUEST)), flags=["END_HEADERS"])
    )
    peer.send(HeadersFrame(7, encoder.encode(list(raw.REQUEST)), flags=["END_HEADERS"]))
    assert sorted(peer.connection.streams) == [1, 3, 5, 7]


def test_4_3_our_blocks_respect_a_client_without_a_table() -> None:
    peer = raw.RawPeer()
    peer.handshake({SettingsFrame.HEADER_TABLE_SIZE: 0})
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 0
    frames = [frame for frame in peer.open(1, b"hello", end=True) if isinstance(frame, HeadersFrame)]
    assert next(iter(decoder.decode(frames[0].data, raw=True))) == (b":status", b"200")
    assert list(decoder.decode(frames[1].data, raw=True)) == [(b"grpc-status", b"0")]


def test_4_3_more_than_two_table_size_updates() -> None:
    peer = started()
    many = HeadersFrame(1, b"\x20\x20\x20" + raw.block(raw.REQUEST), flags=["END_HEADERS"])
    assert raw.goaway_code(peer.send(many)) == ErrorCode.COMPRESSION_ERROR


@pytest.mark.parametrize("between", [PingFrame(0), raw.data_frame(1, b""), raw.headers_frame(3), ContinuationFrame(3)])
def test_4_3_nothing_may_come_between_the_frames_of_a_block(between: HeadersFrame) -> None:
    peer = started()
    frames = peer.send(HeadersFrame(1, b"\x20" + raw.block(raw.REQUEST)[:3]), between)
    assert raw.goaway_code(frames) == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "frame", [raw.data_frame(1, b"x"), RstStreamFrame(1), raw.window_update(1, 1), raw.data_frame(2, b"x")]
)
def test_5_1_frames_on_idle_streams(frame: DataFrame) -> None:
    assert raw.goaway_code(started().send(frame)) == ErrorCode.PROTOCOL_ERROR


def test_5_1_priority_on_an_idle_stream_is_allowed() -> None:
    assert raw.goaway_code(started().send(PriorityFrame(9))) is None


def test_5_1_data_on_a_half_closed_stream_is_a_stream_error() -> None:
    # Replies wait for a window, so the stream stays half-closed.
    peer = raw.RawPeer()
    peer.handshake({SettingsFrame.INITIAL_WINDOW_SIZE: 0})
    peer.open(1, b"hello", end=True)
    assert raw.reset_code(peer.send(raw.data_frame(1, b"x")), 1) == ErrorCode.STREAM_CLOSED
    assert not peer.finished
    assert peer.recorder.balanced


def test_5_1_headers_on_a_half_closed_stream_is_a_stream_error() -> None:
    peer = raw.RawPeer()
    peer.handshake({SettingsFrame.INITIAL_WINDOW_SIZE: 0})
    peer.open(1, b"hello", end=True)
    trailers = raw.headers_frame(1, (("a", "b"),), ("END_HEADERS", "END_STREAM"))
    assert raw.reset_code(peer.send(trailers), 1) == ErrorCode.STREAM_CLOSED


def test_5_1_frames_on_a_closed_stream() -> None:
    peer = started()
    peer.open(1, b"hello", end=True)
    assert not peer.connection.streams
    assert raw.goaway_code(peer.send(raw.window_update(1, 5), RstStreamFrame(1))) is None
    assert raw.reset_code(peer.send(raw.data_frame(1, b"x")), 1) == ErrorCode.STREAM_CLOSED
    assert raw.goaway_code(peer.send(raw.headers_frame(1))) is None  # its stream was reset by us just before
    peer.open(3, b"hello", end=True)
    assert raw.goaway_code(peer.send(raw.headers_frame(3))) == ErrorCode.STREAM_CLOSED


def test_5_1_frames_under_way_while_we_end_a_stream_are_discarded() -> None:
    peer = started()
    frames = peer.open(1, b"status:7:no")
    assert raw.reset_code(frames, 1) == ErrorCode.NO_ERROR
    late = peer.send(
        raw.data_frame(1, b"late"), raw.window_update(1, 10), raw.headers_frame(1, (("a", "b"),)), RstStreamFrame(1)
    )
    assert late == []
    assert raw.payload_of(peer.open(3, b"hello"), 3) == raw.grpc_message(b"hello")


@pytest.mark.parametrize("stream_id", [2, 4, 2**31 - 2])
def test_5_1_1_clients_use_odd_ids(stream_id: int) -> None:
    assert raw.goaway_code(started().send(raw.headers_frame(stream_id))) == ErrorCode.PROTOCOL_ERROR


def test_5_1_1_ids_must_grow() -> None:
    peer = started()
    peer.open(5, b"none")
    assert raw.goaway_code(peer.send(raw.headers_frame(3))) == ErrorCode.STREAM_CLOSED


def test_5_1_1_skipped_ids_are_closed() -> None:
    peer = started()
    peer.open(5, b"none")
    assert raw.goaway_code(peer.send(RstStreamFrame(1))) is None


def test_5_1_1_highest_id() -> None:
    peer = started()
    assert raw.payload_of(peer.open(2**31 - 1, b"last"), 2**31 - 1) == raw.grpc_message(b"last")


def test_5_1_1_reserved_bit_is_ignored() -> None:
    peer = started()
    peer.open(1)
    frames = peer.send(raw.raw_frame(0, 0, 1 | 1 << 31, raw.grpc_message(b"hello")))
    assert raw.payload_of(frames, 1) == raw.grpc_message(b"hello")


def test_5_1_2_too_many_streams_are_refused_one_by_one() -> None:
    peer = started(Limits(max_concurrent_streams=2))
    for stream_id in (1, 3):
        peer.open(stream_id, b"none")
    assert raw.reset_code(peer.open(5), 5) == ErrorCode.REFUSED_STREAM
    peer.send(RstStreamFrame(1))
    assert raw.reset_code(peer.open(7), 7) is None
    assert peer.recorder.opened == 3


def test_5_4_1_goaway_names_the_last_stream_and_ends_all() -> None:
    peer = started()
    peer.open(1, b"none")
    peer.open(3, b"none")
    frames = peer.send(raw.raw_frame(6, 0, 1, b"x" * 8))
    goaway = frames[-1]
    assert isinstance(goaway, GoAwayFrame)
    assert goaway.last_stream_id == 3
    assert b"PING" in goaway.additional_data
    assert peer.finished
    assert peer.recorder.balanced
    assert peer.dispatcher.counters.protocol_errors == {"PROTOCOL_ERROR": 1}
    assert peer.send(raw.headers_frame(5)) == []


def test_5_5_unknown_frames_and_flags_are_ignored() -> None:
    peer = started()
    peer.open(1)
    assert peer.send(raw.raw_frame(0xFE, 0xFF, 1, b"whatever"), raw.raw_frame(0xEE, 0, 0, b"")) == []
    frames = peer.send(raw.raw_frame(0x0, 0xF6, 1, raw.grpc_message(b"odd flags")))
    assert raw.payload_of(frames, 1) == raw.grpc_message(b"odd flags")
