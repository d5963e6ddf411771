"""Writes values of cel-spec's tests in the two forms that a condition can have: as CEL, and as metadata."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tools.conformance.textproto import Message, first

_DURATION = "[type.googleapis.com/google.protobuf.Duration]"
_TIMESTAMP = "[type.googleapis.com/google.protobuf.Timestamp]"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NoSuchValueError(Exception):
    """A value that a condition cannot have: a message, or one that metadata do not hold."""


def equals(expression: str, value: Message) -> str:
    """Return a condition that is true when `expression` has the value, in its type too; raises NoSuchValueError."""
    ((kind, (given,)),) = value.items()
    if kind == "bool_value":
        return expression if given == "true" else f"!({expression})"
    if kind == "double_value" and math.isnan(given):
        return f"type({expression}) == double && ({expression}) != ({expression})"
    number = _NUMBERS.get(kind)
    same = f"({expression}) == {literal(value)}"
    return same if number is None else f"type({expression}) == {number} && {same}"


def literal(value: Message) -> str:
    """Return a value as CEL; raises NoSuchValueError."""
    ((kind, (given,)),) = value.items()
    write = _LITERALS.get(kind)
    if write is None:
        raise NoSuchValueError("message")
    return write(given)


def plain(value: Message) -> Any:
    """Return a value as metadata hold it; raises NoSuchValueError."""
    ((kind, (given,)),) = value.items()
    match kind:
        case "null_value":
            return None
        case "bool_value":
            return given == "true"
        case "int64_value":
            return given
        case "double_value":
            return float(given)
        case "string_value":
            return given.decode()
        case "list_value":
            return [plain(one) for one in given.get("values", [])]
        case "map_value":
            return {_key(first(entry, "key")): plain(first(entry, "value")) for entry in given.get("entries", [])}
    raise NoSuchValueError("message" if kind == "object_value" else "binding")


def _key(key: Message) -> str:
    if "string_value" not in key:
        raise NoSuchValueError("binding")
    return str(first(key, "string_value").decode())


def _double(given: float) -> str:
    if math.isinf(given):
        return "(1.0 / 0.0)" if given > 0 else "(-1.0 / 0.0)"
    return repr(float(given)) if not math.isnan(given) else "(0.0 / 0.0)"


def _string(given: bytes) -> str:
    return f'"{"".join(_character(one) for one in given.decode())}"'


def _character(one: str) -> str:
    return one if one.isprintable() and one not in '"\\' else f"\\U{ord(one):08x}"


def _list(given: Message) -> str:
    return f"[{', '.join(map(literal, given.get('values', [])))}]"


def _map(given: Message) -> str:
    entries = (f"{literal(first(one, 'key'))}: {literal(first(one, 'value'))}" for one in given.get("entries", []))
    return f"{{{', '.join(entries)}}}"


def _object(given: Message) -> str:
    ((kind, (fields,)),) = given.items()
    seconds, nanos = first(fields, "seconds", 0), first(fields, "nanos", 0)
    if kind == _DURATION:
        sign = "-" if seconds < 0 or nanos < 0 else ""
        return f'duration("{sign}{abs(seconds)}.{abs(nanos):09d}s")'
    if kind == _TIMESTAMP:
        moment = _EPOCH + timedelta(seconds=seconds)
        return f'timestamp("{moment:%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z")'.replace(
            '("', '("' + "0" * (4 - len(f"{moment:%Y}"))
        )
    raise NoSuchValueError("message")


_NUMBERS: Mapping[str, str] = {"int64_value": "int", "uint64_value": "uint", "double_value": "double"}
_LITERALS: Mapping[str, Callable[[Any], str]] = {
    "null_value": lambda given: "null",
    "bool_value": str,
    "int64_value": str,
    "uint64_value": lambda given: f"{given}u",
    "double_value": _double,
    "string_value": _string,
    "bytes_value": lambda given: 'b"' + "".join(f"\\x{byte:02x}" for byte in given) + '"',
    "type_value": lambda given: given.decode(),
    "list_value": _list,
    "map_value": _map,
    "object_value": _object,
}
