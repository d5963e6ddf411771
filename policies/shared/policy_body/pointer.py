"""JSON Pointers (RFC 6901): from text to tokens and back, and to the value they lead to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

_ESCAPE = re.compile(r"~(?![01])")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"  # it is itself also behind a pickle, in a helper process


MISSING: Final = _Missing()
"""What `find` returns where there is nothing; unlike None it cannot stand in JSON."""


class PointerError(ValueError):
    """A text is not a JSON Pointer."""


def parse_pointer(text: str) -> tuple[str, ...]:
    """Return the reference tokens of `text`, () for the whole document; raises PointerError."""
    if not text:
        return ()
    if not text.startswith("/"):
        raise PointerError("a JSON Pointer is empty or begins with a slash (RFC 6901)")
    if _ESCAPE.search(text):
        raise PointerError("in a JSON Pointer, ~ is followed by 0 or 1 (RFC 6901)")
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in text[1:].split("/"))


def format_pointer(tokens: Iterable[str | int]) -> str:
    """Return the JSON Pointer with these reference tokens."""
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


def index_of(token: str) -> int | None:
    """Return the array index that `token` is, None when it is none."""
    return int(token) if _INDEX.fullmatch(token) else None


def find(value: Any, tokens: Iterable[str]) -> Any:
    """Return what `tokens` lead to, or MISSING."""
    for token in tokens:
        if isinstance(value, dict):
            if token not in value:
                return MISSING
            value = value[token]
        elif isinstance(value, list):
            index = index_of(token)
            if index is None or index >= len(value):
                return MISSING
            value = value[index]
        else:
            return MISSING
    return value
