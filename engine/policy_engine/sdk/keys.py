"""Keys made of several parts; apart because every join of one's own has been ambiguous sooner or later."""

from __future__ import annotations

import hashlib

KeyPart = str | bytes | int | None


def joined_key(*parts: KeyPart) -> bytes:
    """Return bytes that no other sequence of parts gives: each part with its kind and its length before it.

    `("ab", "c")`, `("a", "bc")`, `("abc",)`, `("ab\\0", "c")` all differ, and so do "1", 1, b"1" and a part that is
    None. Every text has a key, also one with lone surrogates.
    """
    return b"".join(map(_framed, parts))


def digest_key(*parts: KeyPart) -> str:
    """Return the SHA-256 of `joined_key` in hexadecimal: of fixed length, and nothing of a credential in a store."""
    return hashlib.sha256(joined_key(*parts)).hexdigest()


def _framed(part: KeyPart) -> bytes:
    if part is None:
        return b"n0:"
    if isinstance(part, str):
        kind, raw = b"s", part.encode("utf-8", "surrogatepass")
    elif isinstance(part, bytes):
        kind, raw = b"b", part
    else:
        kind, raw = b"i", str(part).encode()
    return b"%b%d:%b" % (kind, len(raw), raw)
