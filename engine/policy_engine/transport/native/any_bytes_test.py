"""Properties over bytes from outside: how they are split changes nothing, and none lead to an unhandled exception."""

from __future__ import annotations

import contextlib
import random

from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.kernel.stream import StreamError
from policy_engine.limits import KIB
from policy_engine.transport.native.frames import PREFACE
from policy_engine.transport.native.messages import MessageReader
from policy_engine.transport.options import Limits
from testsupport import http2_peer as raw

LIMITS = Limits(
    max_concurrent_streams=8,
    max_message_bytes=200 * KIB,
    stream_window_bytes=65_535,
    connection_window_bytes=2 * 65_535,
    receive_buffer_bytes=600 * KIB,
    send_buffer_bytes=64 * KIB,
)

BLOCK = raw.block(raw.REQUEST)
SCRIPT = st.sampled_from([b"hello", b"none", b"two", b"raise", b"status:5:no", b"big:40000", b"", b"x" * 3000])
ids = st.sampled_from([1, 3, 5, 7, 9, 11, 2, 0])


@st.composite
def frame(draw: st.DrawFn, blocking: bool = True) -> bytes:
    """A frame that is right more often than not; without `blocking` no reply ever has to wait for a window."""
    stream_id = draw(ids)
    kind = draw(st.sampled_from("HHHDDDDDDSPRWCGXT"))
    odd = stream_id | 1
    match kind:
        case "H":
            flags = draw(st.sets(st.sampled_from(["END_HEADERS", "END_STREAM"])))
            return bytes(HeadersFrame(odd, BLOCK, flags=list(flags | {"END_HEADERS"})).serialize())
        case "D":
            script = SCRIPT if blocking else SCRIPT.filter(lambda message: not message.startswith(b"big"))
            payload = draw(st.lists(script, max_size=3).map(lambda all_: b"".join(map(raw.grpc_message, all_))))
            cut = draw(st.integers(0, 3)) or len(payload)
            end = draw(st.booleans())
            return bytes(raw.data_frame(odd, payload[:cut], end=end).serialize())
        case "S":
            value = draw(st.sampled_from([0, 10, 65_535, 2**31 - 1] if blocking else [500_000, 1_000_000]))
            return bytes(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: value}).serialize())
        case "P":
            return bytes(PingFrame(0, b"12345678").serialize())
        case "R":
            return bytes(RstStreamFrame(odd).serialize())
        case "W":
            return bytes(WindowUpdateFrame(stream_id, window_increment=draw(st.integers(1, 100_000))).serialize())
        case "C":
            return bytes(ContinuationFrame(odd, b"", flags=["END_HEADERS"]).serialize())
        case "G":
            return raw.raw_frame(7, 0, 0, b"\0" * 8)
        case "T":
            return bytes(HeadersFrame(odd, raw.block((("a", "b"),)), flags=["END_HEADERS", "END_STREAM"]).serialize())
    return raw.raw_frame(draw(st.integers(0, 255)), draw(st.integers(0, 255)), stream_id, draw(st.binary(max_size=40)))


conversation = st.lists(frame(), max_size=25)


def start() -> raw.RawPeer:
    peer = raw.RawPeer(limits=LIMITS)
    peer.handshake()
    peer.send(HeadersFrame(1, b"\x20" + BLOCK, flags=["END_HEADERS", "END_STREAM"]))
    return peer


def substance(frames: list[Frame]) -> tuple[dict[int, bytes], list[str]]:
    """DATA of each stream, and all other frames except window updates, whose batching depends on the reads."""
    data: dict[int, bytes] = {}
    others = []
    for item in frames:
        if isinstance(item, DataFrame):
            data[item.stream_id] = data.get(item.stream_id, b"") + item.data
        elif not isinstance(item, WindowUpdateFrame):
            others.append(item.serialize().hex())
    return data, others


@settings(max_examples=150, deadline=None)
@given(st.lists(frame(blocking=False), max_size=25), st.lists(st.integers(1, 400), min_size=1, max_size=60))
def test_splits_change_nothing(parts: list[bytes], sizes: list[int]) -> None:
    data = b"".join(parts)
    whole, split = start(), start()
    for peer in (whole, split):
        peer.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1_000_000}))
        peer.send(WindowUpdateFrame(0, window_increment=10_000_000))
    expected = whole.send(data)
    frames: list[Frame] = []
    position, n = 0, 0
    while position < len(data):
        size = sizes[n % len(sizes)]
        frames += split.send(data[position : position + size])
        position += size
        n += 1
    assert whole.recorder.messages == split.recorder.messages
    assert whole.finished == split.finished
    assert sorted(whole.connection.streams) == sorted(split.connection.streams)
    assert substance(expected) == substance(frames)
    whole.end()
    split.end()


@settings(max_examples=150, deadline=None)
@given(conversation)
def test_mostly_right_frames_never_break_the_server(parts: list[bytes]) -> None:
    peer = start()
    for part in parts:
        peer.send(part)
    peer.end()


@settings(max_examples=150, deadline=None)
@given(conversation, st.randoms(use_true_random=False))
def test_damaged_bytes_never_break_the_server(parts: list[bytes], rng: random.Random) -> None:
    data = bytearray(b"".join(parts))
    for _ in range(min(len(data), rng.randint(0, 5))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    peer = start()
    peer.send(bytes(data))
    peer.end()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_garbage_never_breaks_the_server(data: bytes, after_preface: bool) -> None:
    peer = raw.RawPeer(limits=LIMITS)
    frames = peer.send((PREFACE if after_preface else b"") + data)
    if peer.finished:
        assert raw.goaway_code(frames) not in (None, 0)
    peer.end()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=9000), max_size=6), st.lists(st.integers(1, 6000), min_size=1, max_size=30))
def test_messages_come_out_as_they_went_in(messages: list[bytes], sizes: list[int]) -> None:
    data = b"".join(map(raw.grpc_message, messages))
    reader = MessageReader(10_000, gzip=False)
    received = []
    position = 0
    for n in range(len(data) + 1):
        size = sizes[n % len(sizes)]
        reader.feed(data[position : position + size])
        position += size
        if n % 3 == 0 or position >= len(data):
            while (message := reader.next()) is not None:
                received.append(message)
        assert 0 <= reader.missing() <= 10_005
        if position >= len(data):
            break
    assert received == messages
    assert reader.buffered == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=10), st.booleans())
def test_any_payload_is_messages_or_a_status(chunks: list[bytes], gzip: bool) -> None:
    reader = MessageReader(1000, gzip=gzip)
    with contextlib.suppress(StreamError):
        for chunk in chunks:
            reader.feed(chunk)
            while (message := reader.next()) is not None:
                assert len(message) <= 1000
