"""Header blocks: HPACK decoding with a cache, checks of requests (RFC 9113 §8), and the few blocks the server sends.

Our SETTINGS_HEADER_TABLE_SIZE is 0: once the client has acknowledged it, its blocks carry no state, so that the bytes
of a block are a key for everything learnt from it. Envoy sends the same block for most streams: decoding one takes
some 50 µs, finding it again 0.1 µs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import hpack

from policy_engine.transport.native.errors import ConnectionFault, ErrorCode

_MAX_CACHED_BLOCK: Final = 1024
_MAX_CACHED_BLOCKS: Final = 1024
_MAX_GRPC_MESSAGE: Final = 1024
_MAX_TIMEOUT_SECONDS: Final = 10 * 365 * 86_400.0

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_FORBIDDEN_IN_VALUE = re.compile(rb"[\x00\r\n]")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_CONTENT_TYPE = re.compile(rb"application/grpc(?:[+;].*)?")
_TIMEOUT_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_REQUEST_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))

OK: Final = 0
INVALID_ARGUMENT: Final = 3
DEADLINE_EXCEEDED: Final = 4
NOT_FOUND: Final = 5
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14


class MalformedHeaders(Exception):
    """The list breaks RFC 9113 §8.1 to §8.3: a stream error PROTOCOL_ERROR."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What a gRPC call needs from its request headers. One object is shared by all streams with the same block."""

    path: bytes
    timeout: float | None
    """Seconds from `grpc-timeout`."""
    gzip: bool
    """Messages may be compressed with gzip."""
    announce_gzip: bool
    """The client names its encodings, so ours are worth telling."""
    content_length: int
    """-1 when the client gave none."""
    rejection: bytes | None
    """A response block that ends the stream at once: not gRPC, or not in a way that is supported."""


class HeaderDecoder:
    """HPACK state of one connection; `cache` is shared by the connections of a server."""

    __slots__ = ("_cache", "_decoder", "_stateless")

    def __init__(self, max_header_list_bytes: int, cache: dict[bytes, RequestHead]) -> None:
        self._decoder = hpack.Decoder(max_header_list_bytes)
        self._cache = cache
        self._stateless = False

    def settings_acknowledged(self) -> None:
        """From the next block on the client's table must be empty (RFC 7541 §4.2)."""
        self._decoder.max_allowed_table_size = 0

    def request(self, block: bytes) -> RequestHead:
        """Decode and check a request; raises MalformedHeaders or, when the HPACK state is lost, ConnectionFault."""
        if self._stateless:
            head = self._cache.get(block)
            if head is not None:
                return head
        cacheable = self._stateless
        try:
            head = _request_head(self._decode(block))
        except hpack.OversizedHeaderListError:
            return _oversized(self._decoder.max_header_list_size)
        if cacheable and len(block) <= _MAX_CACHED_BLOCK:
            if len(self._cache) >= _MAX_CACHED_BLOCKS:
                del self._cache[next(iter(self._cache))]
            self._cache[block] = head
        return head

    def trailers(self, block: bytes) -> None:
        """Decode and check trailers, of which gRPC requests need none."""
        try:
            fields = self._decode(block)
        except hpack.OversizedHeaderListError as error:
            raise MalformedHeaders(str(error)) from None
        for name, value in fields:
            _check_field(name, value)

    def _decode(self, block: bytes) -> Iterable[tuple[bytes, bytes]]:
        _check_size_updates(block)
        try:
            fields: Iterable[tuple[bytes, bytes]] = self._decoder.decode(block, raw=True)
        except hpack.OversizedHeaderListError:
            if not self._stateless:
                # The rest of the block was not read, so the dynamic table is not what the client thinks.
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header list too large") from None
            raise
        except hpack.HPACKError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        self._stateless = self._decoder.max_allowed_table_size == 0
        return fields


def _check_size_updates(block: bytes) -> None:
    # RFC 7541 §4.2 allows two; the decoder would walk through any number of them.
    position = updates = 0
    while position < len(block) and block[position] & 0xE0 == 0x20:
        updates += 1
        if updates > 2:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "more than two dynamic table size updates in a block")
        if block[position] & 0x1F == 0x1F:
            position += 1
            while position < len(block) and block[position] & 0x80:
                position += 1
        position += 1


def _check_field(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name):
        raise MalformedHeaders(f"field name {name[:64]!r}")
    if _FORBIDDEN_IN_VALUE.search(value) or value != value.strip(b" \t"):
        raise MalformedHeaders(f"value of field {name[:64]!r}")
    if name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
        raise MalformedHeaders(f"connection-specific field {name!r}")


