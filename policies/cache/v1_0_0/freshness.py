"""How old a response is and how long it serves (RFC 9111, 4.2); arithmetic only, so that it can be tested as such."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

from policy_engine.sdk import Headers

from .directives import Directives, delta_seconds

_HEURISTIC = frozenset((200, 203, 300, 301, 308, 404, 405, 410, 414, 501))  # RFC 9110, 15.1; without those never stored


def lifetime(status: int, headers: Headers, directives: Directives, *, received: float, default: float) -> float:
    """Return for how many seconds since it was made the response is fresh; `default` when it says nothing."""
    for name in ("s-maxage", "max-age"):
        given = directives.seconds(name)
        if given is not None:
            return given
    expires = headers.get_all("expires")
    if expires:
        until, made = http_date(expires[0]), http_date(headers.get("date"))
        if len(expires) > 1 or until is None:
            return 0
        return max(0.0, until - (received if made is None else made))
    return default if status in _HEURISTIC else 0


def initial_age(headers: Headers, *, requested: float, received: float) -> float:
    """Return how old the response was when it arrived (RFC 9111, 4.2.3)."""
    made = http_date(headers.get("date"))
    apparent = 0.0 if made is None else max(0.0, received - made)
    told = delta_seconds((headers.get("age") or "").partition(",")[0].strip())
    return max(apparent, told + max(0.0, received - requested))


def http_date(text: str | None) -> float | None:
    """Return the time of an HTTP date in seconds since 1970; None when it is none, or several that Envoy joined."""
    if text is None or len(text) > 64 or text.count(",") > 1:
        return None
    try:
        parsed = parsedate_to_datetime(text)
        return parsed.replace(tzinfo=parsed.tzinfo or UTC).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
