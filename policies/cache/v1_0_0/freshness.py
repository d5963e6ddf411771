"""How old a response is and how long it serves (RFC 9111, 4.2); arithmetic only, so that it can be tested as such."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

from policy_engine.sdk import Headers, list_members

from .directives import Directives, delta_seconds

# The three forms of RFC 9110, 5.6.7, each of which begins with the name of a day.
_DATE = re.compile(
    r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"
    r"|[A-Z][a-z]{5,8}, \d\d-[A-Z][a-z]{2}-\d\d \d\d:\d\d:\d\d GMT"
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}",
    re.ASCII,
)
_HEURISTIC = frozenset((200, 203, 300, 301, 308, 404, 405, 410, 414, 501))  # RFC 9110, 15.1; without those never stored


def lifetime(status: int, headers: Headers, directives: Directives, *, received: float, default: float) -> float:
    """Return for how many seconds since it was made the response is fresh; `default` when it says nothing."""
    for name in ("s-maxage", "max-age"):
        given = directives.seconds(name)
        if given is not None:
            return given
    expires = headers.get_all("expires")
    if expires:
        # Repeated is stale (RFC 9111, 4.2.1), also when Envoy has made one line of it.
        until = http_date(expires[0]) if len(expires) == 1 and _DATE.fullmatch(expires[0]) else None
        made = date_of(headers, "date")
        return 0 if until is None else max(0.0, until - (received if made is None else made))
    return default if status in _HEURISTIC else 0


def initial_age(headers: Headers, *, requested: float, received: float) -> float:
    """Return how old the response was when it arrived (RFC 9111, 4.2.3)."""
    made = date_of(headers, "date")
    apparent = 0.0 if made is None else max(0.0, received - made)
    told = max(map(delta_seconds, list_members(headers.get_all("age"))), default=0)
    return max(apparent, told + max(0.0, received - requested))


def date_of(headers: Headers, name: str) -> float | None:
    """Return the time in a header that holds one HTTP date; None without one, or with several that differ."""
    values = set(headers.get_all(name))
    return http_date(values.pop()) if len(values) == 1 else None


def http_date(text: str | None) -> float | None:
    """Return an HTTP date (RFC 9110, 5.6.7) in seconds since 1970; None when it is none.

    Envoy joins several lines by commas: equal dates count as one.
    """
    text = text or ""
    found = _DATE.match(text)
    if found is None or text != ",".join([found[0]] * text.count(found[0])):
        return None
    try:
        parsed = parsedate_to_datetime(found[0])
        return parsed.replace(tzinfo=parsed.tzinfo or UTC).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
