"""User name and password against stored hashes, off the event loop, and once for a while for each right password."""

from __future__ import annotations

import asyncio
import binascii
import hmac
import re
import secrets
import time
from base64 import b64decode
from collections.abc import Awaitable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from policy_engine.sdk import (
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestAction,
    RequestMutation,
    UnreadableHeader,
    credentials,
    header_name,
    header_value,
    joined_key,
)

from .passwords import StoredPassword, parse

_LONGEST = 1024  # characters of the encoded credentials
_THREADS = 2
_MOST_PENDING = 64  # checks that wait or run; more are refused, so that guessing cannot pile up work
_MOST_REMEMBERED = 10_000
_MOST_COSTS = 8  # kinds of hashes, all of which a wrong password takes
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


class BasicAuth(Policy):
    """401 unless user name and password are right, else the name in `metadata["basic_auth"]["user"]`."""

    def __init__(self, parameters: Parameters) -> None:
        self._users = _users(parameters)
        self._decoys = _one_of_each_cost(self._users.values())
        self._remember = parameters.get("remember", 300)
        self._secret = secrets.token_bytes(32)
        self._known: dict[bytes, float] = {}
        self._pending: dict[bytes, Future[bool]] = {}
        self._pool = ThreadPoolExecutor(_THREADS, "basic-auth")
        self._user_header = _user_header(parameters)
        self._strip = () if parameters.get("forward_credentials", False) else ("authorization",)
        challenge = f'Basic realm="{parameters.get("realm", "api")}", charset="UTF-8"'
        headers = {"www-authenticate": challenge}
        self._missing = ImmediateResponse(401, headers=headers, details="basic_auth_missing")
        self._several = ImmediateResponse(400, details="basic_auth_several")
        self._refused = ImmediateResponse(401, headers=headers, details="basic_auth_refused")
        self._busy = ImmediateResponse(503, headers={"retry-after": "1"}, details="basic_auth_busy")

    def on_request_headers(self, request: Request) -> RequestAction | Awaitable[RequestAction | None] | None:
        """Check the credentials; an awaitable only when a password must be hashed."""
        try:
            encoded = credentials(request.headers, "authorization", "Basic ")
        except UnreadableHeader:
            return self._several
        if encoded is None:
            return self._missing
        given = _decoded(encoded)
        if given is None:
            return self._refused
        user, password = given
        digest = hmac.digest(self._secret, joined_key(user, password), "sha256")
        if self._known.get(digest, 0.0) > time.monotonic():
            return self._accept(request, user)
        pending = self._pending.get(digest)
        if pending is None:
            if len(self._pending) >= _MOST_PENDING:
                return self._busy
            pending = self._start(user, password, digest)
        return self._wait(request, user, pending)

    def _start(self, user: str, password: bytes, digest: bytes) -> Future[bool]:
        stored = self._users.get(user)
        pending = self._pending[digest] = self._pool.submit(_check, stored, self._decoys, password)

        def done(future: Future[bool]) -> None:
            self._pending.pop(digest, None)
            if not future.cancelled() and future.exception() is None and future.result() and self._remember:
                self._note(digest)

        pending.add_done_callback(done)
        return pending

    def _note(self, digest: bytes) -> None:
        while len(self._known) >= _MOST_REMEMBERED:
            self._known.pop(next(iter(self._known)), None)
        self._known.pop(digest, None)
        self._known[digest] = time.monotonic() + self._remember

    async def _wait(self, request: Request, user: str, pending: Future[bool]) -> RequestAction | None:
        # Shielded: a request that gives up must not cancel the check for others with the same credentials.
        right = await asyncio.shield(asyncio.wrap_future(pending))
        return self._accept(request, user) if right else self._refused

    def _accept(self, request: Request, user: str) -> RequestMutation | None:
        request.metadata["basic_auth"] = {"user": user}
        headers = {} if self._user_header is None else {self._user_header: user}
        if not (headers or self._strip):
            return None
        return RequestMutation(set_headers=headers, remove_headers=self._strip)

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _check(stored: StoredPassword | None, decoys: Sequence[StoredPassword], password: bytes) -> bool:
    """Return whether the password is right.

    A wrong one takes a hash of every cost that some user has, so that the time tells neither whether there is such a
    user nor how the password is stored.
    """
    if stored is not None and stored.fits(password):
        return True
    for decoy in decoys:
        if stored is None or decoy.cost != stored.cost:
            decoy.fits(password)
    return False


def _one_of_each_cost(stored: Iterable[StoredPassword]) -> Sequence[StoredPassword]:
    kinds = {one.cost: one for one in stored}
    if len(kinds) > _MOST_COSTS:
        raise ParameterError(
            f"the hashes have {len(kinds)} different costs (N, r, p, iterations, length); at most {_MOST_COSTS} are "
            "possible, since a wrong password takes the time of all: hash the old ones anew",
            "/users",
        )
    return list(kinds.values())


def _users(parameters: Parameters) -> dict[str, StoredPassword]:
    users: dict[str, StoredPassword] = {}
    for index, entry in enumerate(parameters["users"]):
        if ":" in entry["name"]:
            raise ParameterError("a user name has no colon (RFC 7617, 2)", f"/users/{index}/name")
        if _CONTROL.search(entry["name"].encode("utf-8", "surrogateescape")):
            raise ParameterError("a user name has no control characters (RFC 7617, 2)", f"/users/{index}/name")
        if entry["name"] in users:
            raise ParameterError("this user is listed twice", f"/users/{index}/name")
        try:
            users[entry["name"]] = parse(entry["password_hash"])
        except ValueError as error:
            raise ParameterError(str(error), f"/users/{index}/password_hash") from None
    return users


def _user_header(parameters: Parameters) -> str | None:
    if "user_header" not in parameters:
        return None
    path = "/user_header"
    try:
        name = header_name(parameters["user_header"])
        for index, entry in enumerate(parameters["users"]):
            path = f"/users/{index}/name"
            header_value(entry["name"])
    except ValueError as error:
        raise ParameterError(str(error), path) from None
    if name == "authorization":
        raise ParameterError("the user name cannot go into the header of the credentials", "/user_header")
    return name


def _decoded(encoded: str) -> tuple[str, bytes] | None:
    """Return user name and password from the credentials (RFC 7617, 2), None when they are malformed.

    Control characters are: the RFC forbids them, and a NUL at the end of a password would make no difference to its
    hash, as HMAC pads with them.
    """
    if len(encoded) > _LONGEST or not encoded.isascii():
        return None
    try:
        raw = b64decode(encoded, validate=True)
        user, colon, password = raw.partition(b":")
        return (user.decode(), password) if colon and not _CONTROL.search(raw) else None
    except (binascii.Error, UnicodeDecodeError):
        return None
