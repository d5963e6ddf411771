"""Calls against a real server: kept connections, bounds on time and size, servers that are slow, gone or lie."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from policy_engine.sdk import ParameterError
from policy_http import Answer, Call, CallFailed, HttpClient, server_from, server_of
from policy_http.testing import Asked, Reply, ScriptedServer, scripted
from policy_jwt.testing import Authority


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted(Reply(body=b"hello")) as running:
        yield running


def client(server: ScriptedServer, *, timeout: float = 10.0, max_bytes: int = 4096, at_once: int = 32) -> HttpClient:
    where = replace(server_of(server.url, ""), timeout=timeout, max_bytes=max_bytes)
    return HttpClient(where, at_once=at_once, waiting=2)


PLAIN = Call("GET", "/a?b")


def ask(asking: HttpClient, call: Call = PLAIN) -> Answer:
    async def run() -> Answer:
        return await asking.wait(asking.start(call, lambda answer: answer))

    return asyncio.run(run())


def test_a_call_and_its_answer(server: ScriptedServer) -> None:
    server.reply = Reply(201, b"body", [("X-One", "1"), ("x-one", "2")])
    answer = ask(client(server), Call("POST", "/a?b=c", {"x-name": "Zo\u00eb\udcff"}, b"asked"))
    assert (answer.status, answer.body, answer.header("x-one"), answer.header("x-none")) == (201, b"body", "1, 2", "")
    (asked,) = server.asked
    assert (asked.method, asked.target, asked.body) == ("POST", "/a?b=c", b"asked")
    assert asked.headers["host"] == server.url.removeprefix("http://")
    assert asked.headers["x-name"].encode("latin-1") == "Zo\u00eb".encode() + b"\xff"


def test_one_connection_serves_many_calls(server: ScriptedServer) -> None:
    asking = client(server)
    for body in (b"a", b"b" * 3000, b""):
        server.reply = Reply(body=body, chunked=len(body) > 1)
        assert ask(asking).body == body
    assert server.connections == 1
    asking.close()
    assert ask(asking).body == b""
    assert server.connections == 2


def test_a_kept_connection_that_the_server_ended_is_no_failure(server: ScriptedServer) -> None:
    asking = client(server)
    for quiet in (0.2, 0.0, 0.0):
        server.reply = Reply(body=b"x", close=True)
        assert ask(asking).body == b"x"
        time.sleep(quiet)
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b"x" * 3000, headers=[("connection", "close")], close=True),
        Reply(body=b"x" * 3000, headers=[("connection", "close")], close=True, chunked=True),
        Reply(raw=b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 3000, close=True),
    ],
)
def test_an_answer_after_which_the_server_closes(server: ScriptedServer, reply: Reply) -> None:
    server.reply = reply
    asking = client(server)
    assert [ask(asking).body for _ in range(2)] == [b"x" * 3000] * 2
    assert server.connections == 2


def test_more_than_one_answer_never_answers_the_next_call(server: ScriptedServer) -> None:
    asking = client(server)
    one = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno"
    server.reply = Reply(raw=one + one.replace(b"no", b"ok"))
    assert ask(asking).body == b"no"
    server.reply = Reply(body=b"right")
    assert ask(asking).body == b"right"
    assert server.connections == 2, "what came with more than its answer is not used again"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(delay=1.0), "no whole answer within 0.4 s"),
        (Reply(body=b"x" * 100, drip=0.05), "no whole answer within 0.4 s"),
        (Reply(body=b"x" * 5000), "larger than 4096"),
        (Reply(body=b"x" * 5000, chunked=True), "larger than 4096"),
        (Reply(headers=[("content-length", "1000000000000")]), "larger than 4096"),
        (Reply(body=b"x", headers=[("content-length", "10")], close=True), "ended early|IncompleteRead"),
        (Reply(body=b"x", headers=[("content-encoding", "gzip")]), "compressed"),
        (Reply(raw=b"hello\r\n\r\n", close=True), "BadStatusLine"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200, close=True), "HTTPException|more than 100 headers"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\na: " + b"b" * 70_000, close=True), "LineTooLong"),
        (Reply(raw=b"HTTP/1.1 101 Switching Protocols\r\n\r\n", close=True), "status 101"),
        (Reply(raw=b"", close=True), "RemoteDisconnected"),
    ],
)
def test_what_is_no_answer(server: ScriptedServer, reply: Reply, reason: str) -> None:
    server.reply = reply
    slow = bool(reply.delay or reply.drip)
    with pytest.raises(CallFailed) as caught:
        ask(client(server, timeout=0.4 if slow else 20.0))
    assert re.search(reason, str(caught.value))


def test_a_redirect_is_an_answer_and_is_not_followed(server: ScriptedServer) -> None:
    server.reply = Reply(302, headers=[("location", f"{server.url}/elsewhere")])
    assert ask(client(server)).status == 302
    assert len(server.asked) == 1


def test_a_server_that_is_gone() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        gone = HttpClient(server_of(f"http://127.0.0.1:{taken.getsockname()[1]}/", ""))
        with pytest.raises(CallFailed, match="ConnectionRefused"):
            ask(gone)


def test_more_calls_than_may_wait_are_refused_at_once(server: ScriptedServer) -> None:
    let_go = threading.Event()

    def held(_: Asked) -> Reply:
        let_go.wait(20)
        return Reply(body=b"late")

    server.reply = held
    asking = client(server, timeout=20, at_once=1)
    calls = [asking.start(Call("GET", "/"), lambda answer: answer.body)]
    while not server.asked:
        time.sleep(0.01)
    calls += [asking.start(Call("GET", "/"), lambda answer: answer.body) for _ in range(3)]
    with pytest.raises(CallFailed, match="too many"):
        calls[-1].result(timeout=0)
    let_go.set()
    assert [one.result(timeout=20) for one in calls[:-1]] == [b"late"] * 3


def test_tls_with_an_authority_of_ones_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with scripted(Reply(body=b"safe"), authority.server_context()) as server:
        trusted = HttpClient(replace(server_of(server.url, ""), ca_file=authority.ca_file))
        assert [ask(trusted).body for _ in range(3)] == [b"safe"] * 3
        assert server.connections == 1
        for wrong in (HttpClient(server_of(server.url, "")), HttpClient(replace(trusted.server, ca_file="/gone"))):
            with pytest.raises(CallFailed, match=r"certificate refused|FileNotFound"):
                ask(wrong)


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://a/", "https://", "https://user@a/", "https://a/#", "https://a/ b", "https://a:0/", "https://a:x/"),
        *("https://\u00e4/", "http://opa.example.com/", "http://10.0.0.1/", "http://127.0.0.1.example.com/", "//a/"),
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(ParameterError) as caught:
        server_from({"url": url}, "/endpoint")
    assert caught.value.path == "/endpoint/url"


@pytest.mark.parametrize(
    ("url", "authority", "target"),
    [
        ("https://a.example.com", "a.example.com", "/"),
        ("https://a.example.com:443/x?y=%20z", "a.example.com", "/x?y=%20z"),
        ("https://a.example.com:80/", "a.example.com:80", "/"),
        ("http://[::1]:8181/v1/data", "[::1]:8181", "/v1/data"),
        ("http://127.1.2.3/", "127.1.2.3", "/"),
        ("http://localhost:1/", "localhost:1", "/"),
    ],
)
def test_addresses_that_are_taken(url: str, authority: str, target: str) -> None:
    server = server_from({"url": url}, "")
    assert (server.authority, server.target, server.timeout) == (authority, target, 0.8)
    assert server_from({"url": "http://opa:1/", "plaintext": True}, "").host == "opa"
    assert "secret" not in server_from({"url": "https://a/x?secret"}, "").shown
    with pytest.raises(ParameterError):
        server_of("http://127.0.0.1/", "", plain=None)
