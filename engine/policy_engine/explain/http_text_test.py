from __future__ import annotations

from pathlib import Path

import pytest

from policy_engine.explain.http_text import BadText, HttpRequest, from_flags, read_request, read_response

FULL = b"""# a comment
// another

POST https://api.example.com:8443/orders?x=1 HTTP/1.1
Content-Type: application/json
X-Many: a
X-Many: b

{"id": 1}

two
"""


def test_an_http_file() -> None:
    request = read_request(FULL, "f.http")
    assert (request.method, request.target, request.authority, request.scheme) == (
        "POST",
        "/orders?x=1",
        "api.example.com:8443",
        "https",
    )
    assert request.headers == (("content-type", "application/json"), ("x-many", "a"), ("x-many", "b"))
    assert request.body == b'{"id": 1}\n\ntwo'


@pytest.mark.parametrize(
    ("text", "method", "target", "authority"),
    [
        (b"GET /a", "GET", "/a", "localhost"),
        (b"/a?b=c", "GET", "/a?b=c", "localhost"),
        (b"GET /a HTTP/2\nHost: h.example\n", "GET", "/a", "h.example"),
        (b"GET /a\r\nHost: h.example\r\nX-A: 1\r\n\r\n", "GET", "/a", "h.example"),
        (b"https://h.example", "GET", "/", "h.example"),
        (b"\n\n###\nOPTIONS *\n", "OPTIONS", "*", "localhost"),
        (b"### first\nGET /one\n\n###\n", "GET", "/one", "localhost"),
        (b"VERSION-CONTROL /a", "VERSION-CONTROL", "/a", "localhost"),
    ],
)
def test_forms_of_a_request(text: bytes, method: str, target: str, authority: str) -> None:
    request = read_request(text, "f")
    assert (request.method, request.target, request.authority) == (method, target, authority)


def test_a_body_of_crlf_lines_stays_as_it_is() -> None:
    assert read_request(b"POST /a\nA: b\n\nx\r\ny\r\n", "f").body == b"x\r\ny\r"


def test_a_body_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_bytes(b"\x00\xff")
    assert read_request(b"POST /a\n\n< ./b.json\n", "f", tmp_path).body == b"\x00\xff"
    with pytest.raises(BadText, match=r"no\.json: cannot be read"):
        read_request(b"POST /a\n\n< no.json", "f", tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "0 requests"),
        (b"# nothing", "0 requests"),
        (b"GET /a\n\n###\nGET /b\n", "2 requests"),
        (b"get /a b c", "the first line"),
        (b"GET", "the first line"),
        (b"GET ftp://x/", "http or https"),
        (b"GET /a\nno header", "no header"),
        (b"GET /a\nbad name: x", "no header"),
        (b"GET /a\n: x", "no header"),
    ],
)
def test_what_is_no_request_is_named(text: bytes, said: str) -> None:
    with pytest.raises(BadText, match=said) as caught:
        read_request(text, "f.http")
    assert "f.http" in str(caught.value) or "http or https" in said


@pytest.mark.parametrize(
    ("text", "status", "body"),
    [
        (b"HTTP/1.1 404 Not Found\nA: b\n\nno", 404, b"no"),
        (b"HTTP/2 200\r\nA: b\r\n\r\n", 200, None),
        (b"503", 503, None),
    ],
)
def test_a_response(text: bytes, status: int, body: bytes | None) -> None:
    response = read_response(text, "r")
    assert (response.status, response.body) == (status, body)


@pytest.mark.parametrize("text", [b"", b"HTTP/1.1", b"HTTP/1.1 20 x", b"<html>", b"HTTP/1.1 200 OK\nno header"])
def test_what_is_no_response_is_named(text: bytes) -> None:
    with pytest.raises(BadText, match=r"r\.txt"):
        read_response(text, "r.txt")


def flags(
    url: str | None = None, method: str | None = None, *headers: str, data: list[str] | None = None
) -> HttpRequest:
    return from_flags(HttpRequest(), url, method, headers, data or [], None)


def test_flags_of_curl(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"c=3")
    request = flags("http://h.example/a?b=c#d", None, "X-A: 1", "Host: other.example", data=["a=1", "b=2", f"@{file}"])
    assert (request.method, request.target, request.authority, request.scheme) == (
        "POST",
        "/a?b=c",
        "other.example",
        "http",
    )
    assert request.body == b"a=1&b=2&c=3"
    assert dict(request.headers) == {"x-a": "1", "content-type": "application/x-www-form-urlencoded"}
    assert flags("/a", "PUT", "content-type: text/plain", data=["x"]).headers == (("content-type", "text/plain"),)
    assert flags("/a", None, "x-empty;").headers == (("x-empty", ""),)


def test_credentials_of_flags_and_urls() -> None:
    basic = (("authorization", "Basic dXNlcjpwYXNz"),)
    assert from_flags(HttpRequest(), "/a", None, [], [], "user:pass").headers == basic
    request = flags("https://user:pass@h.example/a")
    assert (request.headers, request.authority) == (basic, "h.example")


def test_a_header_of_flags_replaces_that_of_the_file() -> None:
    start = read_request(b"GET /a\nX-A: 1\nX-B: 2\n", "f")
    assert from_flags(start, None, None, ["x-a: 3"], [], None).headers == (("x-b", "2"), ("x-a", "3"))
