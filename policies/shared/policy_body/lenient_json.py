"""JSON as upstreams send it: whatever some client could read is read, and goes on as it was.

A separate module from `strict_json` because the aims are opposite: what a client writes may be refused when two parsers
could disagree; what an upstream writes has to be looked at and passed on. Only bytes that no parser takes are refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from policy_body.strict_json import NotJson, check_levels, dump, parse

_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}|(.?))', re.DOTALL)
_LARGEST = 1.7976931348623157e308  # of binary64, which RFC 8259, 6 names as what parsers share
_MOST_DIGITS = 300
_MOST_LEVELS = 256


@dataclass(frozen=True, slots=True)
class LenientReading:
    """A value, and whether every parser reads the same out of the bytes.

    When `exact` is false (a name twice, NaN, odd escapes, no UTF-8), what goes on must be written anew by
    `write_leniently`, or a client may see what was not looked at. Of a name that occurs twice the last value is kept,
    as most parsers have it.
    """

    value: Any
    exact: bool


def read_leniently(data: bytes) -> LenientReading:
    """Return what `data` says; raises NotJson when it is no JSON even with a lenient eye.

    Beyond RFC 8259 are taken: a byte order mark, bytes that are no UTF-8 (as U+FFFD), names that occur twice, NaN and
    Infinity, numbers of any size (as the largest there is), control characters and unknown escapes in texts, halves of
    surrogate pairs, and more levels than the strict reader allows.
    """
    try:
        return LenientReading(parse(data), exact=True)
    except NotJson:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    try:
        return LenientReading(_loads(text), exact=False)
    except NotJson:
        return LenientReading(_loads(_ESCAPE.sub(_known_escape, text)), exact=False)


def write_leniently(value: Any) -> bytes:
    """Return a value of `read_leniently` as compact JSON; halves of surrogate pairs as the escapes that they were."""
    try:
        return dump(value)
    except ValueError:  # NaN, Infinity, or half of a surrogate pair
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def _loads(text: str) -> Any:
    try:
        value = json.loads(text, strict=False, parse_float=_float, parse_int=_int)
    except (ValueError, RecursionError):
        raise NotJson("it cannot be read") from None
    check_levels(value, _MOST_LEVELS)
    return value


def _float(text: str) -> float:
    return max(-_LARGEST, min(_LARGEST, float(text)))


def _int(text: str) -> float | int:
    return int(text) if len(text) <= _MOST_DIGITS else _float(text)


def _known_escape(found: re.Match[str]) -> str:
    return found[0] if found[1] is None else "\\\\" + found[1]
