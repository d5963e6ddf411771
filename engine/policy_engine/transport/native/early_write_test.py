"""Answers of a long batch go out in parts, so that none waits for the work of all others."""

from __future__ import annotations

from hyperframe.frame import Frame, HeadersFrame

from testsupport import http2_peer as raw
from testsupport.transport import Recorder


def peer_with_hooks_of(seconds: float) -> raw.RawPeer:
    def answer(message: bytes) -> bytes:
        peer.loop.now += seconds
        return message

    peer = raw.RawPeer(Recorder(answer))
    peer.handshake()
    return peer


def requests(*stream_ids: int) -> list[bytes]:
    first = raw.headers_frame(stream_ids[0])
    first.data = b"\x20" + first.data
    opened = [first, *map(raw.headers_frame, stream_ids[1:])]
    pairs = zip(opened, stream_ids, strict=True)
    return [head.serialize() + raw.data_frame(one, raw.grpc_message(b"m")).serialize() for head, one in pairs]


def answered(frames: list[Frame]) -> list[int]:
    return [frame.stream_id for frame in frames if isinstance(frame, HeadersFrame)]


def test_quick_answers_share_one_write() -> None:
    peer = peer_with_hooks_of(0.00002)
    assert answered(peer.send(*requests(1, 3, 5, 7))) == [1, 3, 5, 7]
    assert peer.early == []


def test_slow_answers_do_not_wait_for_all_others() -> None:
    peer = peer_with_hooks_of(0.0012)
    last = peer.send(*requests(1, 3, 5, 7, 9))
    assert [answered(frames) for frames in peer.early] == [[1, 3], [5, 7]]
    assert answered(last) == [9]


def test_each_read_has_its_own_time() -> None:
    peer = peer_with_hooks_of(0.0012)
    assert answered(peer.send(*requests(1))) == [1]
    assert answered(peer.send(raw.headers_frame(3), raw.data_frame(3, raw.grpc_message(b"m")))) == [3]
    assert peer.early == []
