"""Statuses whose responses have no content; for the engine and the test kit."""

from __future__ import annotations

from typing import Final

WITHOUT_CONTENT: Final = frozenset({204, 205, 304})
"""Final statuses whose responses have no content (RFC 9110, 15.3.5, 15.3.6, 15.4.5).

A client reads no further than the headers of 204 and 304 (RFC 9112, 6.3): what is sent behind them, it takes for the
beginning of the next response.
"""
