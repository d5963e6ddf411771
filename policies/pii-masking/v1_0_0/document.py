"""Which values of a JSON document are masked, and the walk that does it; apart because only it knows JSON Pointers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from policy_engine.sdk import ParameterError, PointerError, parse_pointer

Places = tuple[tuple[str, ...], ...]


def places(pointers: Iterable[str], where: str) -> Places:
    """Return parsed pointers in which `*` stands for any one name or index; raises ParameterError."""
    found = []
    for index, text in enumerate(pointers):
        try:
            found.append(parse_pointer(text))
        except PointerError as error:
            raise ParameterError(str(error), f"{where}/{index}") from None
    return tuple(found)


def masked(value: Any, mask: Callable[[str], str], include: Places, exclude: Places) -> Any:
    """Return `value` with `mask` over its texts: those at or below `include` (all when empty), but not `exclude`.

    Returns the very same object when nothing changed. Names of members are not looked at.
    """
    return _walk(value, mask, include if include else ((),), exclude)


def _walk(value: Any, mask: Callable[[str], str], include: Places, exclude: Places) -> Any:
    if () in exclude:
        return value
    if isinstance(value, str):
        return mask(value) if () in include else value
    if not isinstance(value, dict | list) or not include:
        return value
    pairs: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
    changed = {}
    for name, item in pairs:
        token = str(name)
        new = _walk(item, mask, _below(include, token, keep=True), _below(exclude, token, keep=False))
        if new is not item and new != item:
            changed[name] = new
    if not changed:
        return value
    if isinstance(value, dict):
        return {**value, **changed}
    return [changed.get(index, item) for index, item in enumerate(value)]


def _below(patterns: Places, token: str, *, keep: bool) -> Places:
    """Return what is left of the patterns one level down; one that ended holds for all below when `keep`."""
    left = []
    for pattern in patterns:
        if not pattern:
            if keep:
                return ((),)
        elif pattern[0] in ("*", token):
            left.append(pattern[1:])
    return tuple(left)
