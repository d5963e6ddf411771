"""Who gets credentials: challenges, tokens, redirects, and errors that show none of it."""

from __future__ import annotations

import json
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policy_builder.package.push import PushError, push
from policy_builder.package.registry import Repository
from policy_builder.testregistry import BASIC, PASSWORD, USER, Answer, Seen, Server, layout, log_in, scripted

TOKEN = "t0ken-" + "x" * 20
STORED = {("POST", "uploads"): (202, {"Location": "/v2/elsewhere/upload?a=b"}, b""), ("PUT", ""): (201, {}, b"")}


@pytest.fixture
def other() -> Iterator[Server]:
    """Run another server, such as a token server or one that a redirect leads to."""
    with scripted(Server({})) as server:
        yield server


def wants(authorization: str, *challenges: str) -> dict[tuple[str, str], Any]:
    """Return the answers of a registry that takes pushes with `authorization` only and asks with `challenges`."""

    def answer(seen: Seen) -> Answer:
        if seen.authorization != authorization:
            return 401, [("WWW-Authenticate", challenge) for challenge in challenges], b""
        if seen.method == "POST":
            return 202, {"Location": "/v2/engine/blobs/uploads/1?state=x"}, b""
        return (404 if seen.method == "HEAD" else 201), {}, b""

    return {("*", "/v2/"): answer}


def pushed(server: Server, directory: Path) -> int:
    return push(layout(directory / f"image{len(server.seen)}", b"base"), f"{server.address}/engine").uploaded


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("key", ["token", "access_token"])
def test_the_challenge_that_can_be_met_is_found_among_several(
    misbehaving: Server, no_logins: Path, apart: bool, key: str
) -> None:
    log_in(no_logins, misbehaving.address, f"{USER}:{PASSWORD}")
    challenges = [
        'Basic realm="a, Bearer realm=\\"http://evil.test/\\""',
        "Negotiate YWJj==",
        f'Bearer realm="http://{misbehaving.address}/token?account=x,y",service="s, t",'
        'scope="repository:engine:pull,push repository:base:pull",error="invalid_token"',
    ]
    misbehaving.answers = {
        ("GET", "/token"): (200, {}, json.dumps({key: TOKEN}).encode()),
        **wants(f"Bearer {TOKEN}", *(challenges if apart else [", ".join(challenges)])),
    }
    assert pushed(misbehaving, no_logins) == 3
    (asked,) = (one for one in misbehaving.requests if one.target.startswith("/token"))
    assert asked.authorization == f"Basic {BASIC}"
    assert urllib.parse.parse_qsl(asked.target.partition("?")[2]) == [
        ("account", "x,y"), ("service", "s, t"), ("scope", "repository:engine:pull,push"), ("scope", "repository:base:pull"),
    ]  # fmt: skip


def test_a_challenge_without_scope_is_answered_for_pushing(misbehaving: Server, no_logins: Path) -> None:
    misbehaving.answers = {
        ("GET", "/token"): (200, {}, json.dumps({"token": TOKEN}).encode()),
        **wants(f"Bearer {TOKEN}", f'Bearer realm="http://{misbehaving.address}/token"'),
    }
    assert pushed(misbehaving, no_logins) == 3
    (asked,) = (one for one in misbehaving.requests if one.target.startswith("/token"))
    assert (asked.authorization, asked.target) == (None, "/token?scope=repository%3Aengine%3Apull%2Cpush")


def test_basic_is_taken_where_bearer_names_no_realm(misbehaving: Server, no_logins: Path) -> None:
    log_in(no_logins, misbehaving.address, f"{USER}:{PASSWORD}")
    misbehaving.answers = wants(f"Basic {BASIC}", "Bearer service=x", 'Basic realm="r"')
    assert pushed(misbehaving, no_logins) == 3


def test_an_identity_token_buys_a_token(misbehaving: Server, no_logins: Path) -> None:
    entry = {"auths": {misbehaving.address: {"identitytoken": "refresh&me"}}}
    (no_logins / "config.json").write_text(json.dumps(entry))
    misbehaving.answers = {
        ("POST", "/token"): (200, {}, json.dumps({"access_token": TOKEN}).encode()),
        **wants(f"Bearer {TOKEN}", f'Bearer realm="http://{misbehaving.address}/token?x=y",service="s"'),
    }
    assert pushed(misbehaving, no_logins) == 3
    (asked,) = (one for one in misbehaving.requests if one.target.startswith("/token"))
    form = dict(urllib.parse.parse_qsl(asked.body.decode()))
    assert (asked.target, asked.authorization) == ("/token?x=y", None)
    assert form == {
        "grant_type": "refresh_token", "refresh_token": "refresh&me", "service": "s", "client_id": "policy-builder",
        "scope": "repository:engine:pull,push",
    }  # fmt: skip


