"""Values that operations put into documents: constants, or parts of the request; nothing is ever evaluated.

A separate module because only this looks at requests; the operations see values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from policy_body import dump
from policy_engine.sdk import MISSING, ParameterError, PointerError, Request, find, parse_pointer

Source = Callable[[Request], Any]
"""Gives a fresh JSON value, or MISSING."""

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?", re.ASCII)
_PARTS: Mapping[str, Callable[[Request], str]] = {
    "method": lambda request: request.method,
    "path": lambda request: request.path,
    "authority": lambda request: request.authority,
    "id": lambda request: request.id,
    "route": lambda request: request.route,
    "client_address": lambda request: request.client_address,
}


def source(entry: Mapping[str, Any], where: str) -> Source:
    """Return the source that an operation names by `value`, `from_request` or `template`; raises ParameterError."""
    named = [name for name in ("value", "from_request", "template") if name in entry]
    if len(named) != 1:
        raise ParameterError("exactly one of value, from_request and template says what to put there", where)
    if "value" in entry:
        text = json.dumps(_plain(entry["value"]))
        return lambda _: json.loads(text)
    if "template" in entry:
        return _template(entry["template"], f"{where}/template")
    return _part(entry["from_request"], f"{where}/from_request")


def _template(parts: Any, where: str) -> Source:
    pieces: list[str | Source] = []
    for index, part in enumerate(parts):
        pieces.append(part if isinstance(part, str) else _part(part, f"{where}/{index}"))

    def made(request: Request) -> Any:
        texts = []
        for piece in pieces:
            value = piece if isinstance(piece, str) else piece(request)
            if value is MISSING:
                return MISSING
            texts.append(value if isinstance(value, str) else dump(value).decode())
        return "".join(texts)

    return made


def _part(entry: Mapping[str, Any], where: str) -> Source:
    named = [name for name in ("header", "metadata", "claim", "part") if name in entry]
    if len(named) != 1:
        raise ParameterError("exactly one of header, metadata, claim and part is expected", where)
    read = _reader(named[0], entry[named[0]], f"{where}/{named[0]}")
    convert = _CONVERSIONS[entry.get("type")]
    otherwise = json.dumps(_plain(entry["otherwise"])) if "otherwise" in entry else None

    def made(request: Request) -> Any:
        value = read(request)
        if value is not MISSING:
            value = convert(value)
        return json.loads(otherwise) if value is MISSING and otherwise is not None else value

    return made


def _reader(kind: str, name: str, where: str) -> Source:
    if kind == "header":
        return lambda request: _header(request, name)
    if kind == "part":
        return lambda request: _PARTS[name](request).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    try:
        tokens = parse_pointer(name)
    except PointerError as error:
        raise ParameterError(str(error), where) from None
    if kind == "claim":
        tokens = ("jwt", *tokens)
    return lambda request: _metadata(request, tokens)


def _header(request: Request, name: str) -> Any:
    values = request.headers.get_all(name)
    if not values:
        return MISSING
    return ", ".join(values).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _metadata(request: Request, tokens: tuple[str, ...]) -> Any:
    value = find(dict(request.metadata), tokens)
    if value is MISSING:
        return MISSING
    try:
        return json.loads(dump(value))  # a copy, and the proof that it is JSON
    except (TypeError, ValueError, RecursionError):
        return MISSING


def _as_integer(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and _INTEGER.fullmatch(value) else MISSING


def _as_number(value: Any) -> Any:
    whole = _as_integer(value)
    if whole is not MISSING or isinstance(value, float):
        return value if isinstance(value, float) else whole
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else MISSING


def _as_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value, MISSING) if isinstance(value, str) else MISSING


def _as_string(value: Any) -> Any:
    return value if isinstance(value, str) else dump(value).decode()


_CONVERSIONS: Mapping[str | None, Callable[[Any], Any]] = {
    None: lambda value: value,
    "string": _as_string,
    "integer": _as_integer,
    "number": _as_number,
    "boolean": _as_boolean,
}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
