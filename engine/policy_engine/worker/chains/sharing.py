"""Which requests an entry runs for when it is to run for a share of them: by a hash, the same wherever it is asked.

A separate module because the decision must not depend on anything of this process: worker processes, engines and
restarts have to put a request, or all requests of a user, on the same side.
"""

from __future__ import annotations

import random
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from policy_engine.sdk import Request, Response
from policy_engine.worker.chains.compiled import Condition
from policy_engine.worker.chains.spec import WHOLE, Share
from policy_engine.worker.conditions.condition import TextExpression, compile_text

_HASH_BYTES = 8


class Draw:
    """Where requests fall, from 0 up to `WHOLE`.

    Decided by the value of an expression; by the request's id where there is no expression, or a request does not have
    what it asks for. `salt` keeps different policies from choosing the same users. A request without an id has a place
    at random, the same for all entries of its stream.
    """

    __slots__ = ("_by", "_salt")

    def __init__(self, salt: str, by: str) -> None:
        self._salt = f"{salt}\0"
        self._by = _compiled(by) if by else None

    def of(self, request: Request) -> int:
        """Return where the request falls."""
        key = self._by.evaluate(request) if self._by is not None else None
        key = key or request.id
        if not key:
            place: int = request.state_of(Draw, _kept).setdefault("place", random.randrange(WHOLE))  # noqa: S311 - no secret
            return place
        digest = blake2b((self._salt + key).encode(errors="surrogateescape"), digest_size=_HASH_BYTES).digest()
        return int.from_bytes(digest) * WHOLE >> 8 * _HASH_BYTES


def _anywhere() -> int:
    return random.randrange(WHOLE)  # noqa: S311 - no secret


class InShare:
    """A condition that holds for the requests of a share, and of these for those for which another condition does."""

    __slots__ = ("_condition", "_draw", "_high", "_low", "text", "uses_response")

    def __init__(self, share: Share, salt: str, condition: Condition | None = None) -> None:
        self._low = share.low
        self._high = share.high
        self._draw = Draw(salt, share.by)
        self._condition = condition
        self.text = "" if condition is None else condition.text
        self.uses_response = condition is not None and condition.uses_response

    def evaluate(self, request: Request, response: Response | None) -> bool:
        """See `Condition`: the other condition first, whose failure is one wherever the request falls."""
        if self._condition is not None and not self._condition.evaluate(request, response):
            return False
        return self._low <= self._draw.of(request) < self._high

    def why_not(self, request: Request, response: Response | None) -> str:
        """See `Narrowed`."""
        holds = self._condition is None or self._condition.evaluate(request, response)
        return "the request is not in its share" if holds else ""


@lru_cache(maxsize=4096)
def _compiled(text: str) -> TextExpression:
    return compile_text(text)


def _kept() -> dict[str, Any]:
    return {}