def test_a_registry_token_is_sent_as_it_is(misbehaving: Server, no_logins: Path) -> None:
    entry = {"auths": {misbehaving.address: {"registrytoken": TOKEN}}}
    (no_logins / "config.json").write_text(json.dumps(entry))
    misbehaving.answers = wants(f"Bearer {TOKEN}", f'Bearer realm="http://{misbehaving.address}/token"')
    assert pushed(misbehaving, no_logins) == 3


def test_nobody_else_gets_credentials_whatever_they_ask(misbehaving: Server, other: Server, no_logins: Path) -> None:
    log_in(no_logins, misbehaving.address, f"{USER}:{PASSWORD}")
    asking = (401, {"WWW-Authenticate": f'Basic realm="x", Bearer realm="http://{other.address}/token"'}, b"")
    other.answers = {("*", ""): asking}
    for status in (301, 302, 303, 307, 308):
        misbehaving.answers = {("*", ""): (status, {"Location": f"http://{other.address}/there"}, b"")}
        with pytest.raises(PushError, match="401"):
            pushed(misbehaving, no_logins)
    misbehaving.answers = {("POST", ""): (202, {"Location": f"http://{other.address}/upload"}, b"")}
    with pytest.raises(PushError, match="401"):
        pushed(misbehaving, no_logins)
    assert {path for _, path, _ in other.seen} == {"/there", "/upload"}
    assert {authorization for _, _, authorization in other.seen} == {None}


def test_the_token_server_sends_credentials_nowhere_else(misbehaving: Server, other: Server, no_logins: Path) -> None:
    bearer = {"WWW-Authenticate": f'Bearer realm="http://{misbehaving.address}/token"'}
    moved = (307, {"Location": f"http://{other.address}/steal"}, b"")
    for entry in ({"auth": BASIC}, {"identitytoken": "refresh"}):
        (no_logins / "config.json").write_text(json.dumps({"auths": {misbehaving.address: entry}}))
        misbehaving.answers = {("*", "/token"): moved, ("HEAD", ""): (401, bearer, b"")}
        with pytest.raises(PushError, match="no token for"):
            pushed(misbehaving, no_logins)
    assert [(one.method, one.authorization, one.body) for one in other.requests] == [("GET", None, b"")]


def test_a_redirect_within_the_registry_keeps_credentials_and_content(misbehaving: Server, no_logins: Path) -> None:
    log_in(no_logins, misbehaving.address, f"{USER}:{PASSWORD}")

    def moved(seen: Seen) -> Answer:
        return 307, {"Location": seen.target.replace("/v2/engine/", "/v2/moved/")}, b""

    misbehaving.answers = {("*", "/v2/engine/"): moved, **wants(f"Basic {BASIC}", 'Basic realm="r"')}
    assert pushed(misbehaving, no_logins) == 3
    assert [one.body for one in misbehaving.requests if one.method == "PUT"].count(
        b"base"
    ) == 2  # the first was sent on


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_lose_the_content_is_not_followed(
    misbehaving: Server, no_logins: Path, status: int
) -> None:
    misbehaving.answers = {**STORED, ("PUT", ""): (status, {"Location": "/there"}, b"")}
    with pytest.raises(PushError, match=f"PUT .*: {status}"):
        pushed(misbehaving, no_logins)


def test_redirects_end(misbehaving: Server, no_logins: Path) -> None:
    misbehaving.answers = {("*", ""): (307, {"Location": "/v2/round"}, b"")}
    with pytest.raises(PushError, match="more than 5 redirects"):
        pushed(misbehaving, no_logins)
    assert len(misbehaving.seen) == 6


