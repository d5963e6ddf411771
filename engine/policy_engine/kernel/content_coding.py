"""Decodes and encodes compressed bodies (RFC 9110, 8.4) within a size limit; a decompression bomb stops at the limit.

Apart from the session because it is the only part of the kernel that computes on bodies, and the one to fuzz.
"""

from __future__ import annotations

import zlib

import brotli

CODINGS = frozenset({"gzip", "deflate", "br"})
"""What can be decoded and encoded."""

_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_PIECE = 256 * 1024


class BodyTooLarge(Exception):
    """The decoded body is larger than the configured limit (R-09)."""


class UndecodableBody(Exception):
    """The body is not what its `content-encoding` says, or the coding is not one we know."""


def codings_of(header: str | None) -> tuple[str, ...]:
    """Return the codings of a `content-encoding` value in the order they were applied, without `identity`."""
    if not header:
        return ()
    names = (part.strip().lower() for part in header.split(","))
    return tuple("gzip" if name == "x-gzip" else name for name in names if name not in ("", "identity"))


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


def _inflate(body: bytes, window: int, limit: int) -> bytes:
    out = bytearray()
    rest = body
    try:
        while True:  # a gzip body may hold several members (RFC 1952, 2.2)
            inflater = zlib.decompressobj(window)
            out += inflater.decompress(rest, limit + 1 - len(out))
            if len(out) > limit:
                raise BodyTooLarge(f"decoded body exceeds {limit} bytes")
            if not inflater.eof:
                raise UndecodableBody("compressed body is cut short")
            rest = inflater.unused_data
            if not rest or window != _GZIP_WINDOW:
                return bytes(out)
    except zlib.error as error:
        raise UndecodableBody(str(error)) from None


def _deflate(body: bytes, limit: int) -> bytes:
    try:
        return _inflate(body, zlib.MAX_WBITS, limit)
    except UndecodableBody:
        return _inflate(body, -zlib.MAX_WBITS, limit)  # raw deflate is what some senders mean by it


def _brotli(body: bytes, limit: int) -> bytes:
    out = bytearray()
    decompressor = brotli.Decompressor()
    try:
        for at in range(0, len(body), 1024):
            # Small input pieces bound what one call can produce before the limit is looked at.
            out += decompressor.process(body[at : at + 1024], output_buffer_limit=_PIECE)
            while not decompressor.can_accept_more_data():
                out += decompressor.process(b"", output_buffer_limit=_PIECE)
                if len(out) > limit:
                    raise BodyTooLarge(f"decoded body exceeds {limit} bytes")
            if len(out) > limit:
                raise BodyTooLarge(f"decoded body exceeds {limit} bytes")
    except brotli.error as error:
        raise UndecodableBody(str(error)) from None
    if not decompressor.is_finished():
        raise UndecodableBody("compressed body is cut short")
    return bytes(out)
