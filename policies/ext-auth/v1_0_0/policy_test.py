"""ext-auth against a scripted server: what it is told, what its answers do, and that no answer lets nobody in."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from policy_engine.sdk import ParameterError, Policy
from policy_engine.sdk.dependencies import dependency_states
from policy_engine.sdk.testing import Outcome, load_policy, request, response, run, run_async
from policy_http.testing import Asked, Reply, ScriptedServer, scripted


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted(Reply(200)) as running:
        yield running


def policy(server: ScriptedServer, *, timeout: str = "20s", **parameters: Any) -> Policy:
    return load_policy(__file__, {"server": {"url": f"{server.url}/auth?a=b", "timeout": timeout}, **parameters})


def result(value: Any) -> Reply:
    return Reply(body=json.dumps({"result": value}).encode())


def send(subject: Policy, method: str = "GET", path: str = "/orders?x=1&x=2", **given: Any) -> Outcome:
    return run(subject, request(method, path, **given), response(200, body=b"ok"))


def test_the_server_is_told_of_the_request_and_what_it_says_goes_on(server: ScriptedServer) -> None:
    server.reply = Reply(
        204, headers=[("X-User", "alice"), ("set-cookie", "a=1"), ("Set-Cookie", "b=2"), ("x-no", "1")]
    )
    subject = policy(server, allowed={"headers_to_upstream": ["X-User", "x-role"], "headers_to_client": ["set-cookie"]})
    headers = {"authorization": "Basic YTpi", "cookie": "s=1", "x-user": "root", "x-role": "root", "x-other": "1"}
    outcome = send(subject, "PUT", headers=headers)
    assert outcome.reached_upstream
    assert (outcome.request.headers["x-user"], "x-role" in outcome.request.headers) == ("alice", False)
    assert "x-no" not in outcome.request.headers
    assert outcome.response.headers.get_all("set-cookie") == ("a=1", "b=2")
    assert outcome.metadata["ext_auth"] == {"status": 204}
    (asked,) = server.asked
    assert (asked.method, asked.target, asked.body) == ("GET", "/auth?a=b", b"")
    told = {name: value for name, value in asked.headers.items() if name.startswith("x-")}
    assert (told.pop("x-forwarded-host"), told.pop("x-forwarded-for")) == (
        outcome.request.authority,
        outcome.request.client_address,
    )
    assert told == {
        "x-forwarded-method": "PUT",
        "x-forwarded-proto": outcome.request.scheme,
        "x-forwarded-uri": "/orders?x=1&x=2",
    }
    assert (asked.headers["authorization"], asked.headers["cookie"]) == ("Basic YTpi", "s=1")


def test_a_client_tells_the_server_nothing_in_the_engines_name(server: ScriptedServer) -> None:
    subject = policy(server, request={"headers": ["X-Forwarded-Uri", "x-forwarded-user", "x-a"]})
    send(subject, path="/private", headers={"x-forwarded-uri": "/public", "x-forwarded-user": "root", "x-a": "1"})
    (asked,) = server.asked
    assert asked.headers["x-forwarded-uri"] == "/private"
    assert ("x-forwarded-user" in asked.headers, asked.headers["x-a"]) == (False, "1")


LOGIN = [("location", "https://login.example.com/"), ("content-type", "text/html"), ("x-secret", "1")]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 302, 307])
def test_a_denial_goes_to_the_client_as_far_as_it_may(server: ScriptedServer, status: int) -> None:
    server.reply = Reply(status, b"<p>no</p>", LOGIN)
    plain = send(policy(server))
    assert (plain.status, plain.reached_upstream) == (status, False)
    assert plain.response.headers["location"] == "https://login.example.com/"
    assert "x-secret" not in plain.response.headers
    assert plain.body != b"<p>no</p>"
    assert plain.immediate is not None
    assert plain.immediate.details == f"ext_auth_denied:{status}"
    whole = send(policy(server, denied={"headers": [], "max_body_bytes": 9}))
    assert (whole.status, whole.body) == (status, b"<p>no</p>")
    assert (whole.response.headers["content-type"], "location" in whole.response.headers) == ("text/html", False)
    assert send(policy(server, denied={"max_body_bytes": 8})).body == plain.body


def test_opa_is_given_the_input_of_its_envoy_plugin(server: ScriptedServer) -> None:
    server.reply = result(True)
    subject = policy(server, format="opa", request={"headers": ["x-tenant", "cookie"], "metadata": ["jwt", "none"]})
    sent = request("GET", "/a%2Fb/c?x=1&x=%20&y=", headers={"x-tenant": "t\u00e4\udcff", "authorization": "no"})
    claims = {"sub": "al\udcffice", "groups": ["a"]}

    class Claims(Policy):
        def on_request_headers(self, request: Any) -> None:
            request.metadata["jwt"] = claims

    outcome = run([Claims({}), subject], sent)
    assert outcome.reached_upstream
    (asked,) = server.asked
    assert (asked.method, asked.headers["content-type"]) == ("POST", "application/json")
    assert json.loads(asked.body) == {
        "input": {
            "attributes": {
                "request": {
                    "http": {
                        "method": "GET",
                        "scheme": outcome.request.scheme,
                        "host": outcome.request.authority,
                        "path": "/a%2Fb/c?x=1&x=%20&y=",
                        "headers": {"x-tenant": "t\u00e4?"},
                    }
                },
                "source": {"address": outcome.request.client_address},
            },
            "parsed_path": ["a/b", "c"],
            "parsed_query": {"x": ["1", " "], "y": [""]},
            "metadata": {"jwt": {"sub": "al?ice", "groups": ["a"]}},
        }
    }


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (result(True), 200),
        (result(False), 403),
        (Reply(body=b"{}"), 403),
        (result({"allowed": True}), 200),
        (result({"allowed": False}), 403),
        (result({"allowed": False, "http_status": 401}), 401),
        (result({"allowed": False, "http_status": 200}), 503),
        (result({"allowed": False, "http_status": True}), 503),
        (result({"allowed": "true"}), 503),
        (result({"allow": True}), 503),
        (result("true"), 503),
        (result(1), 503),
        (result(None), 503),
        (result({"allowed": True, "headers": {"x-role": 1}}), 503),
        (result({"allowed": True, "headers": {"x-role": "a\r\nb"}}), 503),
        (Reply(body=b'{"result": false, "result": true}'), 503),
        (Reply(body=b"true"), 503),
        (Reply(404, b'{"result": true}'), 503),
    ],
)
def test_what_results_of_opa_decide(server: ScriptedServer, reply: Reply, status: int) -> None:
    server.reply = reply
    outcome = send(policy(server, format="opa", allowed={"headers_to_upstream": ["x-role"]}))
    assert (outcome.status, outcome.reached_upstream) == (status, status == 200)


def test_objects_of_opa_have_headers_and_a_body(server: ScriptedServer) -> None:
    headers = {"X-Role": "seller", "set-cookie": ["a=1", "b=2"], "location": "/login"}
    server.reply = result({"allowed": True, "headers": headers, "limit": {"rate": 7}})
    subject = policy(
        server,
        format="opa",
        allowed={"headers_to_upstream": ["x-role"], "headers_to_client": ["set-cookie"]},
        denied={"headers": ["location"], "max_body_bytes": 100},
    )
    outcome = send(subject)
    assert outcome.request.headers["x-role"] == "seller"
    assert outcome.response.headers.get_all("set-cookie") == ("a=1", "b=2")
    assert outcome.metadata["ext_auth"]["result"]["limit"] == {"rate": 7}
    server.reply = result({"allowed": False, "headers": headers, "http_status": 302, "body": "go there"})
    denied = send(subject)
    assert (denied.status, denied.body, denied.response.headers["location"]) == (302, b"go there", "/login")


@pytest.mark.parametrize("kind", ["forward-auth", "opa"])
def test_the_body_goes_along_and_nothing_goes_on_before(server: ScriptedServer, kind: str) -> None:
    server.reply = result(True)
    subject = policy(server, format=kind, request={"max_body_bytes": 10})
    assert run(subject, request("POST"), request_chunks=[b"hello", b" you"]).reached_upstream
    (asked,) = server.asked
    body = json.loads(asked.body)["input"]["attributes"]["request"]["http"]["body"] if kind == "opa" else asked.body
    assert (asked.method, body) == ("POST", "hello you" if kind == "opa" else b"hello you")
    assert send(subject, "POST", body=b"x" * 11).status == 413
    assert send(subject, "POST", body=b"x" * 10).status == 200
    assert send(subject).status == 200
    server.reply = Reply(403) if kind == "forward-auth" else result(False)
    assert not send(subject, "POST", body=b"x").reached_upstream


CACHE = {"key": '[request.headers["authorization"], request.method, request.path]', "ttl": "1m", "denied_ttl": "1m"}


def test_a_decision_is_remembered_by_the_key_alone(server: ScriptedServer) -> None:
    def answer(asked: Asked) -> Reply:
        return Reply(200 if asked.headers["x-forwarded-uri"].startswith("/a") else 403)

    server.reply = answer
    subject = policy(server, cache=CACHE)
    for _ in range(2):
        for path, user, status in (("/a", "1", 200), ("/b", "1", 403), ("/a", "2", 200), ("/a?x", "1", 200)):
            assert send(subject, path=path, headers={"authorization": user}).status == status
    assert len(server.asked) == 3
    for _ in range(2):
        assert send(subject, path="/a").status == 200, "a key that cannot be told: asked each time"
    assert len(server.asked) == 5
    send(subject, path="/a", headers={"authorization": "1"}).metadata["ext_auth"]["status"] = 0
    assert send(subject, path="/a", headers={"authorization": "1"}).metadata["ext_auth"] == {"status": 200}


def test_denials_are_asked_for_anew_unless_they_may_be_kept(server: ScriptedServer) -> None:
    server.reply = Reply(403)
    subject = policy(server, cache={"key": "request.path"})
    assert [send(subject).status for _ in range(3)] == [403] * 3
    assert len(server.asked) == 3
    server.reply = Reply(500)
    assert send(subject).status == 503
    server.reply = Reply(200)
    assert [send(subject).status for _ in range(3)] == [200] * 3
    assert len(server.asked) == 5


def test_many_requests_with_one_key_are_one_question(server: ScriptedServer) -> None:
    let_go, came = threading.Event(), threading.Event()

    def held(_: Asked) -> Reply:
        came.set()
        let_go.wait(20)
        return Reply(200)

    server.reply = held
    subject = policy(server, cache={"key": "request.path"})

    async def burst() -> list[int | None]:
        sent = [asyncio.create_task(run_async(subject, request())) for _ in range(20)]
        assert await asyncio.to_thread(came.wait, 20)
        let_go.set()
        return [(await one).status for one in sent]

    assert asyncio.run(burst()) == [200] * 20
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(500), "status 500"),
        (Reply(503), "status 503"),
        (Reply(304), "status 304"),
        (Reply(delay=1.0), "no whole answer"),
        (Reply(body=b"x" * 99, drip=0.02), "no whole answer"),
        (Reply(body=b"x" * 100_000), "larger than"),
        (Reply(403, b"x" * 100_000), "larger than"),
        (Reply(raw=b"SSH-2.0\r\n", close=True), "BadStatusLine"),
        (Reply(raw=b"", close=True), "RemoteDisconnected"),
        (Reply(headers=[("x-user", "a\x01b")]), "x-user"),
    ],
)
def test_without_a_decision_nobody_gets_in(server: ScriptedServer, reply: Reply, reason: str) -> None:
    slow = bool(reply.delay or reply.drip)
    subject = policy(server, timeout="300ms" if slow else "20s", allowed={"headers_to_upstream": ["x-user"]})
    server.reply = reply
    outcome = send(subject, headers={"authorization": "sesame"})
    assert (outcome.status, outcome.response.headers["retry-after"]) == (503, "5")
    assert not outcome.reached_upstream
    (state,) = [one for one in dependency_states() if one.name == f"{server.url}/auth"]
    assert (state.kind, state.up) == ("ext-auth", False)
    assert reason in state.reason
    assert "sesame" not in state.reason


def test_a_server_that_is_gone() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        assert send(policy(ScriptedServer(url=f"http://127.0.0.1:{taken.getsockname()[1]}"))).status == 503


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"server": {"url": "http://opa.example.com/"}}, "/server/url"),
        ({"server": {"url": "https://opa.example.com/", "timeout": "1"}}, "/server/timeout"),
        ({"request": {"headers": ["x-a", "host"]}}, "/request/headers/1"),
        ({"request": {"metadata": ["jwt"]}}, "/request/metadata"),
        ({"allowed": {"headers_to_upstream": [":path"]}}, "/allowed/headers_to_upstream/0"),
        ({"allowed": {"headers_to_client": ["content-length"]}}, "/allowed/headers_to_client/0"),
        ({"denied": {"headers": ["a b"]}}, "/denied/headers/0"),
        ({"cache": {"key": "request.nothing"}}, "/cache/key"),
        ({"cache": {"key": "request.path"}, "request": {"max_body_bytes": 10}}, "/cache"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        load_policy(__file__, {"server": {"url": "https://auth.example.com/"}, **parameters})
    assert caught.value.path == path
