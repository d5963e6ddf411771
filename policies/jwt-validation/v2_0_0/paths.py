"""Where a claim is: shared by the rules and the headers, so it has a module of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from policy_engine.sdk import ParameterError

MISSING: Final = object()
"""What `find` returns for a claim that is not there; None is a value that a claim may have."""


def claim_path(text: str, where: str) -> tuple[str, ...]:
    """Return the names on the way to a claim, from `a.b.c` or a JSON Pointer; raises ParameterError at `where`."""
    if text.startswith("/"):
        return tuple(name.replace("~1", "/").replace("~0", "~") for name in text[1:].split("/"))
    names = tuple(text.split("."))
    if not all(names):
        raise ParameterError(f"{text!r} has an empty name; write a JSON Pointer for names that hold dots", where)
    return names


def find(claims: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Return the claim at `path`, or MISSING."""
    found: Any = claims
    for name in path:
        if not isinstance(found, Mapping) or name not in found:
            return MISSING
        found = found[name]
    return found
