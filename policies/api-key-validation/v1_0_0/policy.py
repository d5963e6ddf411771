"""Checks an API key against stored hashes, all of them for every key, so that time tells nothing."""

from __future__ import annotations

import hashlib
import hmac

from policy_api_keys import KeyPlace, SeveralKeys, checked
from policy_engine.sdk import (
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestMutation,
    header_name,
    header_value,
)

_LONGEST_KEY = 1024  # bytes; a longer one is wrong without being hashed


class ApiKeyValidation(Policy):
    """401 without a key, 400 with several, 401 or 403 with a wrong one.

    Else the client's name is in `metadata["api_key"]["client"]`.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._place = KeyPlace(parameters)
        self.credentials = (self._place.name,)
        self._strip = not parameters.get("forward_key", False)
        self._client_header = parameters.get("client_header")
        if self._client_header is not None:
            self._client_header = checked(header_name, self._client_header, "/client_header")
            if self._client_header == self._place.name and not self._place.in_query:
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
            key = self._place.find(request)
        except SeveralKeys:
            return self._ambiguous
        if key is None:
            return self._missing
        client = self._client_of(key)
        if client is None:
            return self._ambiguous if self._place.may_be_several(key) else self._wrong
        request.metadata["api_key"] = {"client": client}
        if self._place.in_query and self._strip:
            return self._action(client, self._place.removed_from(request.target))
        return self._accepted[client]

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
        remove = (self._place.name,) if self._strip and not self._place.in_query else ()
        replace = {} if self._client_header is None else {self._client_header: client}
        if not (remove or replace or path is not None):
            return None
        return RequestMutation(remove_headers=remove, set_headers=replace, path=path)


def _stored(parameters: Parameters) -> list[tuple[bytes, list[tuple[bytes, str]]]]:
    """Return the hashes grouped by salt, as one hash of the presented key serves all that share a salt."""
    groups: dict[bytes, dict[bytes, str]] = {}
    for index, entry in enumerate(parameters["keys"]):
        client = checked(header_value, entry["client"], f"/keys/{index}/client")
        group = groups.setdefault(entry.get("salt", "").encode(), {})
        digest = bytes.fromhex(entry["sha256"])
        if digest in group:
            raise ParameterError("this key is listed twice", f"/keys/{index}/sha256")
        group[digest] = client
    return [(salt, list(group.items())) for salt, group in groups.items()]


def _refusal(status: int, reason: str, challenge: str) -> ImmediateResponse:
    headers = {"www-authenticate": challenge} if status == 401 else {}
    return ImmediateResponse(status, headers=headers, details=reason)
