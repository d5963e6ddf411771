"""Opens a NaCl secretbox (XSalsa20 and Poly1305), in which cosign keeps encrypted private keys.

A separate module because this is a cipher: `cryptography` has Poly1305 but no Salsa20. Of a key's few hundred bytes, so
that pure Python is fast enough. Sources: D. J. Bernstein, "Extending the Salsa20 nonce" (2011) and
"Cryptography in NaCl" (2009).
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.poly1305 import Poly1305

KEY_BYTES = 32
NONCE_BYTES = 24
TAG_BYTES = 16

_SIGMA = struct.unpack("<4I", b"expand 32-byte k")
_ROUNDS = 10  # double rounds
_WORD = 0xFFFFFFFF
_QUARTERS = (
    (0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11),
    (0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14),
)  # fmt: skip
_OUTER = (0, 5, 10, 15, 6, 7, 8, 9)
"""The words of which HSalsa20 makes a key."""


class SecretboxError(ValueError):
    """The box was not made with this key, or was changed."""


def open_secretbox(key: bytes, nonce: bytes, box: bytes) -> bytes:
    """Return what `box` (tag, then ciphertext) holds. Raises SecretboxError."""
    if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES or len(box) < TAG_BYTES:
        raise SecretboxError("key, nonce or box has a wrong length")
    inner = _words(_state(key, nonce[:16]), add=False)
    subkey = struct.pack("<8I", *(inner[index] for index in _OUTER))
    stream = _stream(subkey, nonce[16:], KEY_BYTES + len(box) - TAG_BYTES)
    tag, ciphertext = box[:TAG_BYTES], box[TAG_BYTES:]
    try:
        Poly1305.verify_tag(stream[:KEY_BYTES], ciphertext, tag)
    except InvalidSignature:
        raise SecretboxError("wrong key, or the box was changed") from None
    return bytes(one ^ other for one, other in zip(ciphertext, stream[KEY_BYTES:], strict=True))


def seal_secretbox(key: bytes, nonce: bytes, content: bytes) -> bytes:
    """Return the box (tag, then ciphertext) with `content`."""
    inner = _words(_state(key, nonce[:16]), add=False)
    subkey = struct.pack("<8I", *(inner[index] for index in _OUTER))
    stream = _stream(subkey, nonce[16:], KEY_BYTES + len(content))
    ciphertext = bytes(one ^ other for one, other in zip(content, stream[KEY_BYTES:], strict=True))
    return Poly1305.generate_tag(stream[:KEY_BYTES], ciphertext) + ciphertext


def _state(key: bytes, block: bytes) -> list[int]:
    first, second, middle = struct.unpack("<4I", key[:16]), struct.unpack("<4I", key[16:]), struct.unpack("<4I", block)
    return [_SIGMA[0], *first, _SIGMA[1], *middle, _SIGMA[2], *second, _SIGMA[3]]


def _words(state: list[int], *, add: bool) -> list[int]:
    """Return the state after 20 rounds; Salsa20 adds the state before them, HSalsa20 does not."""
    words = list(state)
    for _ in range(_ROUNDS):
        for a, b, c, d in _QUARTERS:
            words[b] ^= _rotated(words[a] + words[d], 7)
            words[c] ^= _rotated(words[b] + words[a], 9)
            words[d] ^= _rotated(words[c] + words[b], 13)
            words[a] ^= _rotated(words[d] + words[c], 18)
    return [(word + before) & _WORD for word, before in zip(words, state, strict=True)] if add else words


def _rotated(word: int, bits: int) -> int:
    word &= _WORD
    return (word << bits | word >> (32 - bits)) & _WORD


def _stream(key: bytes, nonce: bytes, length: int) -> bytes:
    blocks = (
        struct.pack("<16I", *_words(_state(key, nonce + struct.pack("<Q", number)), add=True))
        for number in range((length + 63) // 64)
    )
    return b"".join(blocks)[:length]
