"""Asks the authorization server what a token is worth (RFC 7662), once for each token in a time, and remembers it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode
from weakref import WeakValueDictionary

from policy_body import NotJson, parse
from policy_engine.sdk import dependency
from policy_http import Answer, Call, CallFailed, HttpClient, Kept, Remembered, Server
from policy_tokens import ClientAuthentication

_LATEST = 1e15  # seconds; a time beyond it is none


@dataclass(frozen=True, slots=True)
class Settings:
    """Whom to ask, as whom, and for how long an answer holds; times in seconds."""

    server: Server
    client: ClientAuthentication
    cache_ttl: float = 60.0
    negative_cache_ttl: float = 10.0
    cache_size: int = 10_000
    leeway: float = 30.0


@dataclass(frozen=True, slots=True)
class Refused:
    """The token is not to be accepted; `reason` is a short constant for the operator."""

    reason: str


@dataclass(frozen=True, slots=True)
class Active:
    """The token is good; `document` is what the server says of it, as JSON."""

    document: bytes

    def claims(self) -> dict[str, Any]:
        """Return what the server says of the token, a dict of its own for every call."""
        found: dict[str, Any] = json.loads(self.document)
        return found


Verdict = Active | Refused


class Introspector:
    """What one authorization server says of tokens. Safe for use from any thread and any event loop."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._client = HttpClient(settings.server)
        self._remembered: Remembered[Verdict] = Remembered(settings.cache_size)
        self._dependency = dependency("introspection", settings.server.shown)
        self._headers = {
            "accept": "application/json",
            "content-type": "application/x-www-form-urlencoded",
            **settings.client.headers,
        }

    def ask(self, token: str) -> Verdict | Future[Kept[Verdict]]:
        """Return the verdict that is remembered, or the call for one; `wait` waits for it."""
        return self._remembered.find(sha256(token.encode()).digest(), lambda: self._call(token))

    async def wait(self, call: Future[Kept[Verdict]]) -> Verdict:
        """Return the verdict of a call; raises CallFailed."""
        try:
            return (await self._client.wait(call)).value
        except CallFailed as error:
            self._dependency.failed(str(error))
            raise

    def _call(self, token: str) -> Future[Kept[Verdict]]:
        form = {"token": token, "token_type_hint": "access_token", **self._settings.client.form}
        return self._client.start(
            Call("POST", self._settings.server.target, self._headers, urlencode(form).encode()), self._read
        )

    def _read(self, answer: Answer) -> Kept[Verdict]:
        if answer.status != 200:
            raise CallFailed(f"status {answer.status} instead of 200")
        try:
            document = parse(answer.body)
        except NotJson as error:
            raise CallFailed(f"the answer is no JSON: {error}") from None
        if not isinstance(document, dict) or not isinstance(document.get("active"), bool):
            raise CallFailed("the answer is no object with active: true or false")
        self._dependency.answered()
        if not document["active"]:
            return self._refused("token_inactive")
        now, leeway = self._clock(), self._settings.leeway
        expires, begins = _moment(document, "exp"), _moment(document, "nbf")
        if expires is not None and expires + leeway <= now:
            return self._refused("token_expired")
        if begins is not None and begins > now + leeway:
            return self._refused("token_not_yet_valid")
        rest = self._settings.cache_ttl if expires is None else min(self._settings.cache_ttl, expires - now)
        return Kept(Active(answer.body), rest)

    def _refused(self, reason: str) -> Kept[Verdict]:
        return Kept(Refused(reason), self._settings.negative_cache_ttl, cheap=True)


def _moment(document: Mapping[str, Any], name: str) -> float | None:
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LATEST:
        raise CallFailed(f"{name} in the answer is no time")
    return float(value)


_shared: WeakValueDictionary[Settings, Introspector] = WeakValueDictionary()
_lock = threading.Lock()


def shared_introspector(settings: Settings) -> Introspector:
    """Return the one of this process for these settings, so that a reload of a chain asks for nothing anew."""
    with _lock:
        found = _shared.get(settings)
        if found is None:
            found = _shared[settings] = Introspector(settings)
        return found
