"""JSON Pointers (RFC 6901): from text to a path and back, and to the value that a path leads to.

The one implementation for engine, control plane, builder and policies; it depends on the standard library alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""The way from the root of JSON data to one value in it: names of members and indices of items."""

_BAD_ESCAPE = re.compile(r"~(?![01])")
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
    """Return the reference tokens of `text`, unescaped; () for the whole document. Raises PointerError."""
    if not text:
        return ()
    if not text.startswith("/"):
        raise PointerError("a JSON Pointer is empty or begins with a slash (RFC 6901)")
    if _BAD_ESCAPE.search(text):
        raise PointerError("in a JSON Pointer, ~ is followed by 0 or 1 (RFC 6901)")
    return tuple(_unescaped(token) for token in text[1:].split("/"))


def format_pointer(path: Iterable[str | int]) -> str:
    """Return the JSON Pointer with these reference tokens; a pointer followed by another is a pointer again."""
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in path)


def index_of(token: str | int) -> int | None:
    """Return the array index that `token` is, None when it is none: digits without leading zeros (RFC 6901, 4)."""
    if isinstance(token, int):
        return token if token >= 0 else None
    return int(token) if _INDEX.fullmatch(token) else None


def find(value: Any, path: Iterable[str | int]) -> Any:
    """Return what `path` leads to from `value`, or MISSING."""
    for token in path:
        step = _step(value, token)
        if step is None:
            return MISSING
        value = value[step]
    return value


def path_within(value: Any, pointer: str) -> Path:
    """Return `pointer` as a path, as far as it leads into `value`; whoever wrote it may have got it wrong."""
    return tuple(_steps(value, pointer))


def _steps(value: Any, pointer: str) -> Iterator[str | int]:
    for token in pointer.split("/")[1:]:
        step = _step(value, _unescaped(token))
        if step is None:
            return
        yield step
        value = value[step]


def _step(value: Any, token: str | int) -> str | int | None:
    if isinstance(value, dict | Mapping):
        name = str(token)
        return name if name in value else None
    if isinstance(value, list | tuple):
        index = index_of(token)
        return index if index is not None and index < len(value) else None
    return None


def _unescaped(token: str) -> str:
    return token.replace("~1", "/").replace("~0", "~")
