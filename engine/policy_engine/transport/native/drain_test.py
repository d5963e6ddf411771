"""RFC 9113 §6.8: the two GOAWAY of a graceful end, and what happens to streams around them."""

from __future__ import annotations

import pytest
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame, PingFrame

from testsupport import http2_peer as raw


@pytest.fixture
def peer() -> raw.RawPeer:
    peer = raw.RawPeer()
    peer.handshake()
    peer.open(1, b"none")
    peer.connection.start_drain()
    return peer


def acknowledge(peer: raw.RawPeer) -> list[Frame]:
    frames = peer.output()
    ping = next(frame for frame in frames if isinstance(frame, PingFrame))
    return peer.send(PingFrame(0, ping.opaque_data, flags=["ACK"]))


def last_ids(frames: list[Frame]) -> list[int]:
    return [frame.last_stream_id for frame in frames if isinstance(frame, GoAwayFrame)]


def test_streams_are_still_taken_until_the_client_knows(peer: raw.RawPeer) -> None:
    frames = peer.output()
    assert last_ids(frames) == [2**31 - 1]
    answer = peer.send(HeadersFrame(3, raw.block(raw.REQUEST), flags=["END_HEADERS"]))
    answer += peer.send(raw.data_frame(3, raw.grpc_message(b"late"), end=True))
    assert raw.payload_of(answer, 3) == raw.grpc_message(b"late")


def test_second_goaway_names_the_last_stream(peer: raw.RawPeer) -> None:
    assert last_ids(acknowledge(peer)) == [1]
    assert not peer.finished
    peer.connection.finish_drain()
    assert peer.output() == []


def test_streams_above_it_are_ignored_but_keep_the_header_state(peer: raw.RawPeer) -> None:
    acknowledge(peer)
    block = raw.block(raw.REQUEST)
    assert peer.send(HeadersFrame(3, block, flags=["END_HEADERS"]), raw.data_frame(3, raw.grpc_message(b"x"))) == []
    assert peer.recorder.opened == 1
    peer.fields(peer.send(raw.data_frame(1, raw.grpc_message(b"hello"), end=True))[0])
    assert peer.finished


def test_connection_ends_with_its_last_stream(peer: raw.RawPeer) -> None:
    acknowledge(peer)
    frames = peer.send(raw.data_frame(1, raw.grpc_message(b"hello"), end=True))
    assert raw.payload_of(frames, 1) == raw.grpc_message(b"hello")
    assert peer.finished
    assert peer.recorder.balanced


def test_idle_connection_ends_with_the_second_goaway() -> None:
    peer = raw.RawPeer()
    peer.handshake()
    peer.connection.start_drain()
    assert last_ids(acknowledge(peer)) == [0]
    assert peer.finished


def test_a_ping_of_the_client_is_not_taken_for_the_answer(peer: raw.RawPeer) -> None:
    peer.output()
    assert last_ids(peer.send(PingFrame(0, b"other123", flags=["ACK"]))) == []
    assert not peer.finished
