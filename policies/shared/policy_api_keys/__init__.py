"""Where an API key stands in a request, and the request without it."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote_plus

from policy_engine.sdk import ParameterError, Parameters, Request, UnreadableHeader, credentials, header_name


class SeveralKeys(Exception):
    """The request has more than one key, so that the upstream may see another one than the policy."""


class KeyPlace:
    """The header or the query parameter with the key, by the parameters `in`, `name` and `prefix`.

    `name` is the header's, in lower case, or the parameter's. Raises ParameterError.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.in_query = parameters.get("in", "header") == "query"
        self.name = parameters.get("name", "x-api-key")
        if not self.in_query:
            self.name = checked(header_name, self.name, "/name")
        self._prefix = parameters.get("prefix", "")
        if self.in_query and self._prefix:
            raise ParameterError("a prefix is possible only with in: header", "/prefix")

    def find(self, request: Request) -> str | None:
        """Return the key, None when there is none; raises SeveralKeys."""
        return self._in_query(request) if self.in_query else self._in_header(request)

    def may_be_several(self, key: str) -> bool:
        """Tell whether a key that is not known may be two: one line with a comma may be lines that Envoy joined."""
        return "," in key and not self.in_query

    def removed_from(self, target: str) -> str:
        """Return `target` without the query parameter, all else byte for byte as it was."""
        path, _, query = target.partition("?")
        rest = "&".join(part for part in query.split("&") if _decoded(part.partition("=")[0]) != self.name)
        return f"{path}?{rest}" if rest else path

    def _in_header(self, request: Request) -> str | None:
        if self._prefix:
            try:
                return credentials(request.headers, self.name, self._prefix) or None
            except UnreadableHeader:
                raise SeveralKeys from None
        return _one([value for value in request.headers.get_all(self.name) if value])

    def _in_query(self, request: Request) -> str | None:
        keys = []
        for part in request.query_string.split("&"):
            name, _, value = part.partition("=")
            if value and _decoded(name) == self.name:
                keys.append(_decoded(value))
        return _one(keys)


def checked(check: Callable[[str], str], text: str, path: str) -> str:
    """Return what `check` makes of the text of a parameter; raises ParameterError at `path` for its ValueError."""
    try:
        return check(text)
    except ValueError as error:
        raise ParameterError(str(error), path) from None


def _one(keys: list[str]) -> str | None:
    if len(keys) > 1:
        raise SeveralKeys
    return keys[0] if keys else None


def _decoded(text: str) -> str:
    return unquote_plus(text, errors="surrogateescape")
