"""What becomes of a path: by a prefix of whole segments, by an RE2 expression, or as a whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import re2

from policy_engine.sdk import ParameterError

_TARGET = re.compile(r"/[\x21-\x22\x24-\x7e\x80-\U0010ffff]*")  # what may stand in :path: no space, control, fragment
_GROUP = re.compile(r"\\(.?)", re.DOTALL)
_LONGEST = 16384

PathChange = Callable[[str], str]


def is_target(text: str) -> bool:
    """Return whether `text` may stand in `:path`: a path from its slash on, with or without a query, at most 16 KiB."""
    return len(text) <= _LONGEST and _TARGET.fullmatch(text) is not None


def path_change(path: Mapping[str, Any]) -> PathChange:
    """Return the change that the parameter `path` describes by one of `full`, `prefix` and `regex`.

    It takes a path without its query, percent-encoded as it was sent, and returns that path where it does not apply.
    What it returns may be no path (`is_target`). Raises ParameterError below `/path`.
    """
    if "full" in path:
        full: str = path["full"]
        return lambda _: full
    if "prefix" in path:
        return _prefix(path["prefix"]["from"].rstrip("/"), path["prefix"]["to"].rstrip("/"))
    return _regex(path["regex"]["pattern"], path["regex"]["replacement"])


def _prefix(old: str, new: str) -> PathChange:
    def change(path: str) -> str:
        if path != old and not path.startswith(f"{old}/"):
            return path
        return new + path[len(old) :] or "/"

    return change


def _regex(pattern: str, replacement: str) -> PathChange:
    try:
        compiled = re2.compile(pattern)
    except re2.error as error:
        raise ParameterError(f"not an RE2 expression: {error}", "/path/regex/pattern") from None
    for escaped in _GROUP.findall(replacement):
        if escaped not in {"\\", *(str(number) for number in range(1, compiled.groups + 1))}:
            raise ParameterError(
                f"'\\{escaped}' means nothing: the expression has {compiled.groups} groups, \\1 is the first",
                "/path/regex/replacement",
            )

    def change(path: str) -> str:
        try:
            return str(compiled.sub(replacement, path))
        except UnicodeEncodeError:  # bytes that are no UTF-8: leave alone what cannot be matched
            return path

    return change
