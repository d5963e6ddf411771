"""Checks an API key: one hash, one look-up, one comparison in constant time, however many keys there are."""

from __future__ import annotations

import hashlib
import hmac
import time
from functools import lru_cache

from policy_api_keys import KeyPlace, SeveralKeys, checked
from policy_engine.sdk import (
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestMutation,
    header_name,
)

from .followed_file import FollowedFile, followed
from .known_keys import Key, Keys, keys_of

_LONGEST_KEY = 1024  # bytes; a longer one is wrong without being hashed
_KEPT_ACTIONS = 1024


class ApiKeyValidation(Policy):
    """401 without a key, 400 with several, 401 or 403 with one that is not known or has expired.

    Else what is known of it is in `metadata["api_key"]`: `client`, and where given `tier`, `project`, `groups` and
    `expires`.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._place = KeyPlace(parameters)
        self.credentials = (self._place.name,)
        self._strip = not parameters.get("forward_key", False)
        self._headers = _headers(parameters, self._place)
        self._salt = parameters.get("salt", "").encode()
        self._action = lru_cache(_KEPT_ACTIONS)(self._build_action)
        challenge = f'ApiKey realm="{parameters.get("realm", "api")}"'
        self._missing = _refusal(401, "missing_api_key", challenge)
        self._ambiguous = _refusal(400, "several_api_keys", challenge)
        status = parameters.get("wrong_key_status", 403)
        self._wrong = _refusal(status, "wrong_api_key", challenge)
        self._expired = _refusal(status, "expired_api_key", challenge)
        self._file: FollowedFile | None = None
        self._inline: Keys = {}
        if "keys_file" in parameters:
            self._file = followed(parameters["keys_file"], "/keys_file")
        else:
            self._inline = keys_of((f"/keys/{index}", entry) for index, entry in enumerate(parameters["keys"]))

    def on_request_headers(self, request: Request) -> RequestMutation | ImmediateResponse | None:
        """Find the key and what is known of it."""
        try:
            text = self._place.find(request)
        except SeveralKeys:
            return self._ambiguous
        if text is None:
            return self._missing
        key = self._known(text)
        if key is None:
            return self._ambiguous if self._place.may_be_several(text) else self._wrong
        if key.expires <= time.time():
            return self._expired
        request.metadata["api_key"] = dict(key.facts)
        values = tuple(key.facts.get(fact) for fact in self._headers)
        if self._place.in_query and self._strip:
            return self._build_action(values, self._place.removed_from(request.target))
        return self._action(values)

    def close(self) -> None:
        """Follow the file no longer."""
        self._file = None

    def _known(self, text: str) -> Key | None:
        raw = text.encode("utf-8", "surrogateescape")
        if len(raw) > _LONGEST_KEY:
            return None
        digest = hashlib.sha256(self._salt + raw).digest()
        # Where a hash leads in the table says nothing of the key: nobody can choose what a key hashes to.
        key = (self._inline if self._file is None else self._file.keys).get(digest)
        return key if key is not None and hmac.compare_digest(key.digest, digest) else None

    def _build_action(self, values: tuple[str | None, ...], path: str | None = None) -> RequestMutation | None:
        given = {name: value for name, value in zip(self._headers.values(), values, strict=True) if value is not None}
        remove = [name for name in self._headers.values() if name not in given]
        if self._strip and not self._place.in_query:
            remove.append(self._place.name)
        if not (remove or given or path is not None):
            return None
        return RequestMutation(remove_headers=tuple(remove), set_headers=given, path=path)


def _headers(parameters: Parameters, place: KeyPlace) -> dict[str, str]:
    """Return the headers for the upstream by what goes into them."""
    found: dict[str, str] = {}
    for fact, text in parameters.get("headers", {}).items():
        name = checked(header_name, text, f"/headers/{fact}")
        if name == place.name and not place.in_query:
            raise ParameterError("this cannot go into the header of the key", f"/headers/{fact}")
        if name in found.values():
            raise ParameterError("another part of the key goes into this header", f"/headers/{fact}")
        found[fact] = name
    return found


def _refusal(status: int, reason: str, challenge: str) -> ImmediateResponse:
    headers = {"www-authenticate": challenge} if status == 401 else {}
    return ImmediateResponse(status, headers=headers, details=reason)
