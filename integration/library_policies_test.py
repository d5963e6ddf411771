"""Policies of the library through Envoy: who gets in, what the upstream gets, what the client is told."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from integration.harness.chain_file import Document, policy
from integration.harness.exchange import Answer, HeaderList
from integration.runtime_stack import EVENTUALLY_S, Runtime, started
from policy_http.testing import Asked, Reply, ScriptedServer, scripted

POLICIES = Path(__file__).parent.parent / "policies"


def key(text: str, client: str) -> Document:
    """Return an entry of api-key-validation v1 for this key."""
    return {"client": client, "sha256": hashlib.sha256(text.encode()).hexdigest()}


HOOK_SECRETS = ["an-old-secret-0", "a-new-secret-00"]


def written(path: Path, count: int) -> Path:
    """Write a file of keys of which every third is of the tier gold."""
    lines = [
        json.dumps({**key(f"key-{number}", f"client-{number}"), "tier": "tin" if number % 3 else "gold"})
        for number in range(count)
    ]
    fresh = path.with_suffix(".new")
    fresh.write_text("\n".join(lines))
    fresh.replace(path)
    return path


RULES = [
    {"name": "admins", "action": "allow", "when": 'metadata.api_key.client == "admin"'},
    {"name": "internal", "action": "deny", "when": 'request.path.startsWith("/ruled/internal")'},
    {"name": "readers", "action": "allow", "when": 'request.method == "GET"'},
]


def introspection(url: str, **entry: Any) -> Document:
    """Return an entry that asks there."""
    told = [{"claim": "sub", "header": "x-user"}]
    parameters = {"endpoint": {"url": url, "timeout": "20s"}, "required_scopes": ["read"], "claims_to_headers": told}
    return policy("token-introspection", "v1.0.0", parameters, **{"timeout": "30s", **entry})


def decided(url: str, **parameters: Any) -> Document:
    """Return an entry that lets that server decide."""
    headers = {"headers_to_upstream": ["x-user"], "headers_to_client": ["set-cookie"]}
    server = {"url": url, "timeout": "20s"}
    parameters = {"server": server, "allowed": headers, "denied": {"max_body_bytes": 100}, **parameters}
    return policy("ext-auth", "v1.0.0", parameters, timeout="30s")


def backed(url: str, way: str) -> Document:
    """Return an entry that gets tokens there."""
    given = {"endpoint": {"url": url, "timeout": "20s"}, "client": {"id": "gateway", "secret": "s"}}
    return policy("backend-auth", "v1.0.0", {way: given}, timeout="30s")


def answered(asked: Asked) -> Reply:
    """Answer what policies ask."""
    if asked.target == "/token":
        subject = parse_qs(asked.body.decode()).get("subject_token", ["gateway"])[0]
        issued = {"access_token": f"for-{subject}", "token_type": "bearer", "expires_in": 600}
        return Reply(body=json.dumps(issued).encode())
    if asked.target == "/decide":
        if asked.headers.get("cookie") != "session=1; theme=dark":
            return Reply(302, b"log in", [("location", "https://login.example.com/"), ("content-type", "text/x-own")])
        return Reply(headers=[("x-user", "alice"), ("set-cookie", "a=1"), ("set-cookie", "b=2")])
    if asked.target == "/v1/data/gate":
        said = json.loads(asked.body)["input"]["attributes"]["request"]["http"]["body"]
        return Reply(body=json.dumps({"result": {"allowed": said == "x" * len(said)}}).encode())
    opaque = parse_qs(asked.body.decode()).get("token", [""])[0]
    claims = {"active": opaque.startswith("good"), "sub": "alice", "scope": opaque.rpartition("-")[2]}
    return Reply(body=json.dumps(claims).encode())


CHAINS: dict[str, list[Document]] = {
    "ruled": [
        policy("api-key-validation", "v1.0.0", {"keys": [key("root-key", "admin"), key("user-key", "user")]}),
        policy("authorize", "v1.0.0", {"rules": RULES}),
    ],
    "told": [
        policy("api-key-validation", "v1.0.0", {"keys": [key("user-key", "user")]}),
        policy(
            "set-header",
            "v1.1.0",
            {
                "request": {
                    "set": {"x-client": {"cel": "metadata.api_key.client"}, "x-tier": {"cel": "metadata.api_key.tier"}}
                },
                "response": {"set": {"x-seen": {"cel": 'string(response.status) + " " + request.method'}}},
            },
        ),
    ],
    "few": [policy("concurrency-limit", "v1.0.0", {"limit": 2, "key": 'request.headers["x-team"]'})],
    "secure": [policy("redirect", "v1.0.0", {"scheme": "https", "status": 308})],
    "moved": [
        policy(
            "redirect",
            "v1.0.0",
            {"host": "shop.example.com", "scheme": "https", "path": {"prefix": {"from": "/moved", "to": "/"}}},
        )
    ],
    "hooked": [policy("webhook-signature", "v1.0.0", {"format": "stripe", "secrets": HOOK_SECRETS}, timeout="20s")],
    "asked": [introspection("SERVER")],
    "backed": [backed("SERVER/token", "client_credentials")],
    "backed-exchange": [backed("SERVER/token", "token_exchange")],
    "backed-gone": [backed("http://127.0.0.1:9/", "client_credentials")],
    "decided": [decided("SERVER/decide")],
    "decided-body": [decided("SERVER/v1/data/gate", format="opa", request={"max_body_bytes": 100_000})],
    "undecided": [decided("http://127.0.0.1:9/")],
    "asked-shadow": [introspection("http://127.0.0.1:9/", mode="shadow")],
    "gone": [introspection("http://127.0.0.1:9/")],
    "own": [policy("csrf", "v1.0.0", {"trusted_origins": ["https://admin.example.com"]})],
}


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("keys") / "keys.jsonl", 15_000)


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with scripted(answered) as running:
        yield running


@pytest.fixture(scope="module")
def runtime(transport: str, keys_file: Path, server: ScriptedServer) -> Iterator[Runtime]:
    many = {"keys_file": str(keys_file), "headers": {"client": "x-client", "tier": "x-tier"}}
    gold = {"name": "gold", "action": "allow", "when": 'metadata.api_key.tier == "gold"'}
    keyed = [policy("api-key-validation", "v2.0.0", many), policy("authorize", "v1.0.0", {"rules": [gold]})]
    chains = json.loads(json.dumps(CHAINS).replace("SERVER", server.url))
    with started({**chains, "keyed": keyed}, transport=transport, policies=POLICIES) as runtime:
        yield runtime
        assert runtime.value("policy_engine_handler_errors_total") == 0
        assert runtime.value("policy_engine_protocol_errors_total") == 0


@pytest.fixture(autouse=True)
def _quiet_upstream(runtime: Runtime) -> None:
    runtime.upstream.reset()


@pytest.mark.parametrize(
    ("method", "target", "secret", "status"),
    [
        ("GET", "/ruled/a", "user-key", 200),
        ("POST", "/ruled/a", "user-key", 403),
        ("GET", "/ruled/internal/a", "user-key", 403),
        ("DELETE", "/ruled/internal/a", "root-key", 200),
        ("GET", "/ruled/a", "no-key", 403),
    ],
)
def test_rules_decide_by_the_key_and_the_request(
    runtime: Runtime, method: str, target: str, secret: str, status: int
) -> None:
    headers: HeaderList = [("x-api-key", secret)]
    reply = runtime.send(target, method=method, headers=headers)
    assert reply.status == status
    assert len(runtime.upstream.received) == (status == 200)
    assert status == 200 or b"internal" not in reply.body


def test_plain_http_is_sent_to_https_with_path_and_query(runtime: Runtime) -> None:
    reply = runtime.send("/secure/a%20b?c=d&e", method="POST", body=b"x", headers=[("host", "Api.example.com:8080")])
    assert (reply.status, reply.values("location")) == (308, ["https://api.example.com/secure/a%20b?c=d&e"])
    assert runtime.upstream.received == []


def test_a_client_does_not_choose_where_it_is_sent(runtime: Runtime) -> None:
    reply = runtime.send("/moved//evil.example/x", headers=[("x-forwarded-host", "evil.example")])
    assert (reply.status, reply.values("location")) == (302, ["https://shop.example.com//evil.example/x"])
    assert runtime.send("/secure/a", headers=[("host", "a@evil.example")]).status == 400


@pytest.mark.parametrize(
    ("token", "status"),
    [("good-read", 200), ("bad-read", 401), ("good-write", 403), ("good-read,Bearer good-read", 400)],
)
def test_a_token_is_worth_what_its_server_says(
    runtime: Runtime, server: ScriptedServer, token: str, status: int
) -> None:
    server.asked.clear()
    headers: HeaderList = [("authorization", f"Bearer {token}"), ("x-user", "root")]
    assert [runtime.send("/asked/a", headers=headers).status for _ in range(3)] == [status] * 3
    assert len(runtime.upstream.received) == (3 if status == 200 else 0)
    assert len(server.asked) <= runtime.value("policy_engine_workers")
    assert status != 200 or runtime.upstream.last().values("x-user") == ["alice"]


def test_a_server_decides_and_its_headers_go_where_they_are_wanted(runtime: Runtime) -> None:
    reply = runtime.send("/decided/a", headers=[("cookie", "session=1; theme=dark"), ("x-user", "root")])
    assert (reply.status, reply.values("set-cookie")) == (200, ["a=1", "b=2"])
    assert runtime.upstream.last().values("x-user") == ["alice"]
    runtime.upstream.reset()
    denied = runtime.send("/decided/a", headers=[("x-user", "root")])
    assert (denied.status, denied.body, denied.values("content-type")) == (302, b"log in", ["text/x-own"])
    assert denied.values("location") == ["https://login.example.com/"]
    assert runtime.send("/undecided/a").status == 503
    assert runtime.upstream.received == []


@pytest.mark.parametrize(("size", "status"), [(0, 200), (90_000, 200), (200_000, 413)])
def test_a_server_decides_over_a_body_that_comes_in_pieces(runtime: Runtime, size: int, status: int) -> None:
    body = b"x" * size
    pieces = [body[at : at + 65536] for at in range(0, size, 65536)]
    assert runtime.send("/decided-body/a", method="POST", body=pieces).status == status
    assert [len(one.body) for one in runtime.upstream.received] == ([size] if status == 200 else [])
    if size:
        runtime.upstream.reset()
        assert runtime.send("/decided-body/a", method="POST", body=b"y" + body[:9]).status == 403
        assert runtime.upstream.received == []


def test_the_upstream_gets_the_gateways_token_and_never_the_clients(runtime: Runtime) -> None:
    headers: HeaderList = [("authorization", "Bearer theirs")]
    for target, token in (("/backed/a", "for-gateway"), ("/backed-exchange/a", "for-theirs")):
        assert [runtime.send(target, headers=headers).status for _ in range(2)] == [200] * 2
        assert runtime.upstream.last().values("authorization") == [f"Bearer {token}"]
    runtime.upstream.reset()
    assert runtime.send("/backed-gone/a", headers=headers).status == 503
    assert runtime.send("/backed-exchange/a", headers=[*headers, *headers]).status == 400
    assert runtime.send("/backed-exchange/a").status == 401
    assert runtime.upstream.received == []


def test_a_server_that_is_gone_lets_nobody_in_and_a_shadow_everybody(runtime: Runtime) -> None:
    headers: HeaderList = [("authorization", "Bearer good-read")]
    reply = runtime.send("/gone/a", headers=headers)
    assert (reply.status, reply.values("retry-after")) == (503, ["5"])
    assert runtime.upstream.received == []
    assert runtime.send("/asked-shadow/a", headers=headers).status == 200


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", [("sec-fetch-site", "same-origin")], 200),
        ("POST", [("sec-fetch-site", "cross-site")], 403),
        ("POST", [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], 403),
        ("POST", [("origin", "https://admin.example.com"), ("sec-fetch-site", "cross-site")], 200),
        ("POST", [("origin", "https://admin.example.com"), ("origin", "https://evil.example")], 403),
        ("POST", [("host", "api.example.com"), ("origin", "https://api.example.com")], 200),
        ("POST", [("host", "api.example.com"), ("origin", "null")], 403),
        ("GET", [("origin", "https://evil.example")], 200),
        ("POST", [], 200),
    ],
)
def test_pages_of_other_origins_send_nothing(runtime: Runtime, method: str, headers: HeaderList, status: int) -> None:
    assert runtime.send("/own/a", method=method, headers=headers).status == status
    assert len(runtime.upstream.received) == (status == 200)


def signed(body: bytes, at: float, secret: str = HOOK_SECRETS[1]) -> list[tuple[str, str]]:
    made = hmac.new(secret.encode(), f"{int(at)}.".encode() + body, "sha256").hexdigest()
    return [("stripe-signature", f"t={int(at)},v1={made}")]


@pytest.mark.parametrize("size", [0, 10, 200_000])
def test_a_signed_webhook_arrives_whole_and_a_changed_one_not_at_all(runtime: Runtime, size: int) -> None:
    body = b"x" * size
    pieces = [body[at : at + 65536] for at in range(0, size, 65536)]
    reply = runtime.send("/hooked/a", method="POST", headers=signed(body, time.time()), body=pieces)
    assert (reply.status, len(runtime.upstream.last().body)) == (200, size)
    runtime.upstream.reset()
    for headers in (
        signed(body + b"x", time.time()),
        signed(body, time.time() - 900),
        signed(body, time.time()) * 2,
        [],
    ):
        assert runtime.send("/hooked/a", method="POST", headers=headers, body=body).status == 403
    assert runtime.upstream.received == []


def test_a_key_of_many_is_taken_away_without_a_reload(runtime: Runtime, keys_file: Path) -> None:
    def status(number: int) -> int:
        return runtime.send("/keyed/a", headers=[("x-api-key", f"key-{number}"), ("x-tier", "gold")]).status

    assert [status(number) for number in (0, 14_997, 14_998, 15_000)] == [200, 200, 403, 403]
    assert runtime.upstream.last().values("x-client") == ["client-14997"]
    written(keys_file, 14_000)
    until = time.monotonic() + EVENTUALLY_S
    while status(14_997) == 200:
        assert time.monotonic() < until, "a key that is gone from the file still gets in"
        time.sleep(0.1)
    assert status(0) == 200


def test_headers_from_expressions_are_never_the_clients(runtime: Runtime) -> None:
    forged = [("x-api-key", "user-key"), ("x-client", "root"), ("x-tier", "gold"), ("X-Tier", "gold")]
    reply = runtime.send("/told/a", method="PUT", headers=forged)
    assert reply.values("x-seen") == ["200 PUT"]
    got = runtime.upstream.last()
    assert (got.values("x-client"), got.values("x-tier")) == (["user"], [])


def test_a_place_is_taken_until_the_last_byte_of_the_response(runtime: Runtime) -> None:
    def send(team: str) -> int:
        return runtime.send("/few/a", headers=[("x-team", team)]).status

    slow = Answer(headers=[("content-type", "text/plain")], chunks=[b"x"] * 8, chunk_delay_s=0.5)
    runtime.upstream.answer_with(slow)
    threads = [threading.Thread(target=send, args=("a",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + EVENTUALLY_S
    while len(runtime.upstream.received) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(1.0)  # the headers of the response and some of its body are with the client
    runtime.upstream.answer_with(Answer(headers=[("content-type", "text/plain")], chunks=[b"x"]))
    assert any(thread.is_alive() for thread in threads)
    assert (send("a"), send("b")) == (429, 200)
    for thread in threads:
        thread.join()
    while send("a") != 200:
        assert time.monotonic() < until, "a place was not given up"
        time.sleep(0.05)


def test_clients_that_go_away_give_their_places_up(runtime: Runtime) -> None:
    slow = Answer(headers=[("content-type", "text/plain")], chunks=[b"x"] * 100, chunk_delay_s=0.5)
    runtime.upstream.answer_with(slow)
    until = time.monotonic() + EVENTUALLY_S
    clients = [socket.create_connection(("127.0.0.1", runtime.envoy.port), 10) for _ in range(2)]
    for one in clients:
        one.sendall(b"GET /few/a HTTP/1.1\r\nhost: a\r\nx-team: gone\r\n\r\n")
        assert one.recv(65536)
    runtime.upstream.answer_with(Answer(headers=[], chunks=[b"x"]))
    assert runtime.send("/few/a", headers=[("x-team", "gone")]).status == 429
    for one in clients:
        one.close()
    while runtime.send("/few/a", headers=[("x-team", "gone")]).status != 200:
        assert time.monotonic() < until, "the place of a client that went away was not given up"
        time.sleep(0.05)
