"""basic-auth through the test kit: who gets in, and that hashing passwords hurts nobody else."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import threading
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError, Policy
from policy_engine.sdk.testing import Outcome, load_policy, request, run, run_async


def b64(raw: bytes) -> str:
    return b64encode(raw).decode()


def scrypt(password: str, n: int = 8192) -> str:
    made = hashlib.scrypt(password.encode(), salt=b"saltsalt", n=n, r=1, p=1, dklen=32)
    return f"scrypt${n}$1$1${b64(b'saltsalt')}${b64(made)}"


def pbkdf2(password: str) -> str:
    made = hashlib.pbkdf2_hmac("sha256", password.encode(), b"saltsalt", 100_000)
    return f"pbkdf2-sha256$100000${b64(b'saltsalt')}${b64(made)}"


USERS = [
    {"name": "alice", "password_hash": scrypt("wonder:land")},
    {"name": "böb", "password_hash": pbkdf2("grüß")},
]


def policy(**parameters: Any) -> Policy:
    return load_policy(__file__, {"users": USERS, **parameters})


def basic(user: str, password: str) -> str:
    return "Basic " + b64(f"{user}:{password}".encode())


def send(subject: Policy, value: str | list[str] | None, **headers: str) -> Outcome:
    return run(subject, request(headers={**headers, **({} if value is None else {"authorization": value})}))


@pytest.mark.parametrize(("user", "password"), [("alice", "wonder:land"), ("böb", "grüß")])
def test_right_credentials_get_in_and_do_not_go_upstream(user: str, password: str) -> None:
    outcome = send(policy(user_header="X-User"), basic(user, password), **{"x-user": "forged"})
    assert outcome.reached_upstream
    assert outcome.metadata["basic_auth"] == {"user": user}
    assert outcome.request.headers.get_all("x-user") == (user,)
    assert "authorization" not in outcome.request.headers


def test_credentials_can_be_left_in() -> None:
    outcome = send(policy(forward_credentials=True), basic("alice", "wonder:land").replace("Basic", "bAsIc"))
    assert outcome.reached_upstream
    assert "authorization" in outcome.request.headers


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Bearer x",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic " + b64(b"alice"),
        "Basic " + b64(b"\xff:\xff"),
        basic("alice", "wrong"),
        basic("alice", ""),
        basic("ALICE", "wonder:land"),
        basic("nobody", "wonder:land"),
        basic("", ""),
        basic("alice", USERS[0]["password_hash"]),
        basic("alice", "x" * 2000),
        basic("alice", "wonder:land\0"),
        basic("alice", "wonder:land" + "\0" * 30),
        basic("alice", "wonder:land\n"),
        basic("alice", "wonder:land\x7f"),
        basic("alice\0", "wonder:land"),
        basic("\talice", "wonder:land"),
    ],
)
def test_everybody_else_gets_the_same_401(value: str | list[str] | None) -> None:
    outcome = send(policy(realm="shop"), value)
    assert (outcome.status, outcome.reached_upstream) == (401, False)
    assert outcome.response.headers["www-authenticate"] == 'Basic realm="shop", charset="UTF-8"'
    assert json.loads(outcome.body or b"")["title"] == "Unauthorized"
    assert "basic_auth" not in outcome.metadata


@pytest.mark.parametrize(
    "lines",
    [
        [basic("alice", "wonder:land")] * 2,
        basic("alice", "wonder:land") + "," + basic("alice", "wonder:land"),
        basic("alice", "wrong") + "," + basic("alice", "wonder:land"),
        basic("alice", "wonder:land") + ", Bearer x",
        "Bearer x,bAsIc " + b64(b"alice:wonder:land"),
        basic("alice", "wonder:land") + ",",
    ],
)
def test_several_credentials_are_no_request_that_can_be_checked(lines: str | list[str]) -> None:
    outcome = send(policy(), lines)
    assert (outcome.status, outcome.reached_upstream) == (400, False)


def test_credentials_of_another_scheme_that_hold_commas_are_not_several() -> None:
    assert send(policy(), 'Digest username="alice", realm="basic x", nonce="1"').status == 401


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    real = hashlib.scrypt

    def scrypt_noted(*parts: Any, **named: Any) -> bytes:
        calls.append(threading.get_ident())
        return real(*parts, **named)

    monkeypatch.setattr(hashlib, "scrypt", scrypt_noted)
    return calls


def test_a_right_password_is_hashed_once_off_the_loop_and_then_needs_no_awaiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = policy()
    calls = counting(monkeypatch)
    assert send(subject, basic("alice", "wonder:land")).status == 200
    again = subject.on_request_headers(request(headers={"authorization": basic("alice", "wonder:land")}))
    assert not inspect.isawaitable(again)
    assert len(calls) == 1
    assert calls[0] != threading.get_ident()
    for _ in range(2):
        assert send(subject, basic("alice", "wrong")).status == 401
    assert len(calls) == 3, "a wrong password is never remembered"


def test_nothing_is_remembered_when_that_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = policy(remember=0)
    calls = counting(monkeypatch)
    for _ in range(2):
        assert send(subject, basic("alice", "wonder:land")).status == 200
    assert len(calls) == 2


def test_an_unknown_name_costs_a_hash_too(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = policy()
    calls = counting(monkeypatch)
    assert send(subject, basic("nobody", "x")).status == 401
    assert len(calls) == 1


def test_wrong_passwords_cost_the_same_whoever_the_user_is(monkeypatch: pytest.MonkeyPatch) -> None:
    users = [
        {"name": "cheap", "password_hash": scrypt("a", 8192)},
        {"name": "dear", "password_hash": scrypt("b", 32768)},
        {"name": "other", "password_hash": pbkdf2("c")},
    ]
    subject = policy(users=users, remember=0)
    hashed: list[object] = []
    real_scrypt, real_pbkdf2 = hashlib.scrypt, hashlib.pbkdf2_hmac

    def scrypt_noted(*parts: Any, **named: Any) -> bytes:
        hashed.append(named["n"])
        return real_scrypt(*parts, **named)

    def pbkdf2_noted(*parts: Any) -> bytes:
        hashed.append(parts[3])
        return real_pbkdf2(*parts)

    monkeypatch.setattr(hashlib, "scrypt", scrypt_noted)
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", pbkdf2_noted)
    seen = {}
    for name in ("nobody", "cheap", "dear", "other"):
        hashed.clear()
        assert send(subject, basic(name, "wrong")).status == 401
        seen[name] = sorted(map(str, hashed))
    assert set(map(tuple, seen.values())) == {("100000", "32768", "8192")}


def test_remembered_credentials_do_not_run_together() -> None:
    subject = policy(
        users=[{"name": "a", "password_hash": scrypt("b:c")}, {"name": "a\u00e9", "password_hash": scrypt("c")}]
    )
    assert send(subject, basic("a", "b:c")).status == 200
    for user, password in (("a\u00e9", "b:c"), ("a", "c"), ("a", "\0b:c"), ("a", "b")):
        assert send(subject, basic(user, password)).status == 401


def gated(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, list[bytes]]:
    """Let every hash wait for an event, and note what is hashed."""
    go_on, hashed, real = threading.Event(), list[bytes](), hashlib.scrypt

    def slow(password: bytes, **named: Any) -> bytes:
        hashed.append(password)
        go_on.wait(30)
        return real(password, **named)

    monkeypatch.setattr(hashlib, "scrypt", slow)
    return go_on, hashed


def ask(subject: Policy, password: str) -> asyncio.Task[Outcome]:
    return asyncio.create_task(run_async(subject, request(headers={"authorization": basic("alice", password)})))


def test_many_requests_with_one_password_hash_it_once_also_when_the_first_gives_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = policy()
    go_on, hashed = gated(monkeypatch)

    async def main() -> list[int]:
        busy = [ask(subject, "guess 1"), ask(subject, "guess 2")]  # both threads
        impatient = ask(subject, "wonder:land")
        waiting = [ask(subject, "wonder:land") for _ in range(50)]
        await asyncio.sleep(0.05)
        impatient.cancel()
        await asyncio.sleep(0.05)
        go_on.set()
        await asyncio.gather(*busy)
        return [(await one).status for one in waiting]

    assert asyncio.run(main()) == [200] * 50
    assert hashed.count(b"wonder:land") == 1


def test_guessing_cannot_pile_up_work(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = policy()
    go_on, _ = gated(monkeypatch)

    async def main() -> list[int]:
        guesses = [ask(subject, str(number)) for number in range(100)]
        await asyncio.sleep(0.05)
        go_on.set()
        return [(await one).status for one in guesses]

    statuses = asyncio.run(main())
    assert (statuses.count(401), statuses.count(503)) == (64, 36)


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=60))
def test_no_bytes_get_in_or_make_it_fail(raw: bytes) -> None:
    assert send(policy(), "Basic " + b64(raw)).status == 401


def test_many_different_costs_are_refused() -> None:
    users = [
        {"name": str(one), "password_hash": f"pbkdf2-sha256${100_000 + one}$c2FsdHNhbHQ=${b64(b'x' * 32)}"}
        for one in range(9)
    ]
    with pytest.raises(ParameterError, match="different costs") as caught:
        policy(users=users)
    assert caught.value.path == "/users"


def test_close_ends_the_threads() -> None:
    subject = policy()
    send(subject, basic("alice", "wonder:land"))
    subject.close()
    with pytest.raises(RuntimeError):
        send(subject, basic("alice", "other"))


def stored(start: str) -> dict[str, Any]:
    return {"users": [{"name": "a", "password_hash": f"{start}${b64(b'x' * 32)}"}]}


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"users": [*USERS, USERS[0]]}, "/users/2/name"),
        ({"users": [{"name": "a:b", "password_hash": scrypt("x")}]}, "/users/0/name"),
        ({"users": [{"name": "a", "password_hash": "plain"}]}, "/users/0/password_hash"),
        ({"users": [{"name": "a", "password_hash": "md5$x$y"}]}, "/users/0/password_hash"),
        (stored("scrypt$1024$1$1$c2FsdHNhbHQ="), "/users/0/password_hash"),
        (stored("scrypt$8193$1$1$c2FsdHNhbHQ="), "/users/0/password_hash"),
        (stored("pbkdf2-sha256$10$c2FsdHNhbHQ="), "/users/0/password_hash"),
        (stored("pbkdf2-sha256$100000$c2E="), "/users/0/password_hash"),
        ({"users": [{"name": "a\0", "password_hash": scrypt("x")}]}, "/users/0/name"),
        ({"user_header": "host"}, "/user_header"),
        ({"user_header": "Authorization"}, "/user_header"),
        ({"user_header": "x", "users": [{"name": "a\n", "password_hash": scrypt("x")}]}, "/users/0/name"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        policy(**parameters)
    assert caught.value.path == path
    for user in parameters.get("users", ()):
        assert user["password_hash"] not in caught.value.message
