"""Reads protobuf's text format without the message types: field names to lists of values, in their order."""

from __future__ import annotations

from typing import Any

from google.protobuf import text_format

Message = dict[str, list[Any]]
"""A message: for each field its values, which are messages, bytes (texts too), words (str) or numbers.

An expanded `Any` is a message with one field, whose name is its type URL in brackets.
"""


def read(text: str) -> Message:
    """Return the message in `text`; raises text_format.ParseError with line and column."""
    return _fields(text_format.Tokenizer(text.splitlines()), "")


def first(message: Message, name: str, default: Any = None) -> Any:
    """Return the first value of a field, `default` without one."""
    return message.get(name, [default])[0]


def _fields(tokens: Any, end: str) -> Message:
    found: Message = {}
    while not (tokens.TryConsume(end) if end else tokens.AtEnd()):
        name = _name(tokens)
        has_colon = tokens.TryConsume(":")
        if has_colon and tokens.TryConsume("["):
            values = found.setdefault(name, [])
            while not tokens.TryConsume("]"):
                values.append(_value(tokens))
                tokens.TryConsume(",")
        else:
            found.setdefault(name, []).append(_value(tokens))
        if not tokens.TryConsume(","):
            tokens.TryConsume(";")
    return found


def _name(tokens: Any) -> str:
    if not tokens.TryConsume("["):
        return str(tokens.ConsumeIdentifier())
    parts = []
    while not tokens.TryConsume("]"):
        parts.append(tokens.token)
        tokens.NextToken()
    return f"[{''.join(parts)}]"


def _value(tokens: Any) -> Any:
    for opening, closing in (("{", "}"), ("<", ">")):
        if tokens.TryConsume(opening):
            return _fields(tokens, closing)
    if tokens.token[:1] in ("'", '"'):
        return tokens.ConsumeByteString()
    token = tokens.token
    tokens.NextToken()
    if token == "-":  # noqa: S105 - no secret but a sign; a word follows
        return -_scalar(str(_value(tokens)))
    return _scalar(token)


def _scalar(token: str) -> Any:
    """Return a number, or the word that stands in its place (`true`, the name of an enum's value)."""
    digits = token.lstrip("+-")
    sign = -1 if token[:1] == "-" else 1
    if digits.lower() in ("inf", "infinity", "nan"):
        return sign * float(digits)
    if not digits[:1].isdigit() and digits[:1] != ".":
        return token
    if digits[:1] == "0" and digits.isdigit():
        return sign * int(digits, 8)
    try:
        return sign * int(digits, 0)
    except ValueError:
        return sign * float(digits.rstrip("fF"))
