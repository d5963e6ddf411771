"""How secrets are kept out of what is shown: the mark in their place, and the names that speak of one."""

from __future__ import annotations

REDACTED = "***"
"""What is shown in the place of a secret (R-24)."""

_SECRET_WORDS = frozenset(
    {"password", "passwd", "passphrase", "secret", "secrets", "token", "credential", "credentials"}
)


def sounds_secret(name: str) -> bool:
    """Return whether a key's name says that its value is a secret (`client_secret`, `adminPassword`)."""
    spaced = "".join(f" {char.lower()}" if char.isupper() else char for char in name)
    words = spaced.replace("-", " ").replace("_", " ").replace(".", " ").split()
    return bool(words) and words[-1] in _SECRET_WORDS
