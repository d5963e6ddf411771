"""The one interface between a transport and the kernel: bytes of a message in, bytes of its replies out.

A separate module so that several transports (native HTTP/2, grpcio) and their tests share it without knowing
what a session does with the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

Replies = bytes | tuple[bytes, ...] | None
"""Serialised `ProcessingResponse` messages to send now: one, several in order, or none."""


class StreamError(Exception):
    """End the gRPC stream with this status; `status` is a gRPC status code, `message` goes into `grpc-message`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Peer:
    """The other end of one connection: a transport makes one for each and gives it to every handler on it.

    What the two mean is `kernel.promises`.
    """

    __slots__ = ("doubted", "honoured")

    def __init__(self) -> None:
        self.honoured = False
        self.doubted = False


class StreamHandler(Protocol):
    """One `Process` stream. The transport calls it from the event loop, never twice at once for one stream.

    When `receive` returns a coroutine the transport awaits it (in a task of the stream) before it delivers the
    stream's next message, and cancels it when the stream is reset.
    """

    def receive(self, message: bytes) -> Replies | Coroutine[Any, Any, Replies]:
        """Take one gRPC message (without its length prefix); raises StreamError to end the stream."""
        ...

    def close(self) -> None:
        """The stream is over, however it ended (answered, reset, connection lost). Called exactly once."""
        ...


StreamHandlerFactory = Callable[[Peer], StreamHandler]
"""Makes the handler of a stream on the connection to that peer."""
