"""The changes that can be made to a document, each at JSON Pointers; apart because they know nothing of messages."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from policy_engine.sdk import MISSING, ParameterError, PointerError, Request, find, parse_pointer
from policy_engine.sdk.json_pointer import index_of

from .sources import Source, source

Tokens = tuple[str, ...]
Apply = Callable[[Any, Any], Any]
"""From a document and the operation's value to the changed document, in place where it can; raises Missing."""


class Missing(Exception):
    """A path, or the value for it, is not there; the text is the pointer as the parameters have it."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `value` reads what it puts there from the request; None for one that puts nothing."""

    apply: Apply
    value: Source | None = None
    fails: bool = False

    def read(self, request: Request) -> Any:
        """Return the value for `changed`, MISSING when the request has none."""
        return None if self.value is None else self.value(request)

    def changed(self, document: Any, value: Any) -> Any:
        """Return the changed document; what is missing ends it with Missing, or is skipped, as `on_missing` says."""
        try:
            return self.apply(document, value)
        except Missing:
            if self.fails:
                raise
            return document


def operation(entry: Mapping[str, Any], where: str) -> Operation:
    """Return the operation that `entry` describes; raises ParameterError."""
    kind = entry["op"]
    path = _tokens(entry, "path", where)
    if kind in ("copy", "move") and "from" not in entry:
        raise ParameterError(f"{kind} needs from", where)
    if kind == "rename" and "to" not in entry:
        raise ParameterError("rename needs to, the new name", where)
    if not path and kind != "set":
        raise ParameterError(f"{kind} cannot be done to the whole document", f"{where}/path")
    value = source(entry, where) if kind in ("set", "default") else None
    return Operation(_MAKERS[kind](entry, path, where), value, entry.get("on_missing", "skip") == "fail")


def _set(entry: Mapping[str, Any], path: Tokens, where: str) -> Apply:
    create = entry.get("create_parents", True)

    def change(document: Any, value: Any) -> Any:
        if value is MISSING:
            raise Missing(entry["path"])
        return _put(document, path, value, entry, create=create)

    return change


def _default(entry: Mapping[str, Any], path: Tokens, where: str) -> Apply:
    put = _set(entry, path, where)
    return lambda document, value: document if find(document, path) is not MISSING else put(document, value)


def _remove(entry: Mapping[str, Any], path: Tokens, where: str) -> Apply:
    def change(document: Any, _: Any) -> Any:
        _take(document, path, entry["path"])
        return document

    return change


def _rename(entry: Mapping[str, Any], path: Tokens, where: str) -> Apply:
    def change(document: Any, _: Any) -> Any:
        parent = find(document, path[:-1])
        if not isinstance(parent, dict) or path[-1] not in parent:
            raise Missing(entry["path"])
        if entry["to"] != path[-1]:
            parent[entry["to"]] = parent.pop(path[-1])
        return document

    return change


def _copy(entry: Mapping[str, Any], path: Tokens, where: str) -> Apply:
    origin, create = _origin(entry, path, where), entry.get("create_parents", True)

    def change(document: Any, _: Any) -> Any:
        value = find(document, origin)
        if value is MISSING:
            raise Missing(entry["from"])
        return _put(document, path, copy.deepcopy(value), entry, create=create)

    return change


def _move(entry: Mapping[str, Any], path: Tokens, where: str) -> Apply:
    origin, create = _origin(entry, path, where), entry.get("create_parents", True)

    def change(document: Any, _: Any) -> Any:
        value = find(document, origin)
        if value is MISSING:
            raise Missing(entry["from"])
        if origin == path:
            return document
        _check_place(document, path, entry, create=create)
        _take(document, origin, entry["from"])
        return _put(document, path, value, entry, create=create)

    return change


def _origin(entry: Mapping[str, Any], path: Tokens, where: str) -> Tokens:
    origin = _tokens(entry, "from", where)
    if len(origin) < len(path) and path[: len(origin)] == origin:
        raise ParameterError("a value cannot be put into itself", f"{where}/from")
    return origin


_MAKERS: Mapping[str, Callable[[Mapping[str, Any], Tokens, str], Apply]] = {
    "set": _set,
    "default": _default,
    "remove": _remove,
    "rename": _rename,
    "copy": _copy,
    "move": _move,
}


def _tokens(entry: Mapping[str, Any], name: str, where: str) -> Tokens:
    try:
        return parse_pointer(entry[name])
    except PointerError as error:
        raise ParameterError(str(error), f"{where}/{name}") from None


def _check_place(document: Any, path: Tokens, entry: Mapping[str, Any], *, create: bool) -> None:
    """Raise Missing unless a value can be put at `path`; nothing is changed."""
    node = document
    for token in path[:-1]:
        below = find(node, (token,))
        if below is MISSING:
            if create and isinstance(node, dict):
                return
            raise Missing(entry["path"])
        node = below
    if isinstance(node, dict):
        return
    index = index_of(path[-1]) if isinstance(node, list) else None
    if not isinstance(node, list) or (path[-1] != "-" and (index is None or index >= len(node))):
        raise Missing(entry["path"])


def _put(document: Any, path: Tokens, value: Any, entry: Mapping[str, Any], *, create: bool) -> Any:
    if not path:
        return value
    _check_place(document, path, entry, create=create)
    node = document
    for token in path[:-1]:
        node = node.setdefault(token, {}) if isinstance(node, dict) else node[int(token)]
    if isinstance(node, dict):
        node[path[-1]] = value
    elif path[-1] == "-":
        node.append(value)
    else:
        node[int(path[-1])] = value
    return document


def _take(document: Any, path: Tokens, text: str) -> None:
    parent = find(document, path[:-1])
    if find(parent, path[-1:]) is MISSING:
        raise Missing(text)
    if isinstance(parent, dict):
        del parent[path[-1]]
    else:
        del parent[int(path[-1])]
