"""What a worker process and its helpers say to each other: pickled values, with large bytes beside them uncopied.

Both ends are this very engine under the same user, on a socket pair that nobody else can reach. A frame is the number
of its parts and their lengths, then the parts: the pickle first, then the bytes that were left out of it (PEP 574).
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any

COUNT = struct.Struct(">I")
LENGTH = struct.Struct(">Q")
_APART = 32 * 1024
"""Bytes from which a value is sent beside its pickle: copying 10 MB into one takes tens of milliseconds."""


Part = bytes | memoryview


def encode(value: tuple[Any, ...]) -> list[Part]:
    """Return the parts that `value` is sent as; raises what pickle raises for what cannot be sent."""
    apart: list[pickle.PickleBuffer] = []
    wrapped = tuple(pickle.PickleBuffer(one) if type(one) is bytes and len(one) >= _APART else one for one in value)
    written = pickle.dumps(wrapped, protocol=5, buffer_callback=apart.append)
    return [written, *(one.raw() for one in apart)]


def decode(parts: Sequence[Part]) -> Any:
    """Return the value that was sent as these parts."""
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 - from our own process, see above


def pieces_of(parts: Sequence[Part]) -> Iterator[Part]:
    """Return the frame of these parts, to be written one after the other."""
    yield COUNT.pack(len(parts)) + b"".join(LENGTH.pack(len(one)) for one in parts)
    yield from parts


def send(sock: socket.socket, parts: Sequence[Part]) -> None:
    """Write a frame, in a helper, which has nothing else to do."""
    for piece in pieces_of(parts):
        sock.sendall(piece)


def receive(sock: socket.socket) -> list[bytes]:
    """Read the parts of one frame in a helper; raises EOFError when the worker process is gone."""
    count = COUNT.unpack(_exactly(sock, COUNT.size))[0]
    lengths = _exactly(sock, count * LENGTH.size)
    return [_exactly(sock, length) for (length,) in LENGTH.iter_unpack(lengths)]


def _exactly(sock: socket.socket, size: int) -> bytes:
    pieces = []
    while size:
        piece = sock.recv(min(size, 1 << 20))
        if not piece:
            raise EOFError
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
