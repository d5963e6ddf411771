"""Stored passwords: slow salted hashes, read and checked; apart from the policy because they know no HTTP."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode
from dataclasses import dataclass

_MOST_MEMORY = 64 * 1024 * 1024  # bytes for one scrypt: 128 * N * r


@dataclass(frozen=True, slots=True, repr=False)
class Scrypt:
    """RFC 7914."""

    n: int
    r: int
    p: int
    salt: bytes
    expected: bytes

    @property
    def cost(self) -> tuple[object, ...]:
        """What decides how long `fits` takes."""
        return ("scrypt", self.n, self.r, self.p, len(self.expected))

    def fits(self, password: bytes) -> bool:
        """Return whether it is the password. Takes tens of milliseconds and lets other threads run meanwhile."""
        made = hashlib.scrypt(
            password, salt=self.salt, n=self.n, r=self.r, p=self.p, maxmem=2 * _MOST_MEMORY, dklen=len(self.expected)
        )
        return hmac.compare_digest(made, self.expected)


@dataclass(frozen=True, slots=True, repr=False)
class Pbkdf2:
    """RFC 8018 with HMAC-SHA-256."""

    iterations: int
    salt: bytes
    expected: bytes

    @property
    def cost(self) -> tuple[object, ...]:
        """What decides how long `fits` takes."""
        return ("pbkdf2-sha256", self.iterations, len(self.expected))

    def fits(self, password: bytes) -> bool:
        """Return whether it is the password. Takes tens of milliseconds and lets other threads run meanwhile."""
        made = hashlib.pbkdf2_hmac("sha256", password, self.salt, self.iterations, len(self.expected))
        return hmac.compare_digest(made, self.expected)


StoredPassword = Scrypt | Pbkdf2


def parse(text: str) -> StoredPassword:
    """Read a stored password; raises ValueError, whose text does not hold it, when it is malformed or too weak."""
    kind, *parts = text.split("$")
    try:
        *numbers, salt, expected = parts
        costs = [int(number) for number in numbers]
        raw_salt, raw_expected = b64decode(salt, validate=True), b64decode(expected, validate=True)
    except ValueError:
        raise ValueError("expected scrypt$N$r$p$SALT$HASH or pbkdf2-sha256$ITERATIONS$SALT$HASH") from None
    if len(raw_salt) < 8 or not 16 <= len(raw_expected) <= 64:
        raise ValueError("the salt must have 8 bytes or more and the hash 16 to 64")
    match kind, costs:
        case "scrypt", [n, r, p]:
            if n & (n - 1) or n < 2**13 or not 1 <= r <= 32 or not 1 <= p <= 16 or 128 * n * r > _MOST_MEMORY:
                raise ValueError("scrypt: N is a power of 2 from 8192 on, r 1 to 32, p 1 to 16, 128*N*r at most 64 MiB")
            return Scrypt(n, r, p, raw_salt, raw_expected)
        case "pbkdf2-sha256", [iterations]:
            if not 100_000 <= iterations <= 10_000_000:
                raise ValueError("pbkdf2-sha256: 100000 to 10000000 iterations")
            return Pbkdf2(iterations, raw_salt, raw_expected)
    raise ValueError("expected scrypt$N$r$p$SALT$HASH or pbkdf2-sha256$ITERATIONS$SALT$HASH")
