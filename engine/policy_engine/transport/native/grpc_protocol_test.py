"""The gRPC over HTTP/2 protocol as the server must keep it: requests, messages, status, deadlines, half-close."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hyperframe.frame import Frame, HeadersFrame

from policy_engine.kernel.stream import StreamError
from policy_engine.transport.native.errors import ErrorCode
from policy_engine.transport.options import Limits
from testsupport import http2_peer as raw
from testsupport.transport import PROCESS


@pytest.fixture
def peer() -> raw.RawPeer:
    peer = raw.RawPeer(limits=Limits(max_message_bytes=100_000))
    peer.handshake()
    peer.send(raw.window_update(0, 10_000_000))
    return peer


def request(peer: raw.RawPeer, *fields: tuple[str, str], replace: bool = True) -> list[Frame]:
    names = {name for name, _ in fields}
    frame = raw.headers_frame(1, (*(field for field in raw.REQUEST if field[0] not in names or not replace), *fields))
    frame.data = b"\x20" + frame.data
    return peer.send(frame)


def status(peer: raw.RawPeer, frames: list[Frame]) -> tuple[str, str]:
    fields: dict[str, str] = {}
    for frame in frames:
        if isinstance(frame, HeadersFrame):
            fields |= peer.fields(frame)
    return fields["grpc-status"], fields.get("grpc-message", "")


def test_response_headers_messages_trailers(peer: raw.RawPeer) -> None:
    frames = peer.open(1, b"one", b"two", end=True)
    assert [type(frame).__name__ for frame in frames] == ["HeadersFrame", *["DataFrame"] * 3, "HeadersFrame"]
    assert peer.fields(frames[0]) == {":status": "200", "content-type": "application/grpc"}
    assert raw.payload_of(frames, 1) == b"".join(map(raw.grpc_message, (b"one", b"first", b"second")))
    assert peer.fields(frames[-1]) == {"grpc-status": "0"}
    assert "END_STREAM" in frames[-1].flags


def test_answers_of_many_streams_are_one_piece_of_output(peer: raw.RawPeer) -> None:
    peer.open(1)
    block = raw.block(raw.REQUEST)
    batch: list[Frame] = []
    for stream_id in range(3, 203, 2):
        message = raw.data_frame(stream_id, raw.grpc_message(b"hi"))
        batch += [HeadersFrame(stream_id, block, flags=["END_HEADERS"]), message]
    frames = peer.send(*batch)
    assert len(frames) == 200
    assert peer.wakes == 0


def test_trailers_only_when_there_was_no_message(peer: raw.RawPeer) -> None:
    frames = peer.open(1, b"none", end=True)
    assert [type(frame).__name__ for frame in frames] == ["HeadersFrame"]
    assert peer.fields(frames[0]) == {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}


def test_status_after_a_message_is_in_trailers(peer: raw.RawPeer) -> None:
    frames = peer.open(1, b"hello", b"status:7:go away")
    assert peer.fields(frames[0])[":status"] == "200"
    assert peer.fields(frames[2]) == {"grpc-status": "7", "grpc-message": "go away"}
    assert raw.reset_code(frames, 1) == ErrorCode.NO_ERROR


def test_grpc_message_is_percent_encoded_and_bounded(peer: raw.RawPeer) -> None:
    peer.recorder.answer = lambda message: (_ for _ in ()).throw(StreamError(3, message.decode()))
    assert status(peer, peer.open(1, "a%b\r\nü".encode())) == ("3", "a%25b%0D%0A%C3%BC")
    _, text = status(peer, peer.open(3, b"x" * 15_000))
    assert len(text) <= 3072


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS"])
def test_other_methods_get_405(peer: raw.RawPeer, method: str) -> None:
    fields = ((":method", method), *(field for field in raw.REQUEST if field[0] != ":method"))
    frame = raw.headers_frame(1, fields)
    frame.data = b"\x20" + frame.data
    assert peer.fields(peer.send(frame)[0])[":status"] == "405"


@pytest.mark.parametrize("kind", ["application/json", "application/grpc-web", "application/grpcx", ""])
def test_other_content_types_get_415(peer: raw.RawPeer, kind: str) -> None:
    assert peer.fields(request(peer, ("content-type", kind))[0])[":status"] == "415"
    assert peer.recorder.opened == 0


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"])
def test_content_types_of_grpc(peer: raw.RawPeer, kind: str) -> None:
    assert request(peer, ("content-type", kind)) == []
    assert peer.recorder.opened == 1


@pytest.mark.parametrize("path", ["/", "/foo", PROCESS + "/", PROCESS.lower(), PROCESS + "?a=b", "/" + "x" * 5000])
def test_unknown_methods(peer: raw.RawPeer, path: str) -> None:
    frames = peer.send(HeadersFrame(1, b"\x20" + raw.block(
        (*raw.REQUEST[:2], (":path", path), *raw.REQUEST[3:])), flags=["END_HEADERS"]))  # fmt: skip
    assert status(peer, frames)[0] == "12"
    assert peer.recorder.opened == 0
    assert peer.dispatcher.counters.streams_active == 0


def test_failure_to_make_a_handler() -> None:
    def broken() -> None:
        raise RuntimeError("on purpose")

    peer = raw.RawPeer(recorder=broken)  # type: ignore[arg-type] # broken on purpose
    peer.handshake()
    assert status(peer, peer.open(1)) == ("13", "internal error")
    assert peer.dispatcher.counters.handler_errors == 1


def test_failing_close_is_contained(peer: raw.RawPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    from testsupport.transport import RecordedHandler

    def close(self: RecordedHandler) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(RecordedHandler, "close", close)
    assert status(peer, peer.open(1, b"hello", end=True))[0] == "0"
    assert peer.dispatcher.counters.handler_errors == 1
    assert not peer.finished


@pytest.mark.parametrize(("text", "seconds"), [("1S", 1), ("250m", 0.25), ("2M", 120), ("1H", 3600), ("500000u", 0.5)])
def test_deadline(peer: raw.RawPeer, text: str, seconds: float) -> None:
    request(peer, ("grpc-timeout", text))
    peer.loop.advance(seconds * 0.99)
    assert peer.output() == []
    peer.loop.advance(seconds * 0.02)
    assert peer.wakes > 0
    assert status(peer, peer.output())[0] == "4"
    assert peer.recorder.balanced
    assert peer.dispatcher.counters.deadlines_exceeded == 1


def test_deadline_is_forgotten_with_the_stream(peer: raw.RawPeer) -> None:
    request(peer, ("grpc-timeout", "1S"))
    peer.send(raw.data_frame(1, raw.grpc_message(b"hello"), end=True))
    peer.loop.advance(5)
    assert peer.dispatcher.counters.deadlines_exceeded == 0


@pytest.mark.parametrize("text", ["", "S", "1", "1s", "-1S", "1.5S", "123456789S", "1 S"])
def test_malformed_deadline(peer: raw.RawPeer, text: str) -> None:
    assert status(peer, request(peer, ("grpc-timeout", text)))[0] == "13"


def test_message_in_many_pieces(peer: raw.RawPeer) -> None:
    peer.open(1)
    body = raw.grpc_message(b"abc") + raw.grpc_message(b"") + raw.grpc_message(b"defgh" * 100)
    for n in range(len(body)):
        peer.send(raw.data_frame(1, body[n : n + 1]))
    assert peer.recorder.messages == [b"abc", b"", b"defgh" * 100]


def test_half_close_inside_a_message(peer: raw.RawPeer) -> None:
    peer.open(1)
    frames = peer.send(raw.data_frame(1, raw.grpc_message(b"hello")[:-1], end=True))
    assert status(peer, frames) == ("13", "request stream ended inside a message")
    assert peer.recorder.balanced


def test_message_larger_than_the_limit_is_refused_by_its_prefix(peer: raw.RawPeer) -> None:
    peer.open(1)
    frames = peer.send(raw.data_frame(1, b"\0\x7f\xff\xff\xff"))
    assert status(peer, frames)[0] == "8"
    assert peer.recorder.messages == []
    assert peer.recorder.balanced
    assert raw.payload_of(peer.open(3, b"x" * 10_000), 3) == raw.grpc_message(b"x" * 10_000)


def test_gzip(peer: raw.RawPeer) -> None:
    request(peer, ("grpc-encoding", "gzip"))
    packed = raw.grpc_message(gzip.compress(b"packed", mtime=0), 1)
    frames = peer.send(raw.data_frame(1, packed + raw.grpc_message(b"plain"), end=True))
    assert raw.payload_of(frames, 1) == raw.grpc_message(b"packed") + raw.grpc_message(b"plain")
    assert peer.fields(frames[0])["grpc-accept-encoding"] == "identity,gzip"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (gzip.compress(b"\0" * 100_001, mtime=0), "8"),
        (gzip.compress(b"\0" * 10_000_000, mtime=0), "8"),
        (b"not gzip", "13"),
        (gzip.compress(b"cut off", mtime=0)[:-3], "13"),
        (gzip.compress(b"more", mtime=0) + b"behind", "13"),
        (zlib.compress(b"deflate"), "13"),
        (b"", "13"),
    ],
)
def test_gzip_that_cannot_be_accepted(peer: raw.RawPeer, message: bytes, code: str) -> None:
    request(peer, ("grpc-encoding", "gzip"))
    assert status(peer, peer.send(raw.data_frame(1, raw.grpc_message(message, 1))))[0] == code
    assert peer.recorder.messages == []


def test_gzip_up_to_the_limit(peer: raw.RawPeer) -> None:
    request(peer, ("grpc-encoding", "gzip"))
    peer.send(raw.data_frame(1, raw.grpc_message(gzip.compress(b"\0" * 100_000, mtime=0), 1)))
    assert peer.recorder.messages == [b"\0" * 100_000]


@pytest.mark.parametrize("flag", [1, 2, 255])
def test_compressed_flag_without_encoding(peer: raw.RawPeer, flag: int) -> None:
    peer.open(1)
    assert status(peer, peer.send(raw.data_frame(1, raw.grpc_message(b"x", flag))))[0] == "13"


def test_unsupported_encoding_names_the_supported_ones(peer: raw.RawPeer) -> None:
    frames = request(peer, ("grpc-encoding", "snappy"))
    fields = peer.fields(frames[0])
    assert fields["grpc-status"] == "12"
    assert fields["grpc-accept-encoding"] == "identity,gzip"


def test_health_over_raw_frames(peer: raw.RawPeer) -> None:
    check = raw.block((*raw.REQUEST[:2], (":path", "/grpc.health.v1.Health/Check"), *raw.REQUEST[3:]))
    frames = peer.send(
        HeadersFrame(1, b"\x20" + check, flags=["END_HEADERS"]), raw.data_frame(1, raw.grpc_message(b""), end=True)
    )
    assert raw.payload_of(frames, 1) == raw.grpc_message(b"\x08\x01")
    wrong = peer.send(
        HeadersFrame(3, check, flags=["END_HEADERS"]), raw.data_frame(3, raw.grpc_message(b"\xff\xff"), end=True)
    )
    assert status(peer, [wrong[0]])[0] == "3"
