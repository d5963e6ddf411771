"""Formats that are checked in bodies, in linear time; apart because `jsonschema`'s own depend on what is installed."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable

from jsonschema import FormatChecker

from policy_engine.sdk import PointerError, parse_pointer

from .keywords import compiled

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = rf"{_LABEL}(?:\.{_LABEL})*"
_DATE = r"\d{4}-\d{2}-\d{2}"
_TIME = r"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)"
_SECONDS = r"\d+(?:[.,]\d+)?S"
_DURATION_TIME = rf"T(?:\d+H(?:\d+M(?:{_SECONDS})?)?|\d+M(?:{_SECONDS})?|{_SECONDS})"
_DURATION = (
    rf"P(?:\d+W|(?:\d+D|\d+M(?:\d+D)?|\d+Y(?:\d+M(?:\d+D)?)?)(?:{_DURATION_TIME})?|{_DURATION_TIME})"  # RFC 3339, A
)
_URI_TEXT = r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*"
_PATTERNS = {
    "email": rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~-]+)*@{_HOSTNAME}",
    "time": _TIME,
    "duration": _DURATION,
    "uri": rf"[A-Za-z][A-Za-z0-9+.-]*:{_URI_TEXT}",
    "uri-reference": _URI_TEXT,
    "uuid": r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}",
}


def _fits(pattern: str) -> Callable[[str], bool]:
    whole = compiled(rf"(?s)\A(?:{pattern})\z")
    return lambda text: whole.search(text) is not None


def _is_hostname(text: str) -> bool:
    return len(text) <= 253 and _HOSTNAME_FITS(text)


def _is_date(text: str) -> bool:
    try:
        return _DATE_FITS(text) and datetime.date.fromisoformat(text) is not None
    except ValueError:
        return False


def _is_date_time(text: str) -> bool:
    return len(text) > 11 and text[10] in "Tt" and _is_date(text[:10]) and _TIME_FITS(text[11:])


def _is_ipv4(text: str) -> bool:
    return _is_address(ipaddress.IPv4Address, text)


def _is_ipv6(text: str) -> bool:
    return "%" not in text and _is_address(ipaddress.IPv6Address, text)


def _is_json_pointer(text: str) -> bool:
    try:
        parse_pointer(text)
    except PointerError:
        return False
    return True


def _is_address(kind: Callable[[str], object], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


_HOSTNAME_FITS, _DATE_FITS, _TIME_FITS = _fits(_HOSTNAME), _fits(_DATE), _fits(_TIME)

CHECKS: dict[str, Callable[[str], bool]] = {
    **{name: _fits(pattern) for name, pattern in _PATTERNS.items()},
    "hostname": _is_hostname,
    "date": _is_date,
    "date-time": _is_date_time,
    "ipv4": _is_ipv4,
    "ipv6": _is_ipv6,
    "json-pointer": _is_json_pointer,
}
"""The formats that are checked, by name."""


def checker() -> FormatChecker:
    """Return what `jsonschema` asks about formats."""
    made = FormatChecker(formats=())
    made.checkers = {name: (_of_text(check), ()) for name, check in CHECKS.items()}
    return made


def _of_text(check: Callable[[str], bool]) -> Callable[[object], bool]:
    return lambda value: not isinstance(value, str) or check(value)
