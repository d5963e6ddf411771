"""A remote key set against a real TLS server: kept, refreshed, rotated, and what happens when the server fails."""

from __future__ import annotations

import gc
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from policy_engine.sdk.dependencies import dependency_states
from policy_jwt.remote import RemoteKeySet, RemoteSettings, shared_key_set
from policy_jwt.testing import Authority, JwksServer, dropping, jwk, resolving, serve


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(authority: Authority) -> Iterator[JwksServer]:
    with serve(JwksServer(jwk("one")), authority.server_context()) as running:
        yield running


Make = Callable[..., RemoteKeySet]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(server: JwksServer, authority: Authority, clock: Clock) -> Make:
    def build(**settings: Any) -> RemoteKeySet:
        return RemoteKeySet(RemoteSettings(server.url, authority.ca_file, **settings), clock=clock)

    return build


def fetch(keys: RemoteKeySet) -> None:
    pending = keys.refresh()
    assert pending is not None, "a fetch was expected to be allowed"
    pending.result(timeout=20)


def kids(keys: RemoteKeySet) -> list[str | None] | None:
    found = keys.fallback()
    return None if found is None else [key.kid for key in found.keys]


def test_kept_for_its_lifetime_without_asking_again(make: Make, server: JwksServer, clock: Clock) -> None:
    keys = make(cache_ttl=300)
    assert keys.ready() is None
    fetch(keys)
    clock.now += 200  # before 0.7 of the lifetime
    assert keys.ready() is keys.fallback() is not None
    assert server.requests == 1


def test_refreshed_ahead_of_expiry_while_the_old_keys_serve(make: Make, server: JwksServer, clock: Clock) -> None:
    keys = make(cache_ttl=300)
    fetch(keys)
    server.keys = [jwk("two")]
    clock.now += 280  # after 0.9 of the lifetime
    server.delay = 0.2
    assert keys.ready() is not None, "nobody waits for a refresh ahead of expiry"
    assert kids(keys) == ["one"]
    fetch(keys)
    assert kids(keys) == ["two"]
    assert server.requests == 2


def test_expired_keys_are_not_used_before_the_server_was_asked(make: Make, server: JwksServer, clock: Clock) -> None:
    keys = make(cache_ttl=300)
    fetch(keys)
    clock.now += 301
    assert keys.ready() is None
    fetch(keys)
    assert keys.ready() is not None
    assert server.requests == 2


@pytest.mark.parametrize(
    ("headers", "lifetime"),
    [
        ({"Cache-Control": "public, max-age=60"}, 60),
        ({"Cache-Control": "max-age=100", "Age": "40"}, 60),
        ({"Cache-Control": "max-age=999999"}, 3600),
        ({"Cache-Control": "no-store, max-age=60"}, 10),
        ({"Cache-Control": "max-age=0"}, 10),
        ({"Cache-Control": "s-maxage=7"}, 300),
        ({}, 300),
    ],
)
def test_cache_control_decides_within_bounds(
    make: Make, server: JwksServer, clock: Clock, headers: dict[str, str], lifetime: int
) -> None:
    server.headers = headers
    keys = make()
    fetch(keys)
    clock.now += lifetime - 1
    assert keys.ready() is not None
    fetch_due = keys.refresh()
    if fetch_due is not None:
        fetch_due.result(timeout=20)


@pytest.mark.parametrize(("headers", "lifetime"), [({"Cache-Control": "max-age=60"}, 60), ({}, 300)])
def test_and_not_for_longer(
    make: Make, server: JwksServer, clock: Clock, headers: dict[str, str], lifetime: int
) -> None:
    server.headers = headers
    keys = make()
    fetch(keys)
    clock.now += lifetime + 1
    assert keys.ready() is None


def test_a_hundred_threads_one_fetch(make: Make, server: JwksServer) -> None:
    keys, server.delay = make(), 0.3
    gate = threading.Barrier(100)

    def wait() -> bool:
        gate.wait()
        fetch(keys)
        return keys.ready() is not None

    with ThreadPoolExecutor(100) as pool:
        assert all(pool.map(lambda _: wait(), range(100)))
    assert server.requests == 1


def test_fetches_keep_their_distance(make: Make, server: JwksServer, clock: Clock) -> None:
    keys = make(min_refresh_interval=10)
    fetch(keys)
    clock.now += 9
    assert keys.refresh() is None
    clock.now += 2
    fetch(keys)
    assert server.requests == 2


