"""RFC 9113 §10.5: what a client may not repeat without end, and what an Envoy under load must still be allowed."""

from __future__ import annotations

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
)

from policy_engine.transport.native.errors import ErrorCode
from testsupport import http2_peer as raw


@pytest.fixture
def peer() -> raw.RawPeer:
    peer = raw.RawPeer()
    peer.handshake()
    peer.open(1, b"none")
    return peer


FLOODS: dict[str, Frame | bytes] = {
    "SETTINGS": SettingsFrame(0),
    "SETTINGS ACK": SettingsFrame(0, flags=["ACK"]),
    "PING": PingFrame(0, b"x" * 8),
    "PING ACK": PingFrame(0, b"x" * 8, flags=["ACK"]),
    "empty DATA": raw.data_frame(1, b""),
    "padded empty DATA": raw.raw_frame(0, 0x8, 1, b"\x02\0\0"),
    "PRIORITY": PriorityFrame(1),
    "unknown type": raw.raw_frame(0xFE, 0, 0),
    "GOAWAY": GoAwayFrame(0),
    "RST_STREAM of a closed stream": RstStreamFrame(1),
    "WINDOW_UPDATE": raw.window_update(0, 1),
}


@pytest.mark.parametrize("frame", FLOODS.values(), ids=FLOODS)
def test_10_5_floods_end_the_connection(peer: raw.RawPeer, frame: Frame | bytes) -> None:
    data = frame if isinstance(frame, bytes) else frame.serialize()
    sent = 0
    while not peer.finished and sent < 200_000:
        answer = peer.send(data * 1000)
        sent += 1000
    assert raw.goaway_code(answer) == ErrorCode.ENHANCE_YOUR_CALM
    assert peer.recorder.balanced


@pytest.mark.parametrize("name", ["PING", "SETTINGS", "empty DATA"])
def test_10_5_the_same_frames_at_a_sane_pace_are_fine(peer: raw.RawPeer, name: str) -> None:
    for _ in range(500):
        peer.loop.now += 0.1
        peer.send(FLOODS[name])
    assert not peer.finished


def test_10_5_rapid_reset(peer: raw.RawPeer) -> None:
    """CVE-2023-44487."""
    block = raw.block(raw.REQUEST)
    stream_id, frames = 3, []
    while not peer.finished and stream_id < 200_000:
        batch = []
        for _ in range(100):
            batch += [HeadersFrame(stream_id, block, flags=["END_HEADERS"]), RstStreamFrame(stream_id)]
            stream_id += 2
        frames = peer.send(*batch)
    assert raw.goaway_code(frames) == ErrorCode.ENHANCE_YOUR_CALM
    assert peer.recorder.balanced
    assert peer.dispatcher.counters.streams_active == 0


def test_10_5_envoy_resets_every_stream_after_its_answer(peer: raw.RawPeer) -> None:
    """Envoy half-closes each ext_proc stream and resets it at once; that must never count as an attack."""
    block, message = raw.block(raw.REQUEST), raw.grpc_message(b"hello")
    stream_id = 3
    for _ in range(50):
        batch: list[Frame] = []
        for _ in range(100):
            batch += [
                HeadersFrame(stream_id, block, flags=["END_HEADERS"]),
                raw.data_frame(stream_id, message),
                raw.data_frame(stream_id, b"", end=True),
                RstStreamFrame(stream_id),
            ]
            stream_id += 2
        peer.send(*batch)
    assert not peer.finished
    assert peer.dispatcher.counters.streams_total == 5001


def test_10_5_ten_thousand_requests_may_time_out_together(peer: raw.RawPeer) -> None:
    block, message = raw.block(raw.REQUEST), raw.grpc_message(b"none")
    ids = range(3, 20_003, 2)
    for stream_id in ids:
        peer.send(HeadersFrame(stream_id, block, flags=["END_HEADERS"]), raw.data_frame(stream_id, message))
    peer.send(*(RstStreamFrame(stream_id) for stream_id in ids))
    assert not peer.finished
    assert peer.dispatcher.counters.streams_active == 1


@pytest.mark.parametrize("payload", [b"", b"\0", b"x" * 16_000], ids=["empty", "one byte", "large"])
def test_10_5_continuation_flood(peer: raw.RawPeer, payload: bytes) -> None:
    """CVE-2024-27316 and its kin: a header block that never ends."""
    frames = peer.send(HeadersFrame(3, b""))
    for _ in range(100):
        if peer.finished:
            break
        frames = peer.send(ContinuationFrame(3, payload))
    assert raw.goaway_code(frames) == ErrorCode.ENHANCE_YOUR_CALM


def test_10_5_faulty_streams_without_end(peer: raw.RawPeer) -> None:
    stream_id, frames = 3, []
    block = raw.block((*raw.REQUEST, ("Upper", "x")))
    while not peer.finished and stream_id < 50_000:
        frames = peer.send(*(HeadersFrame(stream_id + 2 * n, block, flags=["END_HEADERS"]) for n in range(100)))
        stream_id += 200
    assert raw.goaway_code(frames) == ErrorCode.ENHANCE_YOUR_CALM


def test_10_5_settings_flood_costs_no_walk_over_streams(peer: raw.RawPeer) -> None:
    """One frame may repeat a setting 2730 times; only the last one is applied."""
    settings = b"".join(b"\0\4" + (n * 1000).to_bytes(4, "big") for n in range(2730))
    frames = peer.send(raw.raw_frame(4, 0, 0, settings))
    assert len(frames) == 1
    assert peer.connection.sender.initial == 2729 * 1000


def test_header_cache_is_bounded(peer: raw.RawPeer) -> None:
    for n in range(3000):
        peer.send(raw.headers_frame(3 + 2 * n, (*raw.REQUEST, ("x-request-id", str(n)))), RstStreamFrame(3 + 2 * n))
    assert len(peer.dispatcher.head_cache) == 1024
