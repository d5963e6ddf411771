"""RFC 9113 §8: which requests are malformed, and how ended requests look."""

from __future__ import annotations

import pytest
from hyperframe.frame import Frame, HeadersFrame

from policy_engine.transport.native.errors import ErrorCode
from policy_engine.transport.options import Limits
from testsupport import http2_peer as raw


@pytest.fixture
def peer() -> raw.RawPeer:
    peer = raw.RawPeer()
    peer.handshake()
    return peer


def changed(**fields: str | None) -> tuple[tuple[str, str], ...]:
    """The normal request with pseudo-headers replaced, or left out (None)."""
    return tuple(
        (name, fields.get(name.strip(":"), value) or "")
        for name, value in raw.REQUEST
        if fields.get(name.strip(":"), value) is not None
    )


def request(peer: raw.RawPeer, fields: tuple[tuple[str, str], ...], *flags: str) -> list[Frame]:
    frame = raw.headers_frame(1, fields, ("END_HEADERS", *flags))
    frame.data = b"\x20" + frame.data
    return peer.send(frame)


MALFORMED = {
    "8.2.1 upper case": (*raw.REQUEST, ("X-Upper", "1")),
    "8.2.1 space in name": (*raw.REQUEST, ("x y", "1")),
    "8.2.1 empty name": (*raw.REQUEST, ("", "1")),
    "8.2.1 colon in name": (*raw.REQUEST, ("x:y", "1")),
    "8.2.1 not ASCII": (*raw.REQUEST, ("x-ü", "1")),
    "8.2.1 NUL in value": (*raw.REQUEST, ("x", "a\0b")),
    "8.2.1 line feed in value": (*raw.REQUEST, ("x", "a\nb")),
    "8.2.1 carriage return in value": (*raw.REQUEST, ("x", "a\rb")),
    "8.2.1 line feed in :path": changed(path="/a\nb"),
    "8.2.1 leading space": (*raw.REQUEST, ("x", " a")),
    "8.2.1 trailing tab": (*raw.REQUEST, ("x", "a\t")),
    "8.2.2 connection": (*raw.REQUEST, ("connection", "close")),
    "8.2.2 keep-alive": (*raw.REQUEST, ("keep-alive", "1")),
    "8.2.2 proxy-connection": (*raw.REQUEST, ("proxy-connection", "close")),
    "8.2.2 transfer-encoding": (*raw.REQUEST, ("transfer-encoding", "chunked")),
    "8.2.2 upgrade": (*raw.REQUEST, ("upgrade", "h2c")),
    "8.2.2 te": (*raw.REQUEST[:-1], ("te", "gzip")),
    "8.3 unknown pseudo-header": ((":foo", "bar"), *raw.REQUEST),
    "8.3 response pseudo-header": ((":status", "200"), *raw.REQUEST),
    "8.3 pseudo-header after others": (("x", "y"), *raw.REQUEST),
    "8.3 repeated": ((":method", "POST"), *raw.REQUEST),
    "8.3.1 no method": changed(method=None),
    "8.3.1 no scheme": changed(scheme=None),
    "8.3.1 no path": changed(path=None),
    "8.3.1 empty path": changed(path=""),
    "8.3.1 host differs from :authority": (*raw.REQUEST, ("host", "other")),
    "8.1.1 content-length not a number": (*raw.REQUEST, ("content-length", "x")),
    "8.1.1 two content-lengths": (*raw.REQUEST, ("content-length", "1"), ("content-length", "2")),
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED)
def test_8_malformed_requests_are_stream_errors(peer: raw.RawPeer, fields: tuple[tuple[str, str], ...]) -> None:
    assert raw.reset_code(request(peer, fields), 1) == ErrorCode.PROTOCOL_ERROR
    assert not peer.finished
    assert peer.recorder.opened == 0
    frames = peer.send(raw.headers_frame(3), raw.data_frame(3, raw.grpc_message(b"fine")))
    assert raw.payload_of(frames, 3) == raw.grpc_message(b"fine")


