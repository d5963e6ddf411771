"""token-introspection against a scripted authorization server: what it says decides, once for each token."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
import time
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs

import pytest

from policy_engine.sdk import ParameterError, Policy
from policy_engine.sdk.dependencies import dependency_states
from policy_engine.sdk.testing import Outcome, load_policy, request, run, run_async
from policy_http.testing import Asked, Reply, ScriptedServer, scripted

SECRET = "s3cret: \u00e4+/"
GOOD = {"active": True, "sub": "alice", "client_id": "shop", "scope": "orders:read other", "aud": ["orders"]}


def said(**claims: Any) -> Reply:
    return Reply(body=json.dumps({**GOOD, **claims}).encode())


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted(said()) as running:
        yield running


def policy(server: ScriptedServer, **parameters: Any) -> Policy:
    endpoint = {"url": f"{server.url}/introspect?realm=a", "timeout": "20s", **parameters.pop("endpoint", {})}
    return load_policy(__file__, {"endpoint": endpoint, **parameters})


def send(subject: Any, token: str = "abc", **headers: str) -> Outcome:
    return run(subject, request(headers={"authorization": f"Bearer {token}", **headers}))


def test_what_the_server_says_lets_in_and_goes_on(server: ScriptedServer) -> None:
    subject = policy(
        server,
        client={"id": "gate way", "secret": SECRET},
        claims_to_headers=[{"claim": "sub", "header": "x-user"}, {"claim": "tenant", "header": "x-tenant"}],
    )
    outcome = send(subject, "a.b-c_d~e+f/g==", **{"x-user": "root", "x-tenant": "root"})
    assert outcome.reached_upstream
    assert outcome.metadata["introspection"] == GOOD
    assert outcome.request.headers["x-user"] == "alice"
    assert "x-tenant" not in outcome.request.headers
    assert outcome.request.headers["authorization"] == "Bearer a.b-c_d~e+f/g=="
    (asked,) = server.asked
    assert (asked.method, asked.target) == ("POST", "/introspect?realm=a")
    assert parse_qs(asked.body.decode()) == {"token": ["a.b-c_d~e+f/g=="], "token_type_hint": ["access_token"]}
    kind, _, pair = asked.headers["authorization"].partition(" ")
    assert (kind, b64decode(pair)) == ("Basic", b"gate+way:s3cret%3A+%C3%A4%2B%2F")


@pytest.mark.parametrize(
    ("parameters", "authorization", "form"),
    [
        (
            {"client": {"id": "a", "secret": SECRET, "method": "post"}},
            None,
            {"client_id": ["a"], "client_secret": [SECRET]},
        ),
        ({"bearer_token": "my-token"}, "Bearer my-token", {}),
        ({}, None, {}),
    ],
)
def test_who_asks(
    server: ScriptedServer, parameters: dict[str, Any], authorization: str | None, form: Mapping[str, list[str]]
) -> None:
    assert send(policy(server, **parameters)).status == 200
    (asked,) = server.asked
    assert asked.headers.get("authorization") == authorization
    assert parse_qs(asked.body.decode()) == {"token": ["abc"], "token_type_hint": ["access_token"], **form}


@pytest.mark.parametrize(
    ("claims", "status", "reason"),
    [
        ({"active": False}, 401, "token_inactive"),
        ({"exp": -100}, 401, "token_expired"),
        ({"exp": 0}, 200, ""),
        ({"nbf": 1000}, 401, "token_not_yet_valid"),
        ({"iss": "https://other.example.com"}, 401, "token_wrong_issuer"),
        ({"aud": "orders"}, 200, ""),
        ({"aud": "orders2"}, 401, "token_wrong_audience"),
        ({"aud": None}, 401, "token_wrong_audience"),
        ({"token_type": "DPoP"}, 401, "token_bound_to_key"),
        ({"scope": "orders:readers"}, 403, "token_scope_missing"),
        ({"client_id": "other"}, 403, "token_claim_rule_not_met"),
        ({"sub": "a\nb"}, 401, "token_claim_not_a_header_value"),
    ],
)
def test_what_is_held_against_the_parameters(
    server: ScriptedServer, claims: dict[str, Any], status: int, reason: str
) -> None:
    subject = policy(
        server,
        issuer="https://issuer.example.com",
        audiences=["orders", "more"],
        required_scopes=["orders:read"],
        claim_rules=[{"claim": "client_id", "equals": "shop"}],
        claims_to_headers=[{"claim": "sub", "header": "x-user"}],
    )
    claims = {name: time.time() + value if name in ("exp", "nbf") else value for name, value in claims.items()}
    server.reply = said(**{"iss": "https://issuer.example.com", **claims})
    outcome = send(subject)
    assert outcome.status == status
    if status != 200:
        assert outcome.immediate is not None
        assert outcome.immediate.details == reason
        error = "invalid_token" if status == 401 else "insufficient_scope"
        assert f'error="{error}"' in outcome.response.headers["www-authenticate"]
        assert "introspection" not in outcome.metadata


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Basic YTpi"}, 401),
        ({"authorization": "Bearer a b"}, 401),
        ({"authorization": "Bearer \u00e4"}, 401),
        ({"authorization": "Bearer " + "a" * 5000}, 401),
        ({"authorization": "Bearer a,Bearer b"}, 400),
    ],
)
def test_what_is_no_token_is_not_asked_for(server: ScriptedServer, headers: dict[str, str], status: int) -> None:
    assert run(policy(server), request(headers=headers)).status == status
    assert server.asked == []


def test_a_token_is_asked_for_once_in_its_time_and_again_after_it(server: ScriptedServer) -> None:
    subject = policy(server, cache_ttl="300ms", negative_cache_ttl="0s")
    assert [send(subject).status for _ in range(3)] == [200] * 3
    assert len(server.asked) == 1
    time.sleep(0.35)
    server.reply = Reply(body=b'{"active": false}')
    assert [send(subject).status for _ in range(2)] == [401] * 2
    assert len(server.asked) == 3, "revoked; and what is not to be remembered is not"


@pytest.mark.parametrize(("claims", "asked"), [({"exp": 0}, 3), ({"exp": 600}, 1), ({}, 1)])
def test_never_longer_than_the_token_lives(server: ScriptedServer, claims: dict[str, int], asked: int) -> None:
    server.reply = said(**{name: time.time() + seconds for name, seconds in claims.items()})
    subject = policy(server)
    assert [send(subject).status for _ in range(3)] == [200] * 3
    assert len(server.asked) == asked


def test_wrong_tokens_are_remembered_and_push_out_no_good_ones(server: ScriptedServer) -> None:
    def answer(asked: Asked) -> Reply:
        return said(active=parse_qs(asked.body.decode())["token"] == ["good"])

    server.reply = answer
    subject = policy(server, cache_size=4)
    assert send(subject, "good").status == 200
    for number in range(8):
        assert [send(subject, f"bad{number}").status for _ in range(2)] == [401] * 2
    assert send(subject, "good").status == 200
    assert len(server.asked) == 9


def test_many_requests_with_one_token_are_one_question(server: ScriptedServer) -> None:
    let_go, came = threading.Event(), threading.Event()

    def held(_: Asked) -> Reply:
        came.set()
        let_go.wait(20)
        return said()

    server.reply = held
    subject = policy(server)

    async def burst() -> list[int]:
        sent = [
            asyncio.create_task(run_async(subject, request(headers={"authorization": "Bearer abc"}))) for _ in range(50)
        ]
        assert await asyncio.to_thread(came.wait, 20)
        sent[0].cancel()
        let_go.set()
        return [(await one).status or 0 for one in sent[1:]]

    assert asyncio.run(burst()) == [200] * 49
    assert len(server.asked) == 1


def test_a_policy_may_change_what_it_gets_and_nobody_else_sees_it(server: ScriptedServer) -> None:
    subject = policy(server)
    send(subject).metadata["introspection"]["aud"].append("admin")
    assert send(subject).metadata["introspection"] == GOOD


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(401, b'{"active": true}'), "status 401"),
        (Reply(302, b'{"active": true}', [("location", "/")]), "status 302"),
        (Reply(500), "status 500"),
        (Reply(body=b'{"active": "true"}'), "no object with active"),
        (Reply(body=b'{"active": 1}'), "no object with active"),
        (Reply(body=b"[true]"), "no object"),
        (Reply(body=b'{"active": false, "active": true}'), "no JSON"),
        (Reply(body=b'{"active": true, "exp": "soon"}'), "exp in the answer"),
        (Reply(body=b'{"active": true, "nbf": true}'), "nbf in the answer"),
        (Reply(body=b"[" * 50_000), "no JSON"),
        (Reply(body=b" " * 100_000), "larger than"),
        (Reply(body=b'{"active": true}', close=True, headers=[("content-length", "99")]), "ended early|IncompleteRead"),
        (Reply(body=b'{"active": true}', delay=1.0), "no whole answer"),
        (Reply(body=b'{"active": true}' + b" " * 100, drip=0.02), "no whole answer"),
    ],
)
def test_without_an_answer_nobody_gets_in(
    server: ScriptedServer, reply: Reply, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    slow = bool(reply.delay or reply.drip)
    subject = policy(
        server, endpoint={"timeout": "300ms" if slow else "20s"}, client={"id": "a", "secret": "sesame-sesame"}
    )
    server.reply = reply
    outcome = send(subject)
    assert (outcome.status, outcome.response.headers["retry-after"]) == (503, "5")
    assert outcome.immediate is not None
    assert outcome.immediate.details == "introspection_unavailable"
    (state,) = [one for one in dependency_states() if one.name == f"{server.url}/introspect"]
    assert (state.kind, state.up) == ("introspection", False)
    assert any(one in state.reason for one in reason.split("|"))
    for secret in ("sesame", "abc"):
        assert secret not in state.reason + caplog.text
    server.reply = said()
    if not slow:
        assert send(subject).status == 200, "a failure is not remembered"
        assert [one.up for one in dependency_states() if one.name == state.name] == [True]


def test_a_server_that_is_gone() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        gone = ScriptedServer(url=f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert send(policy(gone)).status == 503


def test_a_new_instance_with_the_same_settings_asks_for_nothing_anew(server: ScriptedServer) -> None:
    first = policy(server)
    assert send(first).status == 200
    second = policy(server, realm="other")
    first.close()
    del first
    gc.collect()
    assert send(second).status == 200
    assert len(server.asked) == 1
    assert send(policy(server, bearer_token="another")).status == 200
    assert len(server.asked) == 2


def test_the_token_stays_here_and_stands_elsewhere(server: ScriptedServer) -> None:
    subject = policy(server, token={"header": "X-Token", "prefix": ""}, forward_token=False)
    outcome = run(subject, request(headers={"x-token": "abc", "authorization": "Bearer theirs"}))
    assert outcome.reached_upstream
    assert "x-token" not in outcome.request.headers
    assert outcome.request.headers["authorization"] == "Bearer theirs"
    assert subject.credentials == ("x-token",)
    assert run(subject, request(headers={"authorization": "Bearer abc"})).status == 401


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"endpoint": {"url": "http://issuer.example.com/"}}, "/endpoint/url"),
        ({"endpoint": {"url": "https://a:b@issuer.example.com/"}}, "/endpoint/url"),
        ({"endpoint": {"url": "https://issuer.example.com/", "ca_file": "/no/such/file"}}, "/endpoint/ca_file"),
        ({"bearer_token": "a", "client": {"id": "a", "secret": "b"}}, "/bearer_token"),
        ({"bearer_token": "sesame\nsesame"}, "/bearer_token"),
        ({"token": {"header": "host"}}, "/token/header"),
        ({"claims_to_headers": [{"claim": "a", "header": ":path"}]}, "/claims_to_headers/0/header"),
        ({"claims_to_headers": [{"claim": "a", "header": "Authorization"}]}, ""),
        ({"claims_to_headers": [{"claim": "a..b", "header": "x"}]}, "/claims_to_headers/0/claim"),
        ({"claim_rules": [{"claim": "a", "matches": "("}]}, "/claim_rules/0/matches"),
        ({"cache_ttl": "1"}, "/cache_ttl"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        load_policy(__file__, {"endpoint": {"url": "https://issuer.example.com/"}, **parameters})
    assert caught.value.path == path
    assert "sesame" not in str(caught.value)
