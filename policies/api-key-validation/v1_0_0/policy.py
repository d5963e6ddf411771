"""Checks an API key against stored hashes, all of them for every key, so that time tells nothing."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from urllib.parse import unquote_plus

from policy_engine.sdk import (
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestMutation,
    UnreadableHeader,
    credentials,
    header_name,
    header_value,
)

_LONGEST_KEY = 1024  # bytes; a longer one is wrong without being hashed


class _SeveralKeys(Exception):
    """The request has more than one key, so that the upstream may see another one than this policy."""


class ApiKeyValidation(Policy):
    """401 without a key, 400 with several, 401 or 403 with a wrong one.

    Else the client's name is in `metadata["api_key"]["client"]`.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._in_query = parameters.get("in", "header") == "query"
        self._name = parameters.get("name", "x-api-key")
        if not self._in_query:
            self._name = _checked(header_name, self._name, "/name")
        self.credentials = (self._name,)
        self._prefix = parameters.get("prefix", "")
        if self._in_query and self._prefix:
            raise ParameterError("a prefix is possible only with in: header", "/prefix")
        self._strip = not parameters.get("forward_key", False)
        self._client_header = parameters.get("client_header")
        if self._client_header is not None:
            self._client_header = _checked(header_name, self._client_header, "/client_header")
            if self._client_header == self._name and not self._in_query:
                raise ParameterError("the client's name cannot go into the header of the key", "/client_header")
        self._stored = _stored(parameters)
        self._accepted = {client: self._action(client, None) for known in self._stored for _, client in known[1]}
        challenge = f'ApiKey realm="{parameters.get("realm", "api")}"'
        self._missing = _refusal(401, "missing_api_key", challenge)
        self._ambiguous = _refusal(400, "several_api_keys", challenge)
        self._wrong = _refusal(parameters.get("wrong_key_status", 403), "wrong_api_key", challenge)

    def on_request_headers(self, request: Request) -> RequestMutation | ImmediateResponse | None:
        """Find the key, compare its hash with every stored one."""
        try:
            key = self._key_in_query(request) if self._in_query else self._key_in_header(request)
        except _SeveralKeys:
            return self._ambiguous
        if key is None:
            return self._missing
        client = self._client_of(key)
        if client is None:
            # One line with a comma may be two lines that Envoy joined; a key may hold one.
            return self._ambiguous if "," in key and not self._in_query else self._wrong
        request.metadata["api_key"] = {"client": client}
        if self._in_query and self._strip:
            return self._action(client, _without(request.target, self._name))
        return self._accepted[client]

    def _key_in_header(self, request: Request) -> str | None:
        if self._prefix:
            try:
                return credentials(request.headers, self._name, self._prefix) or None
            except UnreadableHeader:
                raise _SeveralKeys from None
        return _one([value for value in request.headers.get_all(self._name) if value])

    def _key_in_query(self, request: Request) -> str | None:
        keys = []
        for part in request.query_string.split("&"):
            name, _, value = part.partition("=")
            if value and _decoded(name) == self._name:
                keys.append(_decoded(value))
        return _one(keys)

    def _client_of(self, key: str) -> str | None:
        raw = key.encode("utf-8", "surrogateescape")
        if len(raw) > _LONGEST_KEY:
            return None
        found = None
        for salt, entries in self._stored:
            digest = hashlib.sha256(salt + raw).digest()
            for stored, client in entries:
                if hmac.compare_digest(stored, digest):
                    found = client  # and go on: the time must not tell which key it was
        return found

    def _action(self, client: str, path: str | None) -> RequestMutation | None:
        remove = (self._name,) if self._strip and not self._in_query else ()
        replace = {} if self._client_header is None else {self._client_header: client}
        if not (remove or replace or path is not None):
            return None
        return RequestMutation(remove_headers=remove, set_headers=replace, path=path)


def _one(keys: list[str]) -> str | None:
    if len(keys) > 1:
        raise _SeveralKeys
    return keys[0] if keys else None


def _stored(parameters: Parameters) -> list[tuple[bytes, list[tuple[bytes, str]]]]:
    """Return the hashes grouped by salt, as one hash of the presented key serves all that share a salt."""
    groups: dict[bytes, dict[bytes, str]] = {}
    for index, entry in enumerate(parameters["keys"]):
        client = _checked(header_value, entry["client"], f"/keys/{index}/client")
        group = groups.setdefault(entry.get("salt", "").encode(), {})
        digest = bytes.fromhex(entry["sha256"])
        if digest in group:
            raise ParameterError("this key is listed twice", f"/keys/{index}/sha256")
        group[digest] = client
    return [(salt, list(group.items())) for salt, group in groups.items()]


def _refusal(status: int, reason: str, challenge: str) -> ImmediateResponse:
    headers = {"www-authenticate": challenge} if status == 401 else {}
    return ImmediateResponse(status, headers=headers, details=reason)


def _without(target: str, name: str) -> str:
    """Return `target` without the query parameter `name`, all else byte for byte as it was."""
    path, _, query = target.partition("?")
    rest = "&".join(part for part in query.split("&") if _decoded(part.partition("=")[0]) != name)
    return f"{path}?{rest}" if rest else path


def _decoded(text: str) -> str:
    return unquote_plus(text, errors="surrogateescape")


def _checked(check: Callable[[str], str], text: str, path: str) -> str:
    try:
        return check(text)
    except ValueError as error:
        raise ParameterError(str(error), path) from None