def test_8_3_1_host_may_repeat_the_authority(peer: raw.RawPeer) -> None:
    assert raw.reset_code(request(peer, (*raw.REQUEST, ("host", "ENGINE"))), 1) is None


def test_8_1_trailers_end_the_request(peer: raw.RawPeer) -> None:
    peer.fields(peer.open(1, b"hello")[0])
    frames = peer.send(raw.headers_frame(1, (("x-trailer", "1"),), ("END_HEADERS", "END_STREAM")))
    assert peer.fields(frames[-1]) == {"grpc-status": "0"}
    assert peer.recorder.balanced


@pytest.mark.parametrize(
    ("fields", "flags"),
    [((("x", "1"),), ("END_HEADERS",)), (((":path", "/"),), ("END_HEADERS", "END_STREAM"))],
    ids=["without END_STREAM", "with pseudo-header"],
)
def test_8_1_wrong_trailers(peer: raw.RawPeer, fields: tuple[tuple[str, str], ...], flags: tuple[str, ...]) -> None:
    peer.open(1, b"hello")
    assert raw.reset_code(peer.send(raw.headers_frame(1, fields, flags)), 1) == ErrorCode.PROTOCOL_ERROR
    assert peer.recorder.balanced


@pytest.mark.parametrize(
    ("announced", "pieces", "right"),
    [(10, (10,), True), (10, (4, 6), True), (10, (11,), False), (10, (4, 7), False), (10, (9,), False), (0, (), True)],
)
def test_8_1_1_content_length(peer: raw.RawPeer, announced: int, pieces: tuple[int, ...], right: bool) -> None:
    fields = (*raw.REQUEST, ("content-length", str(announced)))
    frames = request(peer, fields, *(() if pieces else ("END_STREAM",)))
    body = raw.grpc_message(b"x" * 20)
    for n, size in enumerate(pieces):
        end = n == len(pieces) - 1
        body, piece = body[size:], body[:size]
        frames += peer.send(raw.data_frame(1, piece, end=end))
    assert (raw.reset_code(frames, 1) == ErrorCode.PROTOCOL_ERROR) is not right


def test_8_1_1_content_length_without_content(peer: raw.RawPeer) -> None:
    frames = request(peer, (*raw.REQUEST, ("content-length", "5")), "END_STREAM")
    assert raw.reset_code(frames, 1) == ErrorCode.PROTOCOL_ERROR


def test_8_1_answer_before_the_request_ends_asks_to_stop_sending(peer: raw.RawPeer) -> None:
    frames = peer.open(1, b"status:5:not here")
    assert peer.fields(frames[0])["grpc-status"] == "5"
    assert "END_STREAM" in frames[0].flags
    assert raw.reset_code(frames, 1) == ErrorCode.NO_ERROR


def test_8_5_connect_is_not_served(peer: raw.RawPeer) -> None:
    frames = request(peer, ((":method", "CONNECT"), (":authority", "x:1")))
    assert peer.fields(frames[0])[":status"] == "405"


def test_10_5_1_large_header_list_is_refused_for_its_stream_only(peer: raw.RawPeer) -> None:
    peer.open(1)
    large = tuple((f"x-{n}", "v" * 1000) for n in range(20))
    block = raw.block((*raw.REQUEST, *large))
    pieces = [block[n : n + 10_000] for n in range(0, len(block), 10_000)]
    assert len(pieces) > 1
    continuation = [raw.raw_frame(9, 0x4 if n == len(pieces) - 2 else 0, 3, p) for n, p in enumerate(pieces[1:])]
    frames = peer.send(HeadersFrame(3, pieces[0]), *continuation)
    assert peer.fields(frames[0])["grpc-status"] == "8"
    assert not peer.finished


def test_10_5_1_large_header_list_with_a_dynamic_table_ends_the_connection() -> None:
    peer = raw.RawPeer(limits=Limits(max_header_list_bytes=1024))
    peer.handshake(acknowledge=False)
    assert raw.goaway_code(peer.send(raw.headers_frame(1, (*raw.REQUEST, ("x", "v" * 2000))))) == 11