def test_outage_stale_keys_serve_within_the_bound_only(
    make: Make, server: JwksServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    keys = make(cache_ttl=300, stale_for=600)
    fetch(keys)
    server.status = 503
    clock.now += 400
    assert keys.ready() is None, "the first request after expiry waits for the server"
    with caplog.at_level(logging.WARNING, "policy_jwt"):
        fetch(keys)
    assert "status 503" in caplog.text
    assert kids(keys) == ["one"]
    assert keys.ready() is not None, "and the following ones do not wait"
    clock.now += 501
    assert keys.ready() is None
    assert kids(keys) is None


def test_recovery_after_an_outage(make: Make, server: JwksServer, clock: Clock) -> None:
    keys = make(cache_ttl=300)
    fetch(keys)
    server.status = 500
    clock.now += 301
    fetch(keys)
    server.status, server.keys = 200, [jwk("two")]
    clock.now += 1.1
    assert keys.ready() is not None  # stale, and it started the fetch that mends
    fetch_again = keys.refresh()
    if fetch_again is not None:
        fetch_again.result(timeout=20)
    assert kids(keys) == ["two"]


def test_retries_back_off_to_the_interval(make: Make, server: JwksServer, clock: Clock) -> None:
    server.status = 500
    keys = make(min_refresh_interval=10)
    for delay in (1, 2, 4, 8, 10, 10):
        fetch(keys)
        clock.now += delay - 0.01
        assert keys.refresh() is None
        clock.now += 0.02
    assert server.requests == 6


def test_unchanged_keys_stay_the_same_object(make: Make, server: JwksServer, clock: Clock) -> None:
    keys = make()
    fetch(keys)
    before = keys.fallback()
    clock.now += 100
    fetch(keys)
    assert keys.fallback() is before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": 404}, "status 404"),
        ({"status": 302, "headers": {"Location": "https://localhost/"}}, "status 302"),
        ({"body": b"not json"}, "Expecting value"),
        ({"body": b"[" * 4000}, "recursion|Expecting"),
        ({"body": b'{"keys": []}'}, "no key"),
        ({"body": b" " * 5000}, "larger than 4096"),
        ({"body": b" " * 5000, "headers": {"content-length": "1000000000"}}, "larger than 4096"),
        ({"body": b" " * 5000, "chunked": True}, "larger than 4096"),
        ({"body": b"{}", "headers": {"content-length": "10"}}, "ended early|IncompleteRead"),
        ({"headers": {"content-encoding": "gzip"}}, "compressed"),
        ({"delay": 2.0}, "no whole answer within 0.5 s"),
        ({"drip": 0.05}, "no whole answer within 0.5 s"),
    ],
)
def test_bad_answers_change_nothing(
    make: Make,
    server: JwksServer,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, Any],
    reason: str,
) -> None:
    keys = make(timeout=0.5, max_bytes=4096)
    server.delay = 0
    for _ in range(10):  # the half second is for bad answers; a slow machine may need more for the first good one
        fetch(keys)
        if kids(keys):
            break
        clock.now += 20
    for name, value in change.items():
        setattr(server, name, value)
    clock.now += 20
    caplog.clear()
    fetch(keys)
    assert kids(keys) == ["one"]
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is None, "a foreseen failure, not an unexpected error"
    assert re.search(reason, caplog.text)


def test_an_answer_without_a_length(make: Make, server: JwksServer) -> None:
    server.chunked = True
    keys = make()
    fetch(keys)
    assert kids(keys) == ["one"]


@pytest.mark.parametrize(
    ("context", "reason"),
    [({"expired": True}, "expired"), ({"host": "other.example.test"}, "(?i)hostname mismatch")],
)
def test_bad_certificates_are_refused(
    authority: Authority, caplog: pytest.LogCaptureFixture, context: dict[str, Any], reason: str
) -> None:
    with serve(JwksServer(jwk("one")), authority.server_context(**context)) as server:
        keys = RemoteKeySet(RemoteSettings(server.url, authority.ca_file))
        fetch(keys)
        assert kids(keys) is None
        assert server.requests == 0
    assert caplog.records
    assert caplog.records[0].exc_info is None
    assert re.search(reason, caplog.text)


def test_an_unknown_authority_is_refused(server: JwksServer, tmp_path: Path) -> None:
    for ca_file in (None, Authority(tmp_path).ca_file):
        keys = RemoteKeySet(RemoteSettings(server.url, ca_file))
        fetch(keys)
        assert kids(keys) is None
    assert server.requests == 0


def test_nobody_listening(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        keys = RemoteKeySet(RemoteSettings(f"https://127.0.0.1:{taken.getsockname()[1]}/k?token=hidden"))
        fetch(keys)
    assert kids(keys) is None
    assert "there are no keys" in caplog.text
    assert "hidden" not in caplog.text


def test_one_key_set_for_equal_settings_and_none_when_unused() -> None:
    settings = RemoteSettings("https://issuer.example.test/shared")
    first = shared_key_set(settings)
    assert shared_key_set(RemoteSettings("https://issuer.example.test/shared")) is first
    assert shared_key_set(RemoteSettings("https://issuer.example.test/other")) is not first
    marker = id(first)
    first._failures = 99
    del first
    gc.collect()
    assert shared_key_set(settings)._failures == 0 or id(shared_key_set(settings)) != marker


def test_a_name_whose_first_address_is_dead(make: Make, server: JwksServer, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    assert parts.port is not None
    resolving(monkeypatch, parts.hostname, ["127.0.0.2", "127.0.0.1"])
    with dropping("127.0.0.2", parts.port):
        keys = make(timeout=20.0)
        fetch(keys)
    assert kids(keys) == ["one"]


def test_an_odd_entry_is_left_out_and_said_once(
    make: Make, server: JwksServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    server.keys = [{"kty": ["RSA"]}, jwk("one")]
    keys = make(min_refresh_interval=1.0)
    with caplog.at_level(logging.WARNING, "policy_jwt"):
        for round in range(3):
            server.keys = [*server.keys, jwk("one", kid=f"more-{round}")]
            clock.now += 100
            fetch(keys)
    assert "one" in (kids(keys) or [])
    assert [record.getMessage().count("key 0") for record in caplog.records] == [1]


def test_a_key_set_that_cannot_be_fetched_is_told_to_operators(make: Make, server: JwksServer, clock: Clock) -> None:
    keys = make()
    (state,) = [one for one in dependency_states() if one.name == server.url]
    assert (state.kind, state.up) == ("jwks", None)
    fetch(keys)
    assert [one.up for one in dependency_states() if one.name == server.url] == [True]
    server.status = 500
    clock.now += 301
    fetch(keys)
    (state,) = [one for one in dependency_states() if one.name == server.url]
    assert (state.up, state.errors, state.reason) == (False, 1, "status 500 instead of 200")
