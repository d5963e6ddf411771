"""FULL_DUPLEX_STREAMED set for a whole filter or for a route, whatever its chain needs: Envoy takes no override then.

It is the only place for it where a control plane has no modes of routes (Envoy Gateway), and what is left in a route's
configuration when its chain changes.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import pytest

from integration.harness.chain_file import Document, policy
from integration.harness.exchange import Answer
from integration.runtime_stack import (
    ENGINE_BODY_LIMIT,
    ENVOY_BUFFER_LIMIT,
    Chains,
    Runtime,
    eventually,
    scripted,
    started,
)


def _streaming(side: str) -> Document:
    return policy("streaming", "v1.0.0", {"side": side}, timeout="20s")


BUFFERS = scripted(
    request_body={"upper": True, "set": {"x-read": "request"}},
    response_body={"upper": True, "set": {"x-read": "response"}},
)
DISABLED = {**scripted(request_headers={"respond": {"status": 418}}), "enabled": False}
CHAINS: Chains = {
    "empty": [],
    "disabled": [DISABLED],
    "headers": [scripted(request_headers={"set": {"x-a": "1"}}, response_headers={"set": {"x-a": "1"}})],
    "buffers": [BUFFERS],
    "buffers-open": [{**BUFFERS, "failure_mode": "open"}],
    "reads": [scripted(request_body={}, response_body={})],
    "streams": [_streaming("request"), _streaming("response")],
    "mixed": [_streaming("request"), _streaming("response"), scripted(request_body={}, response_body={})],
    "replaces": [scripted(request_headers={"body": "new"}, response_headers={"body": "new"})],
    "empties": [scripted(response_headers={"status": 204})],
    "empties-late": [scripted(response_body={"status": 204})],
    "refuses": [scripted(request_body={"respond": {"status": 403, "body": "no"}})],
    "refuses-late": [scripted(response_body={"respond": {"status": 403, "body": "no"}})],
}
DUPLEX = {"request": ["request"], "response": ["response"], "both": ["request", "response"]}
UPPER = {
    "request": {"buffers", "buffers-open", "streams", "mixed"},
    "response": {"buffers", "buffers-open", "streams", "mixed"},
}


def modes(sides: list[str], other: str) -> dict[str, str]:
    """Return a `ProcessingMode` with `sides` in full duplex and the `other` mode for the bodies of the rest."""
    mode = {"request_header_mode": "SEND", "response_header_mode": "SEND"}
    for side in ("request", "response"):
        mode[f"{side}_body_mode"] = "FULL_DUPLEX_STREAMED" if side in sides else other
        mode[f"{side}_trailer_mode"] = "SEND"
    return mode


@pytest.fixture(scope="module", params=["filter", "route"])
def level(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module", params=DUPLEX)
def duplex(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def running(transport: str, level: str, duplex: str) -> Iterator[Runtime]:
    mode = modes(DUPLEX[duplex], "BUFFERED")
    where: dict[str, Any] = {"processing_mode": mode} if level == "filter" else {}
    overrides = {} if level == "filter" else {name: {"processing_mode": mode} for name in CHAINS}
    with started(CHAINS, transport=transport, overrides=overrides, **where) as runtime:
        yield runtime


@pytest.fixture
def runtime(running: Runtime) -> Iterator[Runtime]:
    running.upstream.reset()
    running.upstream.answer_with(Answer(chunks=[b"res", b"ponse"]))
    yield running
    eventually(running.settled, "without streams")
    assert running.value("policy_engine_protocol_errors_total") == 0


ORDINARY = ["empty", "disabled", "headers", "buffers", "buffers-open", "reads", "streams", "mixed"]


@pytest.mark.parametrize("trailers", [[], [("x-end", "1")]], ids=["end", "trailers"])
@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("name", ORDINARY)
def test_every_chain_works(runtime: Runtime, name: str, sized: bool, trailers: list[tuple[str, str]]) -> None:
    body: Any = b"request" if sized else iter([b"req", b"uest"])
    runtime.upstream.answer_with(Answer(chunks=[b"res", b"ponse"], trailers=trailers))
    reply = runtime.send(f"/{name}/", method="POST", body=body, trailers=[] if sized else trailers)
    assert reply.status == 200, (reply.body, runtime.engine.log())
    read = runtime.upstream.last()
    assert bytes(read.body) == (b"REQUEST" if name in UPPER["request"] else b"request")
    assert reply.body == (b"RESPONSE" if name in UPPER["response"] else b"response")
    assert [one for one in reply.trailers if one[0].lower() == "x-end"] == trailers
    assert read.trailers == ([] if sized else trailers)
    if name == "headers":
        assert (read.header("x-a"), reply.header("x-a")) == ("1", "1")
    if name.startswith("buffers"):
        assert (read.header("x-read"), reply.header("x-read")) == ("request", "response")


@pytest.mark.parametrize("name", ORDINARY)
def test_messages_without_a_body_pass(runtime: Runtime, name: str) -> None:
    runtime.upstream.answer_with(Answer(status=204))
    assert runtime.send(f"/{name}/").status == 204
    runtime.upstream.answer_with(Answer())
    assert runtime.send(f"/{name}/", method="HEAD").status == 200


@pytest.mark.parametrize("name", ["empty", "headers", "reads"])
def test_long_bodies_pass_whole(runtime: Runtime, name: str) -> None:
    body = bytes(range(256)) * (ENGINE_BODY_LIMIT // 256)
    runtime.upstream.answer_with(Answer(chunks=[body[:100_000], body[100_000:]]))
    reply = runtime.send(f"/{name}/", method="POST", body=iter([body[:7], body[7:]]))
    assert (reply.status, reply.body == body) == (200, True)
    assert bytes(runtime.upstream.last().body) == body


@pytest.mark.parametrize("chunked", [True, False])
def test_bodies_over_the_limit_are_refused(runtime: Runtime, duplex: str, chunked: bool) -> None:
    long = b"a" * (ENGINE_BODY_LIMIT + 1)
    reply = runtime.send("/reads/", method="POST", body=iter([long[:9], long[9:]]) if chunked else long)
    assert reply.status == 413
    runtime.upstream.answer_with(Answer(chunks=[long]) if chunked else Answer.of(long))
    assert runtime.send("/reads/").status == 502
    assert runtime.send("/empty/", method="POST", body=long).status == 200
    if duplex != "response":
        # What no policy reads is not held: neither in Envoy nor here.
        assert runtime.send("/empty/", method="POST", body=b"a" * (2 * ENVOY_BUFFER_LIMIT)).status == 200


def test_coded_bodies_are_read(runtime: Runtime) -> None:
    coded = gzip.compress(b"coded")
    runtime.upstream.answer_with(Answer(headers=[("content-encoding", "gzip")], chunks=[coded[:5], coded[5:]]))
    reply = runtime.send("/buffers/", method="POST", headers=[("content-encoding", "gzip")], body=coded)
    assert (gzip.decompress(reply.body), gzip.decompress(bytes(runtime.upstream.last().body))) == (b"CODED", b"CODED")
    assert runtime.send("/reads/", method="POST", headers=[("content-encoding", "gzip")], body=b"no").status == 415
    reply = runtime.send("/buffers-open/", method="POST", headers=[("content-encoding", "gzip")], body=b"no")
    assert (reply.status, bytes(runtime.upstream.last().body)) == (200, b"no")


def test_a_policy_of_headers_replaces_the_body(runtime: Runtime) -> None:
    for body in (iter([b"re", b"quest"]), b"request", iter([b"a" * 10_000] * 20)):
        reply = runtime.send("/replaces/", method="POST", body=body)
        assert (reply.body, bytes(runtime.upstream.last().body)) == (b"new", b"new")
    runtime.upstream.answer_with(Answer())
    reply = runtime.send("/replaces/")
    assert (reply.body, bytes(runtime.upstream.last().body)) == (b"new", b"new")


@pytest.mark.parametrize("name", ["empty", "headers", "reads", "streams", "replaces"])
def test_messages_of_headers_and_trailers_alone_pass(runtime: Runtime, name: str) -> None:
    end = [("x-end", "1")]
    runtime.upstream.answer_with(Answer(trailers=end))
    reply = runtime.send(f"/{name}/", method="POST", body=iter(()), trailers=end)
    read = runtime.upstream.last()
    assert (reply.status, reply.trailers, read.trailers) == (200, end, end)
    assert (reply.body, bytes(read.body)) == ((b"new", b"new") if name == "replaces" else (b"", b""))


def test_policies_of_bodies_read_messages_without_one(runtime: Runtime, duplex: str) -> None:
    """Where headers wait for the body they can still be changed; in BUFFERED they cannot, which fails."""
    end = [("x-end", "1")]
    runtime.upstream.answer_with(Answer(trailers=end))
    reply = runtime.send("/buffers/", method="POST", body=iter(()), trailers=end)
    assert reply.status == (200 if duplex == "both" else 500)
    if duplex == "both":
        assert (runtime.upstream.last().header("x-read"), reply.header("x-read")) == ("request", "response")


@pytest.mark.parametrize("name", ["empties", "empties-late"])
def test_a_response_may_become_one_without_content(runtime: Runtime, name: str) -> None:
    reply = runtime.send(f"/{name}/")
    assert (reply.status, reply.body, reply.header("content-length")) == (204, b"", None)


def test_policies_of_bodies_refuse_before_anything_went_out(runtime: Runtime) -> None:
    reply = runtime.send("/refuses/", method="POST", body=iter([b"a", b"b"]))
    assert (reply.status, reply.body) == (403, b"no")
    assert not runtime.upstream.received
    reply = runtime.send("/refuses-late/")
    assert (reply.status, reply.body) == (403, b"no")


def test_a_route_without_a_chain_is_refused_or_passed(runtime: Runtime) -> None:
    runtime.swap({name: chain for name, chain in CHAINS.items() if name != "empty"})
    try:
        assert runtime.send("/empty/", method="POST", body=b"request").status == 500
    finally:
        runtime.swap(CHAINS)


@pytest.mark.parametrize("side", ["request", "response"])
def test_a_body_that_cannot_be_had_any_more_is_named_and_denied(side: str, transport: str) -> None:
    """The other side is in full duplex, so that no override can ask for it."""
    mode = modes([side], "NONE")
    with started(CHAINS, transport=transport, processing_mode=mode) as runtime:
        runtime.upstream.answer_with(Answer(chunks=[b"res", b"ponse"]))
        assert runtime.send("/buffers/", method="POST", body=b"request").status == 500
        assert runtime.send("/buffers-open/", method="POST", body=b"request").status == 200
        assert runtime.send("/headers/", method="POST", body=b"request").body == b"response"
        other = "response" if side == "request" else "request"
        eventually(lambda: f"needs the {other} body for scripted v1.0.0" in runtime.engine.log(), "named")


def test_unmapped_routes_pass_when_they_may(transport: str) -> None:
    mode = modes(["request", "response"], "NONE")
    settings = {"UNMAPPED_ROUTES": "pass"}
    with started(CHAINS, transport=transport, settings=settings, processing_mode=mode) as runtime:
        runtime.swap({"headers": CHAINS["headers"]})
        runtime.upstream.answer_with(Answer(chunks=[b"res", b"ponse"]))
        assert runtime.send("/empty/", method="POST", body=b"request").body == b"response"
        assert bytes(runtime.upstream.last().body) == b"request"
