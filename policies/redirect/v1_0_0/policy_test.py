"""redirect through the test kit: where clients are sent, and that they cannot choose where."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk import ParameterError, Policy, Request
from policy_engine.sdk.testing import Outcome, load_policy, request, run


def policy(**parameters: Any) -> Policy:
    return load_policy(__file__, parameters)


def asked(url: str, method: str = "GET", **headers: str) -> Request:
    scheme, _, rest = url.partition("://")
    authority, slash, target = rest.partition("/")
    return request(method, slash + target, headers=headers, authority=authority, scheme=scheme)


def location(outcome: Outcome) -> str:
    assert not outcome.reached_upstream
    assert (outcome.body or b"") == b""
    return str(outcome.response.headers["location"])


@pytest.mark.parametrize(
    ("parameters", "url", "to"),
    [
        ({"scheme": "https"}, "http://a.example/b?c=d", "https://a.example/b?c=d"),
        ({"scheme": "https"}, "http://a.example:8080/b", "https://a.example/b"),
        ({"scheme": "https", "port": 8443}, "http://a.example/b", "https://a.example:8443/b"),
        ({"scheme": "https", "port": 443}, "http://A.example.:80/b", "https://a.example/b"),
        ({"scheme": "http"}, "https://a.example:443/b", "http://a.example/b"),
        ({"port": 8443}, "https://a.example/b", "https://a.example:8443/b"),
        ({"host": "B.example"}, "https://a.example:8443/b?c", "https://b.example/b?c"),
        ({"host": "[2001:DB8::0:1]"}, "http://a.example/", "http://[2001:db8::1]/"),
        ({"scheme": "https"}, "http://[2001:db8::1]:80/", "https://[2001:db8::1]/"),
        ({"path": {"prefix": {"from": "/a", "to": "/b"}}}, "http://x:81/a/c?d", "http://x:81/b/c?d"),
        ({"path": {"prefix": {"from": "/a", "to": "/"}}}, "http://x/a", "http://x/"),
        ({"path": {"full": "/moved"}, "query": "drop"}, "http://x/a?b", "http://x/moved"),
        ({"path": {"regex": {"pattern": "^/u/([0-9]+)$", "replacement": r"/users/\1"}}}, "http://x/u/7", "http://x/users/7"),
        ({"host": "b.example", "query": "drop"}, "https://a.example/b?c", "https://b.example/b"),
    ],
)  # fmt: skip
def test_where_clients_are_sent(parameters: dict[str, Any], url: str, to: str) -> None:
    outcome = run(policy(**parameters), asked(url))
    assert (outcome.status, location(outcome)) == (302, to)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_status_can_be_chosen(status: int) -> None:
    assert run(policy(scheme="https", status=status), asked("http://a/", "POST")).status == status


@pytest.mark.parametrize(
    ("parameters", "url"),
    [
        ({"scheme": "https"}, "https://a.example/b"),
        ({"scheme": "https"}, "https://a.example:443/b?c"),
        ({"scheme": "https", "host": "a.example"}, "https://A.example./b"),
        ({"port": 80}, "http://a.example/b"),
        ({"path": {"prefix": {"from": "/a", "to": "/b"}}}, "http://a.example/ab?c"),
        ({"path": {"full": "/x"}, "query": "drop"}, "http://a.example/x"),
    ],
)
def test_what_is_there_already_passes(parameters: dict[str, Any], url: str) -> None:
    assert run(policy(**parameters), asked(url)).reached_upstream


@pytest.mark.parametrize(
    ("scheme", "noted", "passes"),
    [
        ("http", "https", True),  # TLS ended at a proxy before Envoy
        ("https", "http", False),
        ("http", "HTTPS", True),
        ("http", "https,https", True),
        ("http", "https,http", False),
        ("https", "wss", True),
        ("http", "", False),
    ],
)
def test_the_scheme_is_the_one_that_was_noted_in_front(scheme: str, noted: str, passes: bool) -> None:
    url = f"{scheme}://a.example/b"
    outcome = run(policy(scheme="https"), asked(url, **{"x-forwarded-proto": noted}))
    assert outcome.reached_upstream is passes


@pytest.mark.parametrize(
    "authority", ["", "a@evil.example", "a/b", "a\\b", "a b", "evil.example#", "a?b", "a:b", "a:123456", "a,b", "[::1", "-a-"]
)  # fmt: skip
def test_what_is_no_host_is_refused(authority: str) -> None:
    outcome = run(policy(scheme="https"), request("GET", "/x", authority=authority, scheme="http"))
    assert (outcome.status, outcome.reached_upstream) == (400, False)
    assert "location" not in outcome.response.headers


@pytest.mark.parametrize("target", ["*", "", "http://evil.example/", "a", "@evil.example"])
def test_a_target_that_is_no_path_is_refused(target: str) -> None:
    assert run(policy(scheme="https"), request("OPTIONS", target, scheme="http")).status == 400


@pytest.mark.parametrize(
    "target", ["//evil.example/x", "/\\evil.example", "/%0d%0aset-cookie:a=b", "/a?u=//evil.example"]
)
def test_a_path_does_not_lead_elsewhere(target: str) -> None:
    to = location(run(policy(scheme="https"), request("GET", target, authority="a.example", scheme="http")))
    assert urlsplit(to).netloc == "a.example"
    assert "\\" not in to
    outcome = run(policy(path={"regex": {"pattern": "^/", "replacement": ""}}), request("GET", "/@evil.example"))
    assert outcome.status == 400


@given(st.text(max_size=40), st.text(max_size=20))
def test_no_client_chooses_the_host_or_breaks_the_line(path: str, authority: str) -> None:
    by_host = policy(host="b.example", scheme="https", path={"prefix": {"from": "/a", "to": "/"}})
    for one in (f"/{path}", f"/a{path}", f"/a/{path}"):
        outcome = run(by_host, request("GET", one, authority="a.example", scheme="http"))
        if outcome.status == 302:
            to = location(outcome)
            assert to.isascii()
            assert to.isprintable()
            assert to.startswith("https://b.example/")
    outcome = run(policy(scheme="https"), request("GET", "/", authority=authority, scheme="http"))
    assert outcome.status == 400 or urlsplit(location(outcome)).username is None


def test_characters_that_no_url_has_are_encoded() -> None:
    asked_for = request("GET", '/ä"<>|?q="\\', authority="a.example", scheme="http")
    assert location(run(policy(scheme="https"), asked_for)) == "https://a.example/%C3%A4%22%3C%3E%7C?q=%22%5C"


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"host": "a.example:80"}, "/host"),
        ({"host": "a@b"}, "/host"),
        ({"host": "https://a.example"}, "/host"),
        ({"path": {"regex": {"pattern": "(", "replacement": "/"}}}, "/path/regex/pattern"),
        ({"path": {"regex": {"pattern": "a", "replacement": r"/\1"}}}, "/path/regex/replacement"),
        ({"path": {"prefix": {"from": "/a", "to": "/a/b"}}}, "/path/prefix/to"),
        ({"path": {"prefix": {"from": "/", "to": "/b"}}}, "/path/prefix/to"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], path: str) -> None:
    with pytest.raises(ParameterError) as caught:
        policy(**parameters)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"query": "drop"},
        {"scheme": "ftp"},
        {"scheme": "https", "status": 300},
        {"port": 0},
        {"path": {"full": "//?x"}},
        {"path": {"full": "x"}},
        {"path": {"regex": {"pattern": "a", "replacement": "/?x"}}},
    ],
)
def test_parameters_that_the_schema_rules_out(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        policy(**parameters)


@pytest.mark.parametrize(
    "more", [{"host": "b.test"}, {"scheme": "https"}, {"host": "b.test", "scheme": "https", "port": 8443}]
)
def test_a_prefix_that_leads_below_itself_elsewhere_has_an_end(more: dict[str, Any]) -> None:
    subject = load_policy(__file__, {"path": {"prefix": {"from": "/", "to": "/shop"}}, **more})
    url, steps = "http://a.test/x?y", 0
    while True:
        scheme, _, rest = url.partition("://")
        authority, _, path = rest.partition("/")
        headers = {":authority": authority, ":scheme": scheme, "x-forwarded-proto": scheme}
        outcome = run(subject, request("GET", f"/{path}", headers=headers))
        if outcome.reached_upstream:
            break
        url, steps = outcome.response.headers["location"], steps + 1
        assert steps < 5
    assert f"/{path}" == "/shop/x?y"
    assert steps == 1
