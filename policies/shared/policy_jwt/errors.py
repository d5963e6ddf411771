"""The two ways in which a token is not accepted; apart so that every module can raise them."""

from __future__ import annotations


class InvalidToken(Exception):
    """The token is not to be trusted. `reason` is a short constant for the operator's log, never for the client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class KeysUnavailable(Exception):
    """No keys to check with: they could not be fetched, and those kept before are too old."""