def _request_head(fields: Iterable[tuple[bytes, bytes]]) -> RequestHead:
    pseudo: dict[bytes, bytes] = {}
    regular: dict[bytes, bytes] = {}
    for name, value in fields:
        if name.startswith(b":"):
            if regular or name in pseudo or name not in _REQUEST_PSEUDO:
                raise MalformedHeaders(f"pseudo-header {name[:64]!r} unknown, repeated or after other fields")
            if _FORBIDDEN_IN_VALUE.search(value):
                raise MalformedHeaders(f"value of {name!r}")
            pseudo[name] = value
        else:
            _check_field(name, value)
            if name == b"content-length" and regular.get(name, value) != value:
                raise MalformedHeaders("content-length given twice with different values")
            regular.setdefault(name, value)
    method = pseudo.get(b":method")
    if not method or (method != b"CONNECT" and not (pseudo.get(b":scheme") and pseudo.get(b":path"))):
        raise MalformedHeaders(":method, :scheme or :path missing")
    authority, host = pseudo.get(b":authority"), regular.get(b"host")
    if authority is not None and host is not None and authority.lower() != host.lower():
        raise MalformedHeaders(":authority and host differ")
    length = regular.get(b"content-length", b"")
    if length and not (length.isdigit() and len(length) < 20):
        raise MalformedHeaders("content-length is not a number")
    timeout, rejection = _timeout(regular.get(b"grpc-timeout"))
    encoding = regular.get(b"grpc-encoding", b"identity")
    return RequestHead(
        path=pseudo.get(b":path", b""),
        timeout=timeout,
        gzip=encoding == b"gzip",
        announce_gzip=b"grpc-accept-encoding" in regular or b"grpc-encoding" in regular,
        content_length=int(length) if length else -1,
        rejection=_not_grpc(method, regular.get(b"content-type", b"")) or rejection or _unsupported(encoding),
    )


def _timeout(text: bytes | None) -> tuple[float | None, bytes | None]:
    if text is None:
        return None, None
    match = _TIMEOUT.fullmatch(text)
    if match is None:
        return None, trailers_only(INTERNAL, f"malformed grpc-timeout {text[:32]!r}")
    return min(int(match[1]) * _TIMEOUT_UNITS[match[2]], _MAX_TIMEOUT_SECONDS), None


def _not_grpc(method: bytes, content_type: bytes) -> bytes | None:
    if method != b"POST":
        return encode(((":status", "405"), ("allow", "POST"), ("content-length", "0")))
    if not _CONTENT_TYPE.fullmatch(content_type):
        return encode(((":status", "415"), ("content-length", "0")))
    return None


def _unsupported(encoding: bytes) -> bytes | None:
    if encoding in (b"identity", b"gzip"):
        return None
    return encode(
        (
            *_RESPONSE,
            ("grpc-accept-encoding", "identity,gzip"),
            ("grpc-status", str(UNIMPLEMENTED)),
            ("grpc-message", percent_encode(f"grpc-encoding {encoding[:32]!r} is not supported: identity, gzip are")),
        )
    )


@lru_cache(8)
def _oversized(limit: int) -> RequestHead:
    rejection = trailers_only(RESOURCE_EXHAUSTED, f"request header list is larger than {limit} bytes")
    return RequestHead(path=b"", timeout=None, gzip=False, announce_gzip=False, content_length=-1, rejection=rejection)


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """Encode a block that needs no dynamic table, so that it may be sent on any connection, any number of times."""
    never_indexed = [hpack.NeverIndexedHeaderTuple(name.encode(), value.encode("latin-1")) for name, value in fields]
    return bytes(hpack.Encoder().encode(never_indexed, huffman=False))


def percent_encode(text: str) -> str:
    """`grpc-message` of the gRPC HTTP/2 protocol: printable ASCII without `%` as it is, all other bytes as `%XX`."""
    octets = text.encode("utf-8", "replace")[:_MAX_GRPC_MESSAGE]
    return "".join(chr(octet) if 0x20 <= octet <= 0x7E and octet != 0x25 else f"%{octet:02X}" for octet in octets)


_RESPONSE: Final = ((":status", "200"), ("content-type", "application/grpc"))

TABLE_SIZE_ZERO: Final = b"\x20"
"""Begins the first block of a connection: our table is and stays empty, whatever the client allows (RFC 7541 §4.2)."""
RESPONSE_HEADERS: Final = encode(_RESPONSE)
RESPONSE_HEADERS_GZIP: Final = encode((*_RESPONSE, ("grpc-accept-encoding", "identity,gzip")))
TRAILERS_OK: Final = encode((("grpc-status", "0"),))


def _status_fields(status: int, message: str) -> tuple[tuple[str, str], ...]:
    encoded = percent_encode(message).strip()
    return (("grpc-status", str(status)), ("grpc-message", encoded)) if encoded else (("grpc-status", str(status)),)


@lru_cache(256)
def trailers(status: int, message: str) -> bytes:
    """Trailers that follow response headers."""
    return encode(_status_fields(status, message))


@lru_cache(256)
def trailers_only(status: int, message: str) -> bytes:
    """Return the one block of a response without messages (`Trailers-Only`)."""
    return encode((*_RESPONSE, *_status_fields(status, message)))
