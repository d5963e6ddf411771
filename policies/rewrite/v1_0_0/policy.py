"""Path, method and authority of the request, changed by rules that are fixed when the chain is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import re2

from policy_engine.sdk import ImmediateResponse, ParameterError, Parameters, Policy, Request, RequestMutation

_TARGET = re.compile(r"/[\x21-\x22\x24-\x7e\x80-\U0010ffff]*")  # what may stand in :path: no space, control, fragment
_GROUP = re.compile(r"\\(.?)", re.DOTALL)
_KEPT_PATHS = 1024
_LONGEST = 16384

_Change = Callable[[str], str]


class Rewrite(Policy):
    """Gives the same mutation again for the same path."""

    def __init__(self, parameters: Parameters) -> None:
        path = parameters.get("path")
        self._change = None if path is None else _path_change(path)
        self._keep_query = path is None or not path.get("drop_query", False)
        self._method = parameters.get("method")
        self._authority = parameters.get("authority")
        self._clear = parameters.get("clear_route_cache", False)
        self._mutation = lru_cache(_KEPT_PATHS)(self._build)
        self._impossible = ImmediateResponse(400, details="rewrite_impossible")

    def on_request_headers(self, request: Request) -> RequestMutation | ImmediateResponse | None:
        """Change the request."""
        target = None
        if self._change is not None:
            path, mark, query = request.target.partition("?")
            target = self._change(path) + (mark + query if self._keep_query else "")
            if target == request.target:
                target = None
            elif len(target) > _LONGEST or _TARGET.fullmatch(target) is None:
                return self._impossible
        return self._mutation(target)

    def _build(self, target: str | None) -> RequestMutation | None:
        if target is None and self._method is None and self._authority is None:
            return None
        return RequestMutation(
            path=target, method=self._method, authority=self._authority, clear_route_cache=self._clear
        )


def _path_change(path: Mapping[str, Any]) -> _Change:
    if "full" in path:
        full: str = path["full"]
        return lambda _: full
    if "prefix" in path:
        return _prefix(path["prefix"]["from"].rstrip("/"), path["prefix"]["to"].rstrip("/"))
    return _regex(path["regex"]["pattern"], path["regex"]["replacement"])


def _prefix(old: str, new: str) -> _Change:
    def change(path: str) -> str:
        if path != old and not path.startswith(f"{old}/"):
            return path
        return new + path[len(old) :] or "/"

    return change


def _regex(pattern: str, replacement: str) -> _Change:
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
