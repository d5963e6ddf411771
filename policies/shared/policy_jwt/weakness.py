"""Public keys that prove nothing: who knows only the key can sign, or checking a signature takes too long.

A separate module because it is arithmetic on numbers, which no library for signatures does when it reads a key.
"""

from __future__ import annotations

from math import isqrt

SHORTEST_RSA = 2048
"""Bits; RFC 7518, 3.3."""
LONGEST_RSA = 16_384
"""Bits; OpenSSL verifies with no longer ones (OPENSSL_RSA_MAX_MODULUS_BITS)."""
_LONGEST_EXPONENT = 64  # bits; OpenSSL's limit for a modulus over 3072 bits

_SMALL_PRIMES = tuple(n for n in range(3, 752, 2) if all(n % d for d in range(3, isqrt(n) + 1, 2)))  # SP 800-89, 5.3.3
_ROCA_POWERS = {
    prime: frozenset(pow(65537, power, prime) for power in range(prime - 1)) for prime in _SMALL_PRIMES if prime <= 167
}

_P25519 = 2**255 - 19
_D25519 = -121665 * pow(121666, -1, _P25519) % _P25519
_P448 = 2**448 - 2**224 - 1
_D448 = -39081


def rsa_weakness(modulus: int, exponent: int) -> str | None:
    """Return what is wrong with an RSA key, None when nothing is known to be."""
    bits = modulus.bit_length()
    if bits < SHORTEST_RSA:
        return f"an RSA key must have {SHORTEST_RSA} bits, this one has {bits}"
    if bits > LONGEST_RSA:
        return f"an RSA key may have {LONGEST_RSA} bits, this one has {bits}"
    if not modulus % 2 or any(modulus % prime == 0 for prime in _SMALL_PRIMES):
        return "the modulus of this RSA key has a small factor"
    if isqrt(modulus) ** 2 == modulus:
        return "the modulus of this RSA key is a square"
    if exponent < 3 or not exponent % 2 or exponent.bit_length() > _LONGEST_EXPONENT:
        return f"the exponent of an RSA key must be odd, from 3 on, and have {_LONGEST_EXPONENT} bits at most"
    if _made_by_roca(modulus):
        return "this RSA key was made by a faulty library and its factors can be found (ROCA, CVE-2017-15361)"
    return None


def _made_by_roca(modulus: int) -> bool:
    """Tell whether the modulus is a power of 65537 modulo every small prime (Nemec and others, CCS 2017, 2.2)."""
    return all(modulus % prime in powers for prime, powers in _ROCA_POWERS.items())


def ed25519_weakness(raw: bytes) -> str | None:
    """Return what is wrong with an Ed25519 key (RFC 8032, 5.1.5), None when nothing is known to be."""
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    square = y * y
    x_square = (square - 1) * pow(_D25519 * square + 1, -1, _P25519) % _P25519
    return _edwards_weakness(y, _P25519, x_square, order_8=_is_of_order_8(y))


def ed448_weakness(raw: bytes) -> str | None:
    """Return what is wrong with an Ed448 key (RFC 8032, 5.2.5), None when nothing is known to be."""
    y = int.from_bytes(raw, "little") & (2**455 - 1)
    square = y * y
    x_square = (square - 1) * pow(_D448 * square - 1, -1, _P448) % _P448
    return _edwards_weakness(y, _P448, x_square, order_8=False)


def _is_of_order_8(y: int) -> bool:
    """Tell whether y belongs to a point of order 8: y**4 * d + 2 * y**2 - 1 is 0, that is doubling it gives y = 0."""
    square = y * y
    return (square * square * _D25519 + 2 * square - 1) % _P25519 == 0


def _edwards_weakness(y: int, p: int, x_square: int, *, order_8: bool) -> str | None:
    if y >= p or (x_square and pow(x_square, (p - 1) // 2, p) != 1):
        return "this is no point of the curve"
    # Order 1 and 2 have x = 0, order 4 has y = 0. With such a key, signatures of any text can be made without a secret.
    if not x_square or not y or order_8:
        return "this point of the curve is of small order"
    return None
