"""policy_redis against a real redis-server: addresses, TLS, passwords; and the circuit with a fake clock."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from policy_engine.sdk import ParameterError
from policy_engine.sdk.dependencies import dependency_states
from policy_jwt.testing import Authority
from policy_redis import Circuit, RedisLink, StoreUnavailable, redis_from
from policy_redis.testing import free_port, redis_server

pytestmark = pytest.mark.asyncio


async def pong(link: RedisLink) -> bool:
    try:
        return bool(await link.ask(link.client.ping))
    finally:
        await link.close()


async def test_tcp_with_a_database_and_a_user() -> None:
    port = free_port()
    with redis_server("--user", "engine", "on", ">pass word", "~*", "+@all", port=port):
        account = {"username": "engine", "password": "pass word"}
        assert await pong(redis_from({"url": f"redis://127.0.0.1:{port}/3", "timeout": "5s", **account}))
        with pytest.raises(StoreUnavailable, match=r"AuthenticationError"):
            await pong(redis_from({"url": f"redis://127.0.0.1:{port}", "timeout": "5s", **account, "password": "no"}))


async def test_tls_is_verified(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.server_context()
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other")
    port, certificate = free_port(), str(tmp_path / "localhost-False.pem")
    files = ["--tls-cert-file", certificate, "--tls-key-file", certificate, "--tls-ca-cert-file", authority.ca_file]
    with redis_server("--tls-port", str(port), "--tls-auth-clients", "no", *files):
        url = {"url": f"rediss://localhost:{port}", "timeout": "5s"}
        assert await pong(redis_from({**url, "ca_file": authority.ca_file}))
        for distrusting in ({}, {"ca_file": stranger.ca_file}):
            with pytest.raises(StoreUnavailable, match=r"SSLCertVerificationError"):
                await pong(redis_from({**url, **distrusting}))
    authority.server_context(host="elsewhere.test")
    certificate = str(tmp_path / "elsewhere.test-False.pem")
    files = ["--tls-cert-file", certificate, "--tls-key-file", certificate, "--tls-ca-cert-file", authority.ca_file]
    port = free_port()
    with (
        redis_server("--tls-port", str(port), "--tls-auth-clients", "no", *files),
        pytest.raises(StoreUnavailable, match=r"SSLCertVerificationError"),
    ):
        await pong(redis_from({"url": f"rediss://localhost:{port}", "timeout": "5s", "ca_file": authority.ca_file}))


async def test_nothing_there() -> None:
    with pytest.raises(StoreUnavailable, match=r"ConnectionRefusedError|TimeoutError"):
        await pong(redis_from({"url": f"redis://127.0.0.1:{free_port()}"}))


async def test_a_question_is_never_longer_than_the_timeout() -> None:
    link = redis_from({"url": "redis://127.0.0.1:1", "timeout": "50ms"})
    with pytest.raises(StoreUnavailable, match=r"TimeoutError"):
        await asyncio.wait_for(link.ask(lambda: asyncio.sleep(60)), 30)
    await link.close()


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"url": "redis://user:hidden@localhost"}, "/redis/url"),
        ({"url": "redis://:hidden@localhost"}, "/redis/url"),
        ({"url": "redis://localhost?password=hidden"}, "/redis/url"),
        ({"url": "redis://localhost/hidden"}, "/redis/url"),
        ({"url": "redis://localhost:hidden"}, "/redis/url"),
        ({"url": "hidden://localhost"}, "/redis/url"),
        ({"url": "unix://hidden/path"}, "/redis/url"),
        ({"url": "redis://[hidden"}, "/redis/url"),
        ({"url": "redis://localhost", "timeout": "soon"}, "/redis/timeout"),
        ({"url": "redis://localhost", "ca_file": "/hidden"}, "/redis/ca_file"),
        ({"url": "rediss://localhost", "ca_file": "/nonexistent"}, "/redis/ca_file"),
    ],
)
async def test_wrong_parameters_are_refused_without_quoting_them(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        redis_from({"password": "hidden", **parameters})
    assert caught.value.path == path
    assert "hidden" not in caught.value.message


async def test_the_circuit_opens_after_three_failures_and_lets_one_try_in_each_pause() -> None:
    now = 0.0
    circuit = Circuit(10, clock=lambda: now)
    assert [circuit.failed(), circuit.failed(), circuit.succeeded()] == [False, False, False]
    assert [circuit.failed(), circuit.failed(), circuit.allows(), circuit.failed()] == [False, False, True, True]
    assert [circuit.allows() for _ in range(3)] == [False] * 3
    now = 10.0
    assert [circuit.allows() for _ in range(3)] == [True, False, False]
    assert circuit.failed() is False, "said once"
    now = 19.0
    assert not circuit.allows()
    now = 20.0
    assert circuit.allows()
    assert circuit.succeeded()
    assert [circuit.allows() for _ in range(3)] == [True] * 3


async def test_a_server_that_is_slower_than_the_policys_own_timeout_is_known_to_be_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    link = redis_from({"url": "redis://127.0.0.1:2", "timeout": "10s", "retry_after": "10s"})
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(link.ask(lambda: asyncio.sleep(60)), 0.1)
    with pytest.raises(StoreUnavailable, match="not asked"):
        await link.ask(lambda: asyncio.sleep(60))
    assert "nobody waited for its answer any longer" in caplog.text
    (state,) = [one for one in dependency_states() if one.name == "redis://127.0.0.1:2"]
    assert (state.up, state.errors) == (False, 3)
    await link.close()


async def test_a_client_that_leaves_at_once_says_nothing_of_the_server() -> None:
    link = redis_from({"url": "redis://127.0.0.1:3", "timeout": "10s"})
    for _ in range(5):
        asked = asyncio.ensure_future(link.ask(lambda: asyncio.sleep(60)))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    assert await link.ask(lambda: asyncio.sleep(0, "answer")) == "answer"
    await link.close()
