"""What a condition sees of a request: sdk views turned into plain, bounded values.

Apart from the engines because both must see the same values, and because the C++ engine trusts what it is given: it
ends the process on a value nested too deep and cuts a text at a NUL character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from policy_engine.sdk import Headers, Request, Response
from policy_engine.sdk.attributes import NotAskedFor
from policy_engine.worker.conditions.source import EvaluationFailed

Reader = Callable[[Request, Response | None], Any]

MAX_ENTRIES = 1000
"""Entries of a header map or of the query that a condition may look through; single look-ups are not counted."""
MAX_METADATA_VALUES = 2000
"""Values, counted through all levels, that one condition may take from the metadata."""
MAX_METADATA_DEPTH = 16
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_UNUSABLE = re.compile("[\0\ud800-\udfff]")


def text(value: str) -> str:
    """Return `value` with NUL and bytes that were not UTF-8 replaced by U+FFFD.

    A client may send such bytes; they must neither make a condition fail nor cut the text short, which would make
    `/admin` of `/admin\\0x` for a condition and not for the upstream.
    """
    # isascii is O(1) and the search for one character is memchr: together 50 ns, the substitution ten times that.
    if value.isascii() and "\0" not in value:
        return value
    return _UNUSABLE.sub("\ufffd", value)


def reader(name: str, keys: frozenset[str] | None) -> Reader:
    """Return the function that reads variable `name`; of a map only the entries `keys`, all for None."""
    if name == "metadata":
        return lambda request, response: _metadata(request.metadata, keys)
    if name == "request.attributes":
        return lambda request, response: _attributes(request, keys or frozenset())
    if name == "request.envoy_metadata":
        return lambda request, response: _envoy_metadata(request, keys or frozenset())
    if name == "request.query":
        return lambda request, response: _query(request, keys)
    if name == "request.headers":
        return lambda request, response: _headers(request.headers, keys)
    if name == "response.headers":
        return lambda request, response: _headers(present(response).headers, keys)
    if name == "response.status":
        return lambda request, response: present(response).status
    if name == "response.origin":
        return lambda request, response: present(response).origin
    return _TEXTS[name]


_TEXTS: dict[str, Reader] = {
    "request.path": lambda request, response: text(request.path),
    "request.target": lambda request, response: text(request.target),
    "request.query_string": lambda request, response: text(request.query_string),
    "request.method": lambda request, response: text(request.method),
    "request.authority": lambda request, response: text(request.authority),
    "request.host": lambda request, response: text(request.host),
    "request.scheme": lambda request, response: text(request.scheme),
    "request.client_address": lambda request, response: text(request.client_address),
    "request.route": lambda request, response: text(request.route),
    "request.id": lambda request, response: text(request.id),
}


def present(response: Response | None) -> Response:
    """Return the response; raises EvaluationFailed in a phase that has none."""
    if response is None:
        raise EvaluationFailed("there is no response in this phase")
    return response


def _headers(headers: Headers, keys: frozenset[str] | None) -> dict[str, str]:
    if keys is not None:
        return {name: joined_header(name, values) for name in keys if (values := headers.get_all(name))}
    found = {text(name): joined_header(name, headers.get_all(name)) for name in headers}
    if len(found) > MAX_ENTRIES:
        raise EvaluationFailed(f"more than {MAX_ENTRIES} headers")
    return found


def joined_header(name: str, values: tuple[str, ...]) -> str:
    """Return all values of a header as one text."""
    if len(values) == 1:
        return text(values[0])
    return text(("; " if name == "cookie" else ",").join(values))  # RFC 9110, 5.3; RFC 9113, 8.2.3


def _query(request: Request, keys: frozenset[str] | None) -> dict[str, str]:
    if keys is not None:
        # However many others there are: a client must not be able to make a look-up fail.
        query = request.query
        return {name: text(query[name]) for name in keys if name in query}
    if request.query_string.count("&") >= MAX_ENTRIES:
        raise EvaluationFailed(f"more than {MAX_ENTRIES} query parameters")
    return {text(name): text(value) for name, value in request.query.items()}


def _attributes(request: Request, keys: frozenset[str]) -> dict[str, Any]:
    found = request.attributes
    try:
        return {name: text(one) if isinstance(one := found[name], str) else one for name in keys if name in found}
    except NotAskedFor as error:  # as for a condition that is none of the chain's
        raise EvaluationFailed(str(error)) from None


def _envoy_metadata(request: Request, keys: frozenset[str]) -> dict[str, Any]:
    try:
        return _entries(request.envoy_metadata, keys, "request.envoy_metadata")
    except (NotAskedFor, ValueError) as error:  # also more than is taken from Envoy; the text holds no value
        raise EvaluationFailed(str(error)) from None


def _metadata(metadata: Mapping[str, Any], keys: frozenset[str] | None) -> dict[str, Any]:
    if keys is None:
        return _Plain().mapping(metadata, "metadata", MAX_METADATA_DEPTH)
    return _entries(metadata, keys, "metadata")


def _entries(found: Mapping[str, Any], keys: frozenset[str], variable: str) -> dict[str, Any]:
    plain = _Plain()
    # The keys stand in the expression, so they may stand in an error; other keys may be the client's.
    return {
        text(name): plain.value(found[name], f'{variable}["{name}"]', MAX_METADATA_DEPTH)
        for name in keys
        if name in found
    }


class _Plain:
    """Copies metadata into exactly the types that both engines take, within bounds.

    Bytes are not among them: the C++ engine cuts them at a NUL.
    """

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_METADATA_VALUES

    def value(self, value: Any, where: str, depth: int) -> Any:
        """Return a copy of `value`; raises EvaluationFailed, naming only `where` and the type."""
        self.left -= 1
        if self.left < 0:
            raise EvaluationFailed(f"metadata holds more than {MAX_METADATA_VALUES} values")
        if depth == 0:
            raise EvaluationFailed(f"metadata is nested more than {MAX_METADATA_DEPTH} deep")
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return text(str.__str__(value))  # exact type: a subclass (an enum) is no CEL value
        if isinstance(value, int):
            if not _INT64_MIN <= value <= _INT64_MAX:
                raise EvaluationFailed(f"{where} holds an integer outside 64 bits")
            return int.__int__(value)
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, list | tuple):
            return [self.value(one, where, depth - 1) for one in value]
        if isinstance(value, Mapping):
            return self.mapping(value, where, depth)
        raise EvaluationFailed(f"{where} holds a {type(value).__name__}, which a condition cannot use")

    def mapping(self, value: Mapping[Any, Any], where: str, depth: int) -> dict[str, Any]:
        """Return a copy of a map, whose keys must be text."""
        plain = {}
        for name, one in value.items():
            if not isinstance(name, str):
                raise EvaluationFailed(f"{where} holds a map with a {type(name).__name__} as key, not text")
            plain[text(str.__str__(name))] = self.value(one, where, depth - 1)
        return plain
