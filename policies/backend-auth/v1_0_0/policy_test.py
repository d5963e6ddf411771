"""backend-auth: what the upstream gets, that it is never what the client sent, and tokens of a scripted server."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from policy_engine.sdk import ParameterError, Policy
from policy_engine.sdk.dependencies import dependency_states
from policy_engine.sdk.testing import Outcome, load_policy, request, run
from policy_http.testing import Asked, Reply, ScriptedServer, scripted
from policy_jwt.testing import signing_key

CLIENT = {"id": "gateway", "secret": "sesame"}
SECRET = "0123456789abcdef0123456789abcdef"
THEIRS = {"authorization": "Bearer theirs", "x-key": "forged"}


def issued(token: str = "t1", **members: Any) -> Reply:
    return Reply(
        body=json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": 600, **members}).encode()
    )


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted(issued()) as running:
        yield running


def policy(**parameters: Any) -> Policy:
    return load_policy(__file__, parameters)


def asking(server: ScriptedServer, kind: str = "client_credentials", *, timeout: str = "20s", **way: Any) -> Policy:
    endpoint = {"url": f"{server.url}/token", "timeout": timeout}
    return policy(**{kind: {"endpoint": endpoint, "client": CLIENT, **way}})


def send(subject: Policy, headers: dict[str, str] | None = None) -> Outcome:
    return run(subject, request(headers=THEIRS if headers is None else headers))


def pem(name: str, kind: str) -> str:
    return signing_key(name, kind).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("parameters", "authorization", "key"),
    [
        ({}, "Bearer k", "forged"),
        ({"header": "X-Key", "prefix": ""}, None, "k"),
        ({"header": "x-key", "prefix": "ApiKey", "keep_client_authorization": True}, "Bearer theirs", "ApiKey k"),
    ],
)
def test_a_key_and_never_what_the_client_sent(parameters: dict[str, Any], authorization: str | None, key: str) -> None:
    subject = policy(key="k", **parameters)
    got = send(subject).request.headers
    assert (got.get("authorization"), got.get("x-key")) == (authorization, key)
    assert subject.credentials == (parameters.get("header", "authorization").lower(),)


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [("RSA", "RS256"), ("RSA", "PS512"), ("P-256", "ES256"), ("P-384", "ES384"), ("Ed25519", "EdDSA")],
)
def test_a_token_is_signed_and_others_can_check_it(kind: str, algorithm: str) -> None:
    claims = {"iss": "gateway", "aud": ["orders"], "sub": {"cel": 'request.headers["x-user"]'}}
    subject = policy(jwt={"key": pem("backend", kind), "algorithm": algorithm, "kid": "k1", "claims": claims})
    text = send(subject, {**THEIRS, "x-user": "alice"}).request.headers["authorization"].removeprefix("Bearer ")
    public = signing_key("backend", kind).public_key()
    found = jwt.decode(text, public, [algorithm], audience="orders")
    assert (found["iss"], found["sub"], found["exp"] - found["iat"]) == ("gateway", "alice", 300)
    assert abs(found["iat"] - time.time()) < 60
    assert jwt.get_unverified_header(text)["kid"] == "k1"


def test_a_signed_token_is_used_again_for_the_same_claims_alone() -> None:
    claims = {"sub": {"cel": 'request.headers["x-user"]'}}
    subject = policy(jwt={"key": SECRET, "algorithm": "HS256", "ttl": "1s", "claims": claims})

    def token(user: str) -> str:
        return send(subject, {"x-user": user}).request.headers["authorization"]

    first = token("alice")
    assert (token("alice") == first, token("bob") == first) == (True, False)
    time.sleep(0.6)
    assert token("alice") != first, "half of its time is over"
    outcome = send(subject, {})
    assert (outcome.status, outcome.reached_upstream) == (403, False)
    assert outcome.immediate is not None
    assert outcome.immediate.details == "backend_auth_claim_unknown:sub"


def test_client_credentials_are_asked_for_once(server: ScriptedServer) -> None:
    subject = asking(server, scopes=["a", "b"], audience="orders")
    assert [send(subject).request.headers["authorization"] for _ in range(3)] == ["Bearer t1"] * 3
    (asked,) = server.asked
    assert (asked.method, asked.target, asked.headers["authorization"][:6]) == ("POST", "/token", "Basic ")
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["client_credentials"],
        "scope": ["a b"],
        "audience": ["orders"],
    }
    again = asking(server, scopes=["a", "b"], audience="orders")
    assert send(again).request.headers["authorization"] == "Bearer t1"
    assert len(server.asked) == 1, "a reload of the chain asks for nothing anew"
    assert send(asking(server, scopes=["c"])).status == 200
    assert len(server.asked) == 2


def test_a_new_token_is_there_before_the_old_one_ends(server: ScriptedServer) -> None:
    server.reply = issued("old", expires_in=6)  # used for one second, asked for anew after 0.7 to 0.9
    subject = asking(server)
    assert send(subject).request.headers["authorization"] == "Bearer old"
    server.reply = issued("new")
    until = time.monotonic() + 20
    while (token := send(subject).request.headers["authorization"]) == "Bearer old":
        assert time.monotonic() < until
        time.sleep(0.02)
    assert token == "Bearer new"
    assert len(server.asked) == 2


def test_a_token_about_to_end_is_used_and_not_kept(server: ScriptedServer) -> None:
    server.reply = issued(expires_in=3)
    subject = asking(server)
    assert [send(subject).status for _ in range(2)] == [200] * 2
    assert len(server.asked) == 2


def test_tokens_are_exchanged_each_for_its_own(server: ScriptedServer) -> None:
    def answer(asked: Asked) -> Reply:
        subject = parse_qs(asked.body.decode())["subject_token"][0]
        return (
            Reply(400, b'{"error": "invalid_grant"}')
            if subject == "bad"
            else issued(f"for-{subject}", token_type="N_A")
        )

    server.reply = answer
    subject = asking(server, "token_exchange", audience="orders", subject={"header": "x-token", "prefix": ""})
    for _ in range(2):
        for user in ("alice", "bob"):
            got = send(subject, {"x-token": user, **THEIRS}).request.headers
            assert got["authorization"] == f"Bearer for-{user}"
            assert "x-token" not in got
        denied = send(subject, {"x-token": "bad"})
        assert (denied.status, denied.response.headers["www-authenticate"]) == (401, "Bearer")
    assert len(server.asked) == 3
    form = parse_qs(server.asked[0].body.decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:token-exchange"]
    assert form["subject_token_type"] == ["urn:ietf:params:oauth:token-type:access_token"]
    assert form["audience"] == ["orders"]
    assert send(subject, {}).status == 401
    assert len(server.asked) == 3


def test_two_tokens_are_not_exchanged(server: ScriptedServer) -> None:
    assert send(asking(server, "token_exchange"), {"authorization": "Bearer a,Bearer b"}).status == 400
    assert server.asked == []


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(401), "status 401"),
        (Reply(302, headers=[("location", "/")]), "status 302"),
        (Reply(400, b'{"error": "invalid_scope"}'), "refused: invalid_scope"),
        (Reply(400, b"no"), "no JSON"),
        (Reply(400, b'{"error": []}'), "refused"),
        (Reply(body=b"[]"), "no object"),
        (Reply(body=b"{}"), "no access_token"),
        (issued("a\r\nx: b"), "cannot stand in a header"),
        (issued("\u00e4"), "no access_token"),
        (issued(token_type="mac"), "token_type"),
        (issued(expires_in="600"), "expires_in"),
        (issued(expires_in=-1), "expires_in"),
        (Reply(body=b" " * 100_000), "larger than"),
        (Reply(delay=1.0), "no whole answer"),
    ],
)
def test_without_a_token_nothing_goes_on(server: ScriptedServer, reply: Reply, reason: str) -> None:
    server.reply = reply
    subject = asking(server, timeout="300ms" if reply.delay else "20s")
    outcome = send(subject)
    assert (outcome.status, outcome.response.headers["retry-after"], outcome.reached_upstream) == (503, "5", False)
    if reply.delay:
        time.sleep(0.1)  # the thread notes it as its own time is over
    (state,) = [one for one in dependency_states() if one.name == f"{server.url}/token"]
    assert (state.kind, state.up) == ("token-endpoint", False)
    assert reason in state.reason
    assert "sesame" not in state.reason


def test_a_server_that_is_gone() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        gone = ScriptedServer(url=f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert send(asking(gone)).status == 503


ENDPOINT = {"url": "https://issuer.example.com/token"}


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"key": "sesame\n"}, "/key"),
        ({"key": "k", "header": "host"}, "/header"),
        ({"jwt": {"key": "sesame", "algorithm": "HS256", "claims": {"a": 1}}}, "/jwt/key"),
        ({"jwt": {"key": "sesame", "claims": {"a": 1}}}, "/jwt/key"),
        ({"jwt": {"key": pem("weak", "RSA-1024"), "claims": {"a": 1}}}, "/jwt/key"),
        ({"jwt": {"key": pem("p", "P-384"), "algorithm": "ES256", "claims": {"a": 1}}}, "/jwt/key"),
        ({"jwt": {"key": pem("p", "P-384"), "claims": {"a": 1}}}, "/jwt/key"),
        ({"jwt": {"key": SECRET, "algorithm": "HS256", "claims": {"exp": 1}}}, "/jwt/claims/exp"),
        ({"jwt": {"key": SECRET, "algorithm": "HS256", "claims": {"a": {"b": 1}}}}, "/jwt/claims/a"),
        ({"jwt": {"key": SECRET, "algorithm": "HS256", "claims": {"a": {"cel": "no.such"}}}}, "/jwt/claims/a/cel"),
        ({"jwt": {"key": SECRET, "algorithm": "HS256", "ttl": "0s", "claims": {"a": 1}}}, "/jwt/ttl"),
        (
            {"client_credentials": {"endpoint": {"url": "http://a.test/"}, "client": CLIENT}},
            "/client_credentials/endpoint/url",
        ),
        (
            {"token_exchange": {"endpoint": ENDPOINT, "client": CLIENT, "bearer_token": "sesame"}},
            "/token_exchange/bearer_token",
        ),
        ({"token_exchange": {"endpoint": ENDPOINT, "subject": {"header": ":path"}}}, "/token_exchange/subject/header"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        policy(**parameters)
    assert caught.value.path == path
    assert "sesame" not in str(caught.value)
