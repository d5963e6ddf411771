"""What can still be done for a body once its trailers are there: Envoy sends no body message without DATA, and marks no
chunk before trailers as the last.

Apart from `phases` because it is about what cannot be sent any more, not about which policies run.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import fields
from typing import Any

from policy_engine.kernel.stream import Replies

_NO_CHANGE = ("dynamic_metadata", "clear_route_cache")


def changes(action: Any) -> bool:
    """Tell whether an action changes the message, other than an empty body to an empty one."""
    return any(getattr(action, field.name) for field in fields(action) if field.name not in _NO_CHANGE)


def in_front(first: bytes, rest: Replies | Coroutine[Any, Any, Replies]) -> Replies | Coroutine[Any, Any, Replies]:
    """Return the replies of `rest` with `first` before them."""
    return _later(first, rest) if isinstance(rest, Coroutine) else _joined(first, rest)


async def _later(first: bytes, rest: Coroutine[Any, Any, Replies]) -> Replies:
    return _joined(first, await rest)


def _joined(first: bytes, rest: Replies) -> Replies:
    return (first, rest) if isinstance(rest, bytes) else (first, *(rest or ()))
