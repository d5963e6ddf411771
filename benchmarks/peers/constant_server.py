"""A server that does nothing: it cuts frames and answers every message with the same bytes. What it reaches, no server
behind this Envoy on this machine can exceed, so it tells which part of a figure is the server's to improve.

It is no gRPC server: no headers are read, nothing is checked, no stream is ended (Envoy resets its streams).
"""

from __future__ import annotations

import asyncio
import struct
from typing import cast

import hpack
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

from benchmarks.peers.answers import answer

_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 4, 6, 8
_ACK, _END_HEADERS, _END_STREAM = 1, 4, 1
_PREFACE_BYTES = 24
_WINDOW = 1 << 30
_REPLENISH_AFTER = 1 << 24


def _frame(kind: int, flags: int, stream: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + stream + payload


def _around_stream(kind: int, flags: int, payload: bytes) -> tuple[bytes, bytes]:
    """Return what stands before and after the stream's id in a frame."""
    whole = _frame(kind, flags, bytes(4), payload)
    return whole[:5], whole[9:]


def _message(part: str) -> tuple[bytes, bytes]:
    request = ProcessingRequest()
    getattr(request, part).SetInParent()
    reply = answer(request).SerializeToString()
    return _around_stream(_DATA, 0, struct.pack(">BI", 0, len(reply)) + reply)


_BLOCK = hpack.Encoder().encode(
    [hpack.NeverIndexedHeaderTuple(":status", "200"), hpack.NeverIndexedHeaderTuple("content-type", "application/grpc")]
)
_HEAD = _around_stream(_HEADERS, _END_HEADERS, _BLOCK)
_FIRST, _SECOND = _message("request_headers"), _message("response_headers")
_CONNECTION = bytes(4)
_OPENING = _frame(_SETTINGS, 0, _CONNECTION, struct.pack(">HI", 1, 0) + struct.pack(">HI", 4, _WINDOW))


class ConstantProtocol(asyncio.Protocol):
    """One connection of Envoy."""

    def __init__(self) -> None:
        self._rest = b""
        self._answered: set[bytes] = set()
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send SETTINGS and a window that lasts."""
        self._transport = cast(asyncio.Transport, transport)
        self._preface_left = _PREFACE_BYTES
        self._transport.write(_OPENING + _window_update(_WINDOW))

    def data_received(self, data: bytes) -> None:
        """Answer all messages of one read in one write."""
        data, start, out = self._rest + data, self._preface_left, list[bytes]()
        self._preface_left = 0
        while start + 9 <= len(data):
            end = start + 9 + (data[start] << 16 | data[start + 1] << 8 | data[start + 2])
            if end > len(data):
                break
            kind, flags, stream = data[start + 3], data[start + 4], data[start + 5 : start + 9]
            if kind == _DATA:
                self._data(stream, flags, end - start - 9, out)
            elif kind == _SETTINGS and not flags & _ACK:
                out.append(_frame(_SETTINGS, _ACK, _CONNECTION, b""))
            elif kind == _PING and not flags & _ACK:
                out.append(_frame(_PING, _ACK, _CONNECTION, data[start + 9 : end]))
            start = end
        self._rest = data[start:]
        if out:
            self._transport.write(b"".join(out))

    def _data(self, stream: bytes, flags: int, size: int, out: list[bytes]) -> None:
        self._received += size
        if self._received > _REPLENISH_AFTER:
            out.append(_window_update(self._received))
            self._received = 0
        if size and stream in self._answered:
            out += (_SECOND[0], stream, _SECOND[1])
        elif size:
            self._answered.add(stream)
            out += (_HEAD[0], stream, _HEAD[1], _FIRST[0], stream, _FIRST[1])
        if flags & _END_STREAM:
            self._answered.discard(stream)


def _window_update(increment: int) -> bytes:
    return _frame(_WINDOW_UPDATE, 0, _CONNECTION, struct.pack(">I", increment))


async def serve() -> None:
    """Serve on a free port of 127.0.0.1, print it, and go on until killed."""
    server = await asyncio.get_running_loop().create_server(ConstantProtocol, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
