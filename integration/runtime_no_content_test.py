"""Responses without content leave the client's connection whole: 204, 205, 304 and HEAD through Envoy, HTTP/1 and 2."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from integration.harness.client import Connection
from integration.harness.client_h2 import send_h2
from integration.harness.exchange import Answer, Received
from integration.runtime_stack import Runtime, scripted, started

STATUSES = (204, 205, 304)
CHAINS = {
    **{f"headers-{status}": [scripted(response_headers={"status": status})] for status in STATUSES},
    **{f"body-{status}": [scripted(response_body={"status": status})] for status in STATUSES},
    **{
        f"both-{status}": [scripted(response_headers={"status": status}), scripted(response_body={"upper": True})]
        for status in STATUSES
    },
    **{f"empty-{status}": [scripted(request_headers={"respond": {"status": status}})] for status in STATUSES},
    **{
        f"invalid-{status}": [scripted(request_headers={"respond": {"status": status, "body": "x"}})]
        for status in STATUSES
    },
    **{
        f"invalid-open-{status}": [scripted("open", response_headers={"status": status, "body": "x"})]
        for status in STATUSES
    },
    **{
        f"inner-body-{status}": [
            scripted(response_headers={"status": status}),
            scripted(response_headers={"body": "new"}),
        ]
        for status in STATUSES
    },
    "head-body": [scripted(response_headers={"body": "new"})],
    "respond": [scripted(request_headers={"respond": {"status": 403, "body": "no"}})],
    "plain": [],
}
STREAMED = {"response_header_mode": "SEND", "response_body_mode": "STREAMED", "response_trailer_mode": "SEND"}
DUPLEX = {**STREAMED, "response_body_mode": "FULL_DUPLEX_STREAMED"}


def _answer(request: Received) -> Answer:
    body = b"the upstream's content"
    if request.method == "HEAD":
        return Answer(headers=[("content-length", str(len(body)))])
    if "trailers" in request.target:
        return Answer(chunks=[body], trailers=[("x-sum", "1")])
    if "chunked" in request.target:
        return Answer(chunks=[body[:5], body[5:]], chunk_delay_s=0.02)
    return Answer.of(body)


@pytest.fixture(scope="module")
def running(transport: str) -> Iterator[Runtime]:
    with started(CHAINS, transport=transport) as runtime:
        yield runtime


@pytest.fixture
def runtime(running: Runtime) -> Runtime:
    running.upstream.reset()
    running.upstream.answer_with(_answer)
    return running


def raw_pair(runtime: Runtime, target: str, method: str = "GET") -> tuple[bytes, bytes]:
    """The bytes of a response and of the one after it on the same connection."""
    with socket.create_connection(("127.0.0.1", runtime.envoy.port), 10) as sock:
        sock.sendall(f"{method} {target} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        sock.settimeout(0.3)
        first = bytearray()
        try:
            while piece := sock.recv(65536):
                first += piece
        except TimeoutError:
            pass
        sock.settimeout(10)
        sock.sendall(b"GET /plain/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        second = bytearray()
        while piece := sock.recv(65536):
            second += piece
    return bytes(first), bytes(second)


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("how", ["headers", "body", "both", "empty", "inner-body"])
@pytest.mark.parametrize("shape", ["", "chunked", "trailers"])
def test_what_has_no_content_is_followed_by_the_next_response(
    runtime: Runtime, how: str, status: int, shape: str
) -> None:
    first, second = raw_pair(runtime, f"/{how}-{status}/{shape}")
    head, _, rest = first.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    # A 205 is framed, as nothing (RFC 9112, 6.3); a client reads nothing after the headers of the others.
    if status == 205:
        assert rest in (b"", b"0\r\n\r\n", b"0\r\nx-sum: 1\r\n\r\n")
    else:
        assert rest == b""
        assert b"content-length" not in head.lower()
        assert b"transfer-encoding" not in head.lower()
    assert second.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("how", ["headers", "body", "both", "empty", "inner-body"])
def test_the_same_over_http2(runtime: Runtime, how: str, status: int) -> None:
    reply = send_h2(runtime.envoy.port, "GET", f"/{how}-{status}/chunked")
    assert (reply.status, reply.body, reply.values("content-length")) in (
        (status, b"", []),
        (status, b"", ["0"]) if status == 205 else (status, b"", []),
    )


@pytest.mark.parametrize("status", STATUSES)
def test_a_body_that_a_policy_sets_itself_is_its_failure(runtime: Runtime, status: int) -> None:
    failures = runtime.value("policy_engine_policy_failures_total", kind="invalid_action")
    assert runtime.send(f"/invalid-{status}/").status == 500
    assert runtime.send(f"/invalid-open-{status}/").body == b"the upstream's content"
    assert runtime.value("policy_engine_policy_failures_total", kind="invalid_action") == failures + 2


@pytest.mark.parametrize(
    "target", ["/head-body/", "/respond/", "/plain/", "/headers-204/", "/body-304/", "/empty-205/"]
)
def test_a_head_request_gets_no_content(runtime: Runtime, target: str) -> None:
    first, second = raw_pair(runtime, target, "HEAD")
    assert first.partition(b"\r\n\r\n")[2] == b""
    assert second.startswith(b"HTTP/1.1 200 ")
    assert send_h2(runtime.envoy.port, "HEAD", target).body == b""


@pytest.mark.parametrize("mode", [STREAMED, DUPLEX], ids=["streamed", "duplex"])
def test_a_streamed_response_ends_with_its_headers_too(transport: str, mode: dict[str, str]) -> None:
    chains = {f"headers-{status}": CHAINS[f"headers-{status}"] for status in STATUSES} | {"plain": []}
    overrides = {name: {"processing_mode": mode} for name in chains}
    with started(chains, transport=transport, overrides=overrides) as runtime:
        runtime.upstream.answer_with(_answer)
        for status in STATUSES:
            for shape in ("", "chunked"):
                first, second = raw_pair(runtime, f"/headers-{status}/{shape}")
                head, _, rest = first.partition(b"\r\n\r\n")
                assert head.startswith(f"HTTP/1.1 {status} ".encode())
                assert rest in (b"", b"0\r\n\r\n")
                assert second.startswith(b"HTTP/1.1 200 ")


def test_an_ordinary_client_goes_on_after_each(runtime: Runtime) -> None:
    with Connection(runtime.envoy.port) as connection:
        for status in STATUSES:
            for how in ("headers", "body", "empty"):
                assert connection.send(target=f"/{how}-{status}/").status == status
                assert connection.send(target="/plain/").body == b"the upstream's content"
