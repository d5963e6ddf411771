"""Fuzz target: any bytes into the native transport, in any pieces, with time passing."""

from __future__ import annotations

from policy_engine.limits import KIB
from policy_engine.transport.native.frames import PREFACE
from policy_engine.transport.options import Limits
from testsupport import http2_peer

LIMITS = Limits(
    max_concurrent_streams=8,
    max_message_bytes=200 * KIB,
    stream_window_bytes=65_535,
    connection_window_bytes=2 * 65_535,
    receive_buffer_bytes=600 * KIB,
    send_buffer_bytes=64 * KIB,
)


def run(data: bytes) -> None:
    """Feed one input, whose first byte chooses the preliminaries and the size of the pieces; raises on any wrong."""
    if not data:
        return
    mode, data = data[0], data[1:]
    peer = http2_peer.RawPeer(limits=LIMITS)
    if mode & 1:
        peer.handshake({4: 100} if mode & 2 else {})
        if mode & 4:
            peer.open(1, b"big:70000" if mode & 8 else b"hello")
    elif mode & 2:
        data = PREFACE + data
    size = len(data) if mode & 16 else 1 + (mode >> 5) * 7
    for start in range(0, len(data), max(1, size)):
        peer.send(data[start : start + size])
        peer.loop.advance(0.1)
    if peer.finished and not peer.dispatcher.counters.goaways_sent:
        raise AssertionError("connection ended without GOAWAY")
    peer.end()
