"""Descriptors that one process gives another over a Unix socket (`SCM_RIGHTS`, unix(7)), with words about them.

A socket that is passed on stays the one it is: what waits in its backlog is not lost, whoever accepts next.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

MOST_DESCRIPTORS = 200
"""Of one message; Linux takes 253 (`SCM_MAX_FD`)."""
_MOST_BYTES = 1 << 20
_LENGTH = struct.Struct("!I")
_INT = struct.calcsize("i")
_CLOSED_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
"""Linux; elsewhere there is a moment in which a program started by another thread would inherit them."""

Message = dict[str, Any]


class NotPassed(Exception):
    """What should have come did not; the message says why."""


def send_descriptors(sock: socket.socket, message: Message, descriptors: Sequence[int]) -> None:
    """Send one message and its descriptors, which stay open here; raises OSError."""
    body = json.dumps(message, separators=(",", ":")).encode()
    data = _LENGTH.pack(len(body)) + body
    sent = socket.send_fds(sock, [data], list(descriptors)) if descriptors else 0
    if sent < len(data):
        sock.sendall(data[sent:])


def receive_descriptors(sock: socket.socket) -> tuple[Message, list[int]]:
    """Return the next message and its descriptors, which no program that is started inherits.

    Raises NotPassed or OSError (TimeoutError for that of `sock`), and then keeps none open.
    """
    received: list[int] = []
    try:
        (length,) = _LENGTH.unpack(_read(sock, _LENGTH.size, received))
        if length > _MOST_BYTES:
            raise NotPassed(f"a message of {length} bytes; at most {_MOST_BYTES} are taken")
        message = json.loads(_read(sock, length, received))
        if not isinstance(message, dict):
            raise NotPassed("a message that is no object")
    except BaseException as error:
        for descriptor in received:
            socket.close(descriptor)
        if isinstance(error, ValueError):
            raise NotPassed("a message that is not JSON") from None
        raise
    return message, received


def _read(sock: socket.socket, size: int, received: list[int]) -> bytes:
    """Return `size` bytes, and add what descriptors come with them to `received`."""
    data = bytearray()
    while len(data) < size:
        piece, control, flags, _ = sock.recvmsg(
            size - len(data), socket.CMSG_SPACE(MOST_DESCRIPTORS * _INT), _CLOSED_ON_EXEC
        )
        for level, kind, content in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(content) - len(content) % _INT
                received += struct.unpack(f"{whole // _INT}i", content[:whole])
        if flags & socket.MSG_CTRUNC:
            raise NotPassed("more descriptors than are taken, or than this process may have open (ulimit -n)")
        if not piece:
            raise NotPassed("the other process ended")
        data += piece
    return bytes(data)