@pytest.mark.parametrize(
    "realm",
    ["http://evil.test/t", "http://u:p@127.0.0.1/t", "https://u:p@x.test/t", "//x/t", "/t", "", "https://", "https://x:y/t", "https://[x/t",
     "javascript:x", "file:///etc/passwd"],
)  # fmt: skip
def test_realms_that_get_no_credentials(misbehaving: Server, no_logins: Path, realm: str) -> None:
    log_in(no_logins, misbehaving.address, f"{USER}:{PASSWORD}")
    misbehaving.answers = {("HEAD", ""): (401, {"WWW-Authenticate": f'Bearer realm="{realm}"'}, b"")}
    with pytest.raises(PushError, match=r"sends credentials to .*, which is not https"):
        pushed(misbehaving, no_logins)


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://x/y",
        "http://u:p@x/y",
        "http://[",
        "http://x:99999999/",
        "http://x:y/",
        "gopher:x",
    ],
)
@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_places_that_are_not_gone_to(misbehaving: Server, no_logins: Path, method: str, location: str) -> None:
    misbehaving.answers = {(method, ""): (202 if method == "POST" else 307, {"Location": location}, b"")}
    with pytest.raises(PushError, match=r"neither http nor https|what is no URL"):
        pushed(misbehaving, no_logins)


@pytest.mark.parametrize("token", ['"a b"', '"a\\r\\nX: y"', '"é"', '""', "null", "3", '["x"]'])
def test_tokens_that_cannot_be_sent(misbehaving: Server, no_logins: Path, token: str) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{misbehaving.address}/token"'}
    misbehaving.answers = {
        ("GET", "/token"): (200, {}, f'{{"token": {token}}}'.encode()),
        ("HEAD", ""): (401, challenge, b""),
    }
    with pytest.raises(PushError, match="did not answer with one"):
        pushed(misbehaving, no_logins)


def test_errors_show_no_secret(misbehaving: Server, no_logins: Path) -> None:
    password = "pa ss/wörd+&"
    log_in(no_logins, misbehaving.address, f"{USER}:{password}")
    challenge = f'Bearer realm="http://{misbehaving.address}/token?key=hidden"'

    def echo(seen: Seen) -> Answer:
        quoted = urllib.parse.quote(password, safe=""), urllib.parse.quote_plus(password)
        said = f"you sent {seen.authorization}, {password}, {quoted}, {TOKEN}"
        return 403, {}, said.encode()

    for answers in (
        {("POST", ""): echo},
        {("GET", "/token"): echo, ("HEAD", ""): (401, {"WWW-Authenticate": challenge}, b"")},
        {
            ("GET", "/token"): (200, {}, json.dumps({"token": TOKEN}).encode()),
            ("POST", ""): echo,
            **wants(f"Bearer {TOKEN}", challenge),
        },
        {("PUT", "upload"): echo, ("POST", ""): (202, {"Location": "/upload?signature=hidden"}, b"")},
    ):
        misbehaving.answers = answers
        with pytest.raises(PushError, match=r"403.*you sent .*\*\*\*") as caught:
            pushed(misbehaving, no_logins)
        shown = str(caught.value).replace(TOKEN, "" if TOKEN not in str(misbehaving.seen) else TOKEN)
        for secret in (password, "pa%20ss", "pa+ss", "hidden", "Basic dXNl", f"Bearer {TOKEN}"):
            assert secret not in shown


def test_a_login_that_cannot_be_had_is_told_only_where_one_is_needed(misbehaving: Server, no_logins: Path) -> None:
    (no_logins / "config.json").write_text('{"credsStore": "not-installed"}')
    misbehaving.answers = STORED
    assert pushed(misbehaving, no_logins) == 3
    misbehaving.answers = {("HEAD", ""): (401, {"WWW-Authenticate": "Basic realm=r"}, b"")}
    with pytest.raises(PushError, match=r"401 .*docker-credential-not-installed, which .* is not on the PATH"):
        pushed(misbehaving, no_logins)


@pytest.mark.parametrize(
    ("repository", "root"),
    [
        ("docker.io/team/engine", "https://registry-1.docker.io/v2/team/engine/"),
        ("docker.io/engine", "https://registry-1.docker.io/v2/library/engine/"),
        ("index.docker.io/team/engine", "https://registry-1.docker.io/v2/team/engine/"),
        ("registry-1.docker.io/team/engine", "https://registry-1.docker.io/v2/team/engine/"),
        ("Registry.Example.test/a/b", "https://registry.example.test/v2/a/b/"),
        ("localhost:5000/a", "http://localhost:5000/v2/a/"),
        ("localhost.example.test/a", "https://localhost.example.test/v2/a/"),
    ],
)
def test_where_a_repository_is(no_logins: Path, repository: str, root: str) -> None:
    assert Repository(repository).root == root


def test_what_does_not_speak_http(no_logins: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-x\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(PushError, match=f"{address} cannot be reached, or does not speak HTTP"):
            push(layout(no_logins / "one", b"base"), f"{address}/engine")
        thread.join()
