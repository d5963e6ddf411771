"""Decodes and encodes compressed bodies (RFC 9110, 8.4) within a size limit; a decompression bomb stops at the limit.

Apart from the session because it is the only part of the kernel that computes on bodies, and the one to fuzz. The cost
is linear in input and output whatever the input: it is read in small pieces, and what a decoder left is no larger.
"""

from __future__ import annotations

import zlib
from typing import Any

import brotli

from policy_engine.sdk import Headers, content_codings

CODINGS = frozenset({"gzip", "deflate", "br"})
"""What can be decoded and encoded."""

MOST_MEMBERS = 1_000
"""Members of one gzip body (RFC 1952, 2.2). Blocked gzip has one for each 64 KiB; more are there to cost time."""

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_INPUT = 4 * 1024
"""Bytes given to a decoder at once. It copies what it did not use, for each member or each full output."""
_OUTPUT = 256 * 1024
"""Bytes taken from a decoder at once: what comes over the limit."""


class BodyTooLarge(Exception):
    """The decoded body is larger than the configured limit (R-09)."""


class UndecodableBody(Exception):
    """The body is not what its `content-encoding` says, or the coding is not one we know."""


def codings_of(headers: Headers) -> tuple[str, ...]:
    """Return the codings of a body, in the order they were applied, without `identity`; Envoy may join their lines."""
    if "content-encoding" not in headers:
        return ()
    return tuple("gzip" if name == "x-gzip" else name for name in content_codings(headers))


def decode(body: bytes, codings: tuple[str, ...], limit: int) -> bytes:
    """Return `body` with `codings` undone; raises UndecodableBody, or BodyTooLarge above `limit` bytes at any step."""
    if len(body) > limit:
        raise BodyTooLarge(f"body exceeds {limit} bytes")
    if len(codings) > 2:
        raise UndecodableBody(f"{len(codings)} content codings on one body")
    for coding in reversed(codings):
        if coding == "gzip":
            body = _inflate(body, _GZIP_WINDOW, limit)
        elif coding == "deflate":
            body = _deflate(body, limit)
        elif coding == "br":
            body = _brotli(body, limit)
        else:
            raise UndecodableBody(f"content coding {coding!r:.40} is not supported (gzip, deflate, br are)")
    return body


def encode(body: bytes, codings: tuple[str, ...]) -> bytes:
    """Return `body` with `codings` applied again, so that a changed body still matches its headers."""
    for coding in codings:
        if coding == "gzip":
            compressor = zlib.compressobj(6, zlib.DEFLATED, _GZIP_WINDOW)
            body = compressor.compress(body) + compressor.flush()
        elif coding == "deflate":
            body = zlib.compress(body)
        elif coding == "br":
            body = brotli.compress(body, quality=4)
    return body


class _Output:
    """What a decoder has produced, in pieces, up to the limit."""

    __slots__ = ("_limit", "_pieces", "_size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def next(self) -> int:
        """How much to ask for: one byte over the limit is enough to know."""
        return min(_OUTPUT, self._limit + 1 - self._size)

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            raise BodyTooLarge(f"decoded body exceeds {self._limit} bytes")
        self._pieces.append(piece)

    def whole(self) -> bytes:
        return b"".join(self._pieces)


def _inflate(body: bytes, window: int, limit: int) -> bytes:
    out, data, at, members = _Output(limit), memoryview(body), 0, 1
    inflater = zlib.decompressobj(window)
    try:
        while True:
            piece: bytes | memoryview = inflater.unconsumed_tail
            if not piece:
                piece = data[at : at + _INPUT]
                at += len(piece)
            produced = inflater.decompress(piece, out.next)
            out.add(produced)
            if inflater.eof:
                at -= len(inflater.unused_data)
                if at == len(data) or window != _GZIP_WINDOW:
                    return out.whole()
                members += 1
                if members > MOST_MEMBERS:
                    raise UndecodableBody(f"more than {MOST_MEMBERS} gzip members")
                inflater = zlib.decompressobj(window)
            elif not piece and not produced:
                raise UndecodableBody("compressed body is cut short")
    except zlib.error as error:
        raise UndecodableBody(str(error)) from None


def _deflate(body: bytes, limit: int) -> bytes:
    try:
        return _inflate(body, zlib.MAX_WBITS, limit)
    except UndecodableBody:
        return _inflate(body, -zlib.MAX_WBITS, limit)  # raw deflate is what some senders mean by it


def _brotli(body: bytes, limit: int) -> bytes:
    out, data, decompressor = _Output(limit), memoryview(body), brotli.Decompressor()
    try:
        for at in range(0, len(data), _INPUT):
            out.add(decompressor.process(bytes(data[at : at + _INPUT]), output_buffer_limit=_OUTPUT))
            _drain(decompressor, out)
    except brotli.error as error:
        raise UndecodableBody(str(error)) from None
    if not decompressor.is_finished():
        raise UndecodableBody("compressed body is cut short")
    return out.whole()


def _drain(decompressor: Any, out: _Output) -> None:
    """Take all that the input so far makes: a decoder that wants more input may still hold output."""
    while not decompressor.is_finished():
        produced = decompressor.process(b"", output_buffer_limit=_OUTPUT)
        out.add(produced)
        if not produced and decompressor.can_accept_more_data():
            return
