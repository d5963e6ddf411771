"""Changes to the query of a request target: the one place where query parameters are encoded.

What is not changed keeps its bytes, its place and its way of writing: order and spelling may be signed, or be what a
cache knows the request by. Names are compared decoded, as `Request.query` gives them (WHATWG URL, 5.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote, unquote_plus

QueryValue = str | Sequence[str]

_KEPT = "-._~/:@,"
"""Characters of a name or value that stand for themselves everywhere in a query (RFC 3986, 3.4); a space becomes `%20`,
which every reader takes for one, where `+` is one only to readers of forms."""


def edited_target(
    target: str,
    *,
    removed: Iterable[str] = (),
    replaced: Mapping[str, QueryValue] | None = None,
    appended: Iterable[tuple[str, str]] = (),
) -> str:
    """Return `target` (path, and query after the first `?`) with query parameters removed, then set, then appended.

    A parameter that is set takes the place of its first occurrence, and all of its values stand there; a new one comes
    at the end. Without any parameter left the `?` goes too, unless nothing was changed.
    """
    path, _, query = target.partition("?")
    before = query.split("&") if query else []
    dropped, values = frozenset(removed), {name: _written(name, value) for name, value in (replaced or {}).items()}
    placed: set[str] = set()
    after: list[str] = []
    for part in before:
        name = unquote_plus(part.partition("=")[0])
        if part and name in values and name not in dropped:
            after += () if name in placed else values[name]
            placed.add(name)
        elif not part or name not in dropped:
            after.append(part)
    for name, written in values.items():
        after += () if name in placed else written
    after += [_parameter(name, value) for name, value in appended]
    if after == before:
        return target
    return f"{path}?{'&'.join(after)}" if after else path


def _written(name: str, value: QueryValue) -> list[str]:
    return [_parameter(name, one) for one in ((value,) if isinstance(value, str) else value)]


def _parameter(name: str, value: str) -> str:
    return f"{quote(name, safe=_KEPT)}={quote(value, safe=_KEPT)}"
