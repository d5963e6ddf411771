"""gRPC length-prefixed messages out of DATA payloads: chunks are collected and joined once per message."""

from __future__ import annotations

import zlib
from collections import deque
from struct import Struct
from typing import Final

from policy_engine.kernel.stream import StreamError
from policy_engine.transport.native.headers import INTERNAL, RESOURCE_EXHAUSTED

PREFIX: Final = Struct(">BI")
PREFIX_SIZE: Final = 5

# Payloads smaller than this are joined with their neighbour: a client that sends single bytes must not cost objects.
_SMALL_CHUNK: Final = 4096
_GZIP_WINDOW: Final = 31


class MessageReader:
    """Bytes of one stream that are not a delivered message yet."""

    __slots__ = ("_chunks", "_gzip", "_limit", "_offset", "_wanted", "buffered")

    def __init__(self, limit: int, *, gzip: bool) -> None:
        self._chunks: deque[bytes] = deque()
        self._offset = 0
        self._limit = limit
        self._gzip = gzip
        self._wanted = PREFIX_SIZE
        """Bytes that `next` needs to get on: a prefix, or the whole message when its length is known."""
        self.buffered = 0

    def feed(self, chunk: bytes) -> None:
        """Take the payload of a DATA frame."""
        if not chunk:
            return
        self.buffered += len(chunk)
        chunks = self._chunks
        if chunks and len(chunk) < _SMALL_CHUNK and len(chunks[-1]) < _SMALL_CHUNK:
            if len(chunks) == 1 and self._offset:
                chunk = chunks.pop()[self._offset :] + chunk
                self._offset = 0
            else:
                chunk = chunks.pop() + chunk
        chunks.append(chunk)

    def missing(self) -> int:
        """Bytes that the message at the front still lacks; 0 when it is complete or its length is not known yet."""
        if self._wanted > PREFIX_SIZE:
            return max(0, self._wanted - self.buffered)
        if self.buffered < PREFIX_SIZE:
            return 0
        _, length = self._prefix()
        return max(0, PREFIX_SIZE + length - self.buffered)

    def next(self) -> bytes | None:
        """Return the next message, None while it is incomplete; raises StreamError as soon as it cannot be accepted."""
        if self.buffered < self._wanted:
            return None
        compressed, length = self._prefix()
        if length > self._limit:
            raise StreamError(
                RESOURCE_EXHAUSTED, f"message of {length} bytes is larger than the limit of {self._limit} bytes"
            )
        if compressed and not (compressed == 1 and self._gzip):
            raise StreamError(INTERNAL, "compressed message without a grpc-encoding that allows it")
        self._wanted = PREFIX_SIZE + length
        if self.buffered < self._wanted:
            return None
        self._wanted = PREFIX_SIZE
        self._skip(PREFIX_SIZE)
        message = self._take(length)
        return decompress(message, self._limit) if compressed else message

    def _prefix(self) -> tuple[int, int]:
        chunks = self._chunks
        if len(chunks[0]) - self._offset < PREFIX_SIZE:
            head = chunks.popleft()[self._offset :]
            while len(head) < PREFIX_SIZE:
                head += chunks.popleft()
            chunks.appendleft(head)
            self._offset = 0
        compressed, length = PREFIX.unpack_from(chunks[0], self._offset)
        return compressed, length

    def _skip(self, size: int) -> None:
        self.buffered -= size
        self._offset += size
        if self._offset == len(self._chunks[0]):
            self._chunks.popleft()
            self._offset = 0

    def _take(self, size: int) -> bytes:
        if size == 0:
            return b""
        chunks, offset = self._chunks, self._offset
        stop = offset + size
        if stop <= len(chunks[0]):
            message = chunks[0][offset:stop]
            self._skip(size)
            return message
        self.buffered -= size
        parts: list[bytes | memoryview] = [memoryview(chunks.popleft())[offset:]]
        size -= len(parts[0])
        self._offset = 0
        while size:
            chunk = chunks.popleft()
            if len(chunk) > size:
                parts.append(memoryview(chunk)[:size])
                chunks.appendleft(chunk)
                self._offset = size
                break
            parts.append(chunk)
            size -= len(chunk)
        return b"".join(parts)


def decompress(message: bytes, limit: int) -> bytes:
    """Undo gzip without ever making more than `limit` bytes; raises StreamError."""
    decoder = zlib.decompressobj(_GZIP_WINDOW)
    try:
        plain = decoder.decompress(message, limit + 1)
    except zlib.error as error:
        raise StreamError(INTERNAL, f"message is not gzip: {error}") from None
    if len(plain) > limit:
        raise StreamError(RESOURCE_EXHAUSTED, f"decompressed message is larger than the limit of {limit} bytes")
    if not decoder.eof or decoder.unused_data:
        raise StreamError(INTERNAL, "message is not one whole gzip stream")
    return plain
