"""From a token to its claims; apart from the policies because each version of them asks for the same.

PyJWT and `cryptography` do the signatures and read the keys. The few steps around them are here, so that each is
strict and a token is taken apart once; tests hold the result against `jwt.decode`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from policy_jwt.claims import Expected, check_claims
from policy_jwt.compact import decode, parse_header, parse_object
from policy_jwt.errors import InvalidToken, KeysUnavailable
from policy_jwt.keys import ALGORITHMS, Key, KeySet


class KeySource(Protocol):
    """Where keys come from: `RemoteKeySet` or `InlineKeys`."""

    def ready(self) -> KeySet | None:
        """Return the keys if that needs no waiting."""
        ...

    def fallback(self) -> KeySet | None:
        """Return the keys after a wait."""
        ...

    def refresh(self) -> Future[None] | None:
        """Return a fetch to wait for, None when there can be none now."""
        ...


class InlineKeys:
    """Keys from the configuration."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    def ready(self) -> KeySet | None:
        """Return the keys."""
        return self._keys

    fallback = ready

    def refresh(self) -> Future[None] | None:
        """There is nothing to fetch."""
        return None


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that is to be trusted: its claims, a dict of its own for every call, and its payload as it came."""

    claims: dict[str, Any]
    payload: str


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    algorithm: str
    kid: str | None
    signed: str
    payload: str
    signature: str


class Verifier:
    """Checks tokens against one key source and one set of expectations.

    `request_wait` bounds, in seconds, how long a call waits for keys. `cache_size` is how many verified tokens are
    remembered until they expire or the keys change, by their hash; 0 remembers none.
    """

    def __init__(
        self,
        source: KeySource,
        expected: Expected,
        algorithms: frozenset[str],
        *,
        types: frozenset[str] = frozenset(),
        max_token_bytes: int = 8192,
        request_wait: float = 0.8,
        cache_size: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._expected = expected
        self._algorithms = algorithms
        self._types = types
        self._max_token_bytes = max_token_bytes
        self._request_wait = request_wait
        self._cache_size = cache_size
        self._cache: dict[bytes, tuple[float, KeySet]] = {}
        self._clock = clock

    def verify(self, text: str) -> Verified | Coroutine[Any, Any, Verified]:
        """Return what the token says, or a coroutine of that when keys must be fetched first.

        Both raise InvalidToken and KeysUnavailable.
        """
        if len(text) > self._max_token_bytes:
            raise InvalidToken("jwt_too_large")
        if not text.isascii():
            raise InvalidToken("jwt_malformed")
        keys = self._source.ready()
        if self._cache_size and keys is not None:
            remembered = self._remembered(text, keys)
            if remembered is not None:
                return remembered
        token = self._parse(text)
        if keys is not None:
            candidates = keys.candidates(token.kid, token.algorithm)
            if candidates:
                return self._check(token, keys, candidates)
        pending = self._source.refresh()
        if pending is None:
            return self._check_with_fallback(token)
        return self._wait_and_check(token, pending)

    def _parse(self, text: str) -> _Token:
        parts = text.split(".", 3)
        if len(parts) != 3:
            raise InvalidToken("jwt_malformed")
        header = parse_header(parts[0])
        if header.algorithm not in self._algorithms:
            raise InvalidToken("jwt_algorithm_not_allowed")
        if self._types and header.type not in self._types:
            raise InvalidToken("jwt_wrong_type")
        return _Token(text, header.algorithm, header.kid, f"{parts[0]}.{parts[1]}", parts[1], parts[2])

    async def _wait_and_check(self, token: _Token, pending: Future[None]) -> Verified:
        try:
            async with asyncio.timeout(self._request_wait):
                await asyncio.wrap_future(pending)
        except TimeoutError:
            pass  # the fetch goes on; what is at hand decides
        return self._check_with_fallback(token)

    def _check_with_fallback(self, token: _Token) -> Verified:
        keys = self._source.fallback()
        if keys is None:
            raise KeysUnavailable
        candidates = keys.candidates(token.kid, token.algorithm)
        if not candidates:
            raise InvalidToken("jwt_unknown_key")
        return self._check(token, keys, candidates)

    def _check(self, token: _Token, keys: KeySet, candidates: list[Key]) -> Verified:
        signature, signed = decode(token.signature), token.signed.encode("ascii")
        algorithm = ALGORITHMS[token.algorithm]
        if not any(algorithm.verify(signed, key.material, signature) for key in candidates):
            raise InvalidToken("jwt_bad_signature")
        claims = parse_object(token.payload)
        expires = check_claims(claims, self._expected, self._clock())
        if self._cache_size:
            self._remember(token.text, expires, keys)
        return Verified(dict(claims), token.payload)

    def _remembered(self, text: str, keys: KeySet) -> Verified | None:
        digest = sha256(text.encode("ascii")).digest()
        entry = self._cache.get(digest)
        if entry is None:
            return None
        expires, used = entry
        if used is not keys or self._clock() >= expires:
            del self._cache[digest]
            return None
        payload = text.split(".", 2)[1]
        # Read again rather than kept: the mapping goes to policies that may change it.
        return Verified(dict(parse_object(payload)), payload)

    def _remember(self, text: str, expires: float, keys: KeySet) -> None:
        while len(self._cache) >= self._cache_size:
            del self._cache[next(iter(self._cache))]  # the oldest
        self._cache[sha256(text.encode("ascii")).digest()] = (expires, keys)
