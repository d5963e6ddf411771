"""Tokens of an authorization server (RFC 6749, 4.4; RFC 8693): asked for once, kept, renewed ahead of their end."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import urlencode
from weakref import WeakValueDictionary

from policy_body import NotJson, parse
from policy_engine.sdk import dependency, header_value
from policy_http import Answer, Call, CallFailed, HttpClient, Kept, Remembered, Server
from policy_tokens import ClientAuthentication

_MARGIN = 5.0  # seconds before its end from which on a token is not used: the upstream looks at it later
_REFRESH_AHEAD = (0.7, 0.9)  # part of the lifetime; random, so that engines do not all ask at once
_UNKNOWN_LIFETIME = 60.0  # where the server names none
_LONGEST_LIFETIME = 86_400.0
_REFUSED_SECONDS = 10.0
_SUBJECT_REFUSED = frozenset(("invalid_request", "invalid_grant"))


@dataclass(frozen=True, slots=True)
class Settings:
    """Whom to ask, as whom, and for what: `form` has the members that are the same in all requests."""

    server: Server
    client: ClientAuthentication
    form: tuple[tuple[str, str], ...]
    size: int = 1


@dataclass(frozen=True, slots=True, repr=False)
class Issued:
    """A token to be used, or None where the server gives none for this subject."""

    token: str | None


class TokenEndpoint:
    """The tokens of one endpoint. Safe for use from any thread and any event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = HttpClient(settings.server)
        self._remembered: Remembered[Issued] = Remembered(settings.size)
        self._dependency = dependency("token-endpoint", settings.server.shown)
        self._headers = {
            "accept": "application/json",
            "content-type": "application/x-www-form-urlencoded",
            **settings.client.headers,
        }

    def token(self, subject: str = "") -> Issued | Future[Kept[Issued]]:
        """Return the token for this subject, or the call for it; `wait` waits for that."""
        key = sha256(subject.encode("utf-8", "surrogateescape")).digest()
        return self._remembered.find(key, lambda: self._call(subject))

    async def wait(self, call: Future[Kept[Issued]]) -> Issued:
        """Return the token of a call; raises CallFailed."""
        return (await self._client.wait(call)).value

    def _call(self, subject: str) -> Future[Kept[Issued]]:
        form = {**dict(self._settings.form), **self._settings.client.form}
        if subject:
            form["subject_token"] = subject
        call = Call("POST", self._settings.server.target, self._headers, urlencode(form).encode())
        started = self._client.start(call, lambda answer: _issued(answer, for_subject=bool(subject)))
        started.add_done_callback(self._note)  # not only where somebody waits: tokens are asked for ahead of time
        return started

    def _note(self, done: Future[Kept[Issued]]) -> None:
        error = done.exception()
        if error is None:
            self._dependency.answered()
        else:
            self._dependency.failed(str(error))


def _issued(answer: Answer, *, for_subject: bool) -> Kept[Issued]:
    if answer.status not in (200, 400):
        raise CallFailed(f"status {answer.status} instead of 200")
    try:
        document = parse(answer.body)
    except NotJson as error:
        raise CallFailed(f"the answer is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise CallFailed("the answer is no object")
    if answer.status == 400:
        code = document.get("error")
        if for_subject and isinstance(code, str) and code in _SUBJECT_REFUSED:
            return Kept(Issued(None), _REFUSED_SECONDS, cheap=True)
        raise CallFailed(f"refused: {str(code)[:64]}")
    token, kind = document.get("access_token"), document.get("token_type")
    lifetime = document.get("expires_in", _UNKNOWN_LIFETIME)
    if not isinstance(token, str) or not token or not token.isascii():
        raise CallFailed("the answer has no access_token")
    if not isinstance(kind, str) or kind.lower() not in ("bearer", "n_a"):
        raise CallFailed("the answer's token_type is not Bearer")
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or lifetime < 0:
        raise CallFailed("expires_in of the answer is no time")
    try:
        header_value(token)
    except ValueError:
        raise CallFailed("the access_token of the answer cannot stand in a header") from None
    rest = min(float(lifetime), _LONGEST_LIFETIME) - _MARGIN
    ahead = rest * random.uniform(*_REFRESH_AHEAD)  # noqa: S311 # spreads load, no secret
    return Kept(Issued(token), rest, refresh_after=ahead)


_shared: WeakValueDictionary[Settings, TokenEndpoint] = WeakValueDictionary()
_lock = threading.Lock()


def shared_endpoint(settings: Settings) -> TokenEndpoint:
    """Return the one of this process for these settings, so that a reload of a chain asks for nothing anew."""
    with _lock:
        found = _shared.get(settings)
        if found is None:
            found = _shared[settings] = TokenEndpoint(settings)
        return found
