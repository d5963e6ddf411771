"""A key set that lives at a URL: kept, refreshed ahead of its expiry, and fetched once however many wait (R-34).

Times come from traffic, not from timers: a request finds that a refresh is due and starts it. The fetch runs in a
thread of its own and its result is a `concurrent.futures.Future`, so a key set belongs to no event loop.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from policy_engine.sdk import dependency
from policy_http import CallFailed
from policy_jwt.fetch import Document, fetch
from policy_jwt.keys import KeyProblem, KeySet, key_set_from_jwks

_log = logging.getLogger("policy_jwt")
_REFRESH_AHEAD = (0.7, 0.9)  # part of the lifetime; random, so that engines do not all ask at once
_FIRST_RETRY = 1.0  # seconds after the first failure; doubled up to `min_refresh_interval`


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """Where keys come from and how long they serve; times in seconds, sizes in bytes.

    `cache_ttl` holds when the server names no max-age, `max_cache_ttl` bounds what it names; `stale_for` is how long
    expired keys serve while the server fails; `min_refresh_interval` is the least time between two fetches.
    """

    url: str
    ca_file: str | None = None
    timeout: float = 5.0
    cache_ttl: float = 300.0
    max_cache_ttl: float = 3600.0
    stale_for: float = 3600.0
    min_refresh_interval: float = 10.0
    max_bytes: int = 262_144


class RemoteKeySet:
    """The keys of one URL. Safe for use from any thread and any event loop."""

    def __init__(self, settings: RemoteSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._pending: Future[None] | None = None
        self._keys: KeySet | None = None
        self._body = b""
        self._refresh_at = self._fresh_until = self._stale_until = 0.0
        self._next_fetch = float("-inf")
        self._failures = 0
        self._told: frozenset[str] = frozenset()
        self._dependency = dependency("jwks", self._shown_url())

    def ready(self) -> KeySet | None:
        """Return the keys if they can be used without waiting, else None; starts a refresh that is due."""
        keys, now = self._keys, self._clock()
        if keys is None or now >= self._stale_until:
            return None
        if now >= self._refresh_at:
            self.refresh()
            if now >= self._fresh_until and not self._failures:
                return None  # expired, and no failure yet that excuses it
        return keys

    def fallback(self) -> KeySet | None:
        """Return the keys after a wait or instead of one: fresh, or stale within the bound."""
        return self._keys if self._clock() < self._stale_until else None

    def refresh(self) -> Future[None] | None:
        """Return the fetch under way, or start one; None when the last one was too short a time ago.

        The future ends when the fetch did, well or not; it never raises.
        """
        with self._lock:
            if self._pending is not None:
                return self._pending
            now = self._clock()
            if now < self._next_fetch:
                return None
            self._next_fetch = now + self._settings.min_refresh_interval
            pending: Future[None] = Future()
            pending.set_running_or_notify_cancel()  # a request that gives up must not cancel it for the others
            self._pending = pending
            threading.Thread(target=self._fetch, args=(pending,), name="key-set", daemon=True).start()
            return pending

    def _fetch(self, pending: Future[None]) -> None:
        settings = self._settings
        try:
            document = fetch(
                settings.url, ca_file=settings.ca_file, timeout=settings.timeout, max_bytes=settings.max_bytes
            )
            keys = self._keys
            if keys is None or document.body != self._body:  # the same object lets verified tokens be kept
                keys = key_set_from_jwks(json.loads(document.body), inline=False)
        except (CallFailed, KeyProblem, ValueError, RecursionError) as error:
            self._failed(str(error))
        except Exception as error:  # whoever waits must not wait for ever
            _log.exception("key set %s: unexpected error", self._shown_url())
            self._failed(type(error).__name__)
        else:
            self._succeeded(keys, document)
        finally:
            with self._lock:
                self._pending = None
            pending.set_result(None)

    def _succeeded(self, keys: KeySet, document: Document) -> None:
        settings = self._settings
        named = settings.cache_ttl if document.max_age is None else document.max_age
        lifetime = max(min(named, settings.max_cache_ttl), settings.min_refresh_interval)
        with self._lock:
            recovered, self._failures = self._failures, 0
            now = self._clock()
            self._keys, self._body = keys, document.body
            self._refresh_at = now + lifetime * random.uniform(*_REFRESH_AHEAD)  # noqa: S311 # spreads load, no secret
            self._fresh_until = now + lifetime
            self._stale_until = self._fresh_until + settings.stale_for
        self._dependency.answered()
        new = [reason for reason in keys.refused if reason not in self._told]
        self._told = frozenset(keys.refused)
        for reason in new:
            _log.warning("key set %s: %s; it is left out, the others serve", self._shown_url(), reason)
        if recovered:
            _log.info("key set %s is back after %d failed fetches", self._shown_url(), recovered)

    def _failed(self, reason: str) -> None:
        self._dependency.failed(reason)
        with self._lock:
            self._failures += 1
            delay = min(_FIRST_RETRY * 2 ** min(self._failures - 1, 16), self._settings.min_refresh_interval)
            now = self._clock()
            self._next_fetch = now + delay
            if self._keys is None:
                kept = "there are no keys to fall back on"
            else:
                kept = f"the keys at hand serve for {max(0.0, self._stale_until - now):.0f} s more"
        _log.warning("key set %s could not be fetched: %s; %s", self._shown_url(), reason, kept)

    def _shown_url(self) -> str:
        return urlsplit(self._settings.url)._replace(query="").geturl()  # a query may hold a secret


_shared: WeakValueDictionary[RemoteSettings, RemoteKeySet] = WeakValueDictionary()
_shared_lock = threading.Lock()


def shared_key_set(settings: RemoteSettings) -> RemoteKeySet:
    """Return the one key set of this process for these settings; it is dropped with its last user."""
    with _shared_lock:
        found = _shared.get(settings)
        if found is None:
            found = _shared[settings] = RemoteKeySet(settings)
        return found
