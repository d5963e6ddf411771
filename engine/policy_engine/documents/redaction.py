"""How secrets are kept out of what is shown: the mark in their place, and the names that speak of one."""

from __future__ import annotations

from collections.abc import Iterable

REDACTED = "***"
"""What is shown in the place of a secret (R-24)."""

_SHORTEST_PIECE = 4

_SECRET_WORDS = frozenset(
    {"password", "passwd", "passphrase", "secret", "secrets", "token", "credential", "credentials"}
)


def sounds_secret(name: str) -> bool:
    """Return whether a key's name says that its value is a secret (`client_secret`, `adminPassword`)."""
    spaced = "".join(f" {char.lower()}" if char.isupper() else char for char in name)
    words = spaced.replace("-", " ").replace("_", " ").replace(".", " ").split()
    return bool(words) and words[-1] in _SECRET_WORDS


def strike_out_pieces(text: str, secrets: Iterable[str]) -> str:
    """Return `text` with all that it shares with a secret replaced, runs of up to three characters aside."""
    known = {secret[at : at + _SHORTEST_PIECE] for secret in secrets for at in range(len(secret) - _SHORTEST_PIECE + 1)}
    shown: list[str] = []
    hidden = 0
    for at, char in enumerate(text):
        if text[at : at + _SHORTEST_PIECE] in known:
            if hidden <= at:
                shown.append(REDACTED)
            hidden = at + _SHORTEST_PIECE
        elif at >= hidden:
            shown.append(char)
    return "".join(shown)
