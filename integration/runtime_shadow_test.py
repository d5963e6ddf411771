"""Policies in shadow through Envoy: one that denies everything, in every phase, changes nothing that anybody gets."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from integration.harness.chain_file import Document, policy
from integration.harness.client import Reply
from integration.harness.client_h2 import send_h2
from integration.harness.exchange import Answer, HeaderList
from integration.runtime_stack import ENVOY_BUFFER_LIMIT, Runtime, eventually, scripted, started

DENY = {"respond": {"status": 403, "body": "denied"}}
EVERYWHERE = scripted(
    request_headers={**DENY, "metadata": {"policy.test": {"a": "1"}}},
    request_body=DENY,
    request_trailers={"set": {"x-meddled": "1"}, "remove": ["x-sent"]},
    response_headers=DENY,
    response_body=DENY,
    response_trailers={"set": {"x-meddled": "1"}, "remove": ["x-sum"]},
)
CHANGES = scripted(
    request_headers={"set": {"x-meddled": "1"}, "path": "/else", "method": "PUT", "share": {"seen": "shadow"}},
    request_body={"body": "meddled"},
    response_headers={"set": {"x-meddled": "1"}, "status": 500},
    response_body={"body": "meddled", "remove": ["x-up"]},
)
BODIES = scripted(request_body=DENY, response_body=DENY)
FAILS = [
    policy("misbehaving", "v1.0.0", {"how": "exception", "on": on})
    for on in ("request", "request_body", "request_trailers", "response", "response_body", "response_trailers")
]
STREAMS = [
    policy("streaming", "v1.0.0", {"side": "request", "deny": "e", "hold": True}, timeout="20s"),
    policy("streaming", "v1.0.0", {"side": "response", "end_at": "w", "hold": True}, timeout="20s"),
]
AFTER = scripted(request_headers={"shared": {"x-shared": "seen"}})


def shadow(entry: Document) -> Document:
    return {**entry, "mode": "shadow"}


SHADOWS: dict[str, list[Document]] = {
    "denies": [shadow(EVERYWHERE)],
    "changes": [shadow(CHANGES)],
    "bodies": [shadow(BODIES)],
    "fails": [shadow(one) for one in FAILS],
    "several": [shadow(EVERYWHERE), shadow(CHANGES), shadow(BODIES)],
    "configured": [shadow(EVERYWHERE)],
    "duplex": [shadow(EVERYWHERE)],
    "streams": [shadow(STREAMS[0]), shadow(STREAMS[1])],
    "streams-duplex": [shadow(STREAMS[0]), shadow(STREAMS[1])],
}
CHAINS: dict[str, list[Document]] = {
    "plain": [],
    **SHADOWS,
    "buffers": [scripted(request_body={}, response_body={})],
    "buffers-beside": [shadow(EVERYWHERE), scripted(request_body={}, response_body={})],
    "after": [AFTER],
    "after-shadow": [shadow(CHANGES), AFTER],
}


def modes(body: str) -> dict[str, Any]:
    sends = dict.fromkeys(
        ("request_header_mode", "response_header_mode", "request_trailer_mode", "response_trailer_mode"), "SEND"
    )
    return {"processing_mode": {**sends, "request_body_mode": body, "response_body_mode": body}}


OVERRIDES = {
    "configured": modes("NONE"),
    "duplex": modes("FULL_DUPLEX_STREAMED"),
    "streams-duplex": modes("FULL_DUPLEX_STREAMED"),
}
LARGE = b"0123456789abcdef" * (3 * ENVOY_BUFFER_LIMIT // 16)
OWN = ("date", "x-request-id", "x-envoy-upstream-service-time", "x-envoy-expected-rq-timeout-ms", "x-route")


@dataclass(frozen=True, slots=True)
class Case:
    """A request and what the upstream answers."""

    answer: Answer
    method: str = "GET"
    headers: HeaderList = ()
    body: bytes | tuple[bytes, ...] = b""
    trailers: HeaderList = ()


COMPRESSED = [("content-encoding", "gzip")]
CASES = {
    "nothing": Case(Answer()),
    "small": Case(Answer.of(b"answer"), "POST", body=b"request"),
    "in pieces": Case(Answer(chunks=[b"an", b"swer"], chunk_delay_s=0.02), "POST", body=(b"re", b"quest")),
    "trailers": Case(
        Answer(chunks=[b"answer"], trailers=[("x-sum", "1")]), "POST", body=(b"request",), trailers=[("x-sent", "1")]
    ),
    "trailers alone": Case(Answer(trailers=[("x-sum", "1")]), "POST", trailers=[("x-sent", "1")]),
    "over the engine's limit": Case(Answer.of(LARGE[:300_000]), "POST", body=LARGE[:300_000]),
    "over Envoy's buffer": Case(Answer.of(LARGE), "POST", body=LARGE),
    "over Envoy's buffer in pieces": Case(Answer(chunks=[LARGE]), "POST", body=(LARGE[:100_000], LARGE[100_000:])),
    "compressed": Case(
        Answer.of(gzip.compress(b"answer", mtime=0), headers=COMPRESSED),
        "POST",
        COMPRESSED,
        gzip.compress(b"request", mtime=0),
    ),
    "not what it says": Case(Answer.of(b"answer", headers=COMPRESSED), "POST", COMPRESSED, b"request"),
    "a bomb": Case(
        Answer.of(gzip.compress(bytes(10_000_000), mtime=0), headers=COMPRESSED),
        "POST",
        COMPRESSED,
        gzip.compress(bytes(10_000_000), mtime=0),
    ),
    "head": Case(Answer(headers=[("content-length", "6")]), "HEAD"),
    "no content": Case(Answer(status=204)),
    "refused upstream": Case(Answer.of(b"sorry", status=503)),
}


@pytest.fixture(scope="module")
def runtime(transport: str) -> Iterator[Runtime]:
    with started(CHAINS, transport=transport, overrides=OVERRIDES) as runtime:
        yield runtime


def plain(headers: Iterable[tuple[str, str]], name: str) -> list[tuple[str, str]]:
    """Headers without what differs from one request to the next, and without the route's name."""
    kept = [(key.lower(), value.replace(f"/{name}/", "/")) for key, value in headers if key.lower() not in OWN]
    return sorted(kept)


def sent(runtime: Runtime, name: str, case: Case, *, http2: bool) -> tuple[Any, ...]:
    """What the client and the upstream got."""
    runtime.upstream.answer_with(case.answer)
    runtime.upstream.received.clear()
    target = f"/{name}/"
    reply: Reply
    if http2:
        sent_pieces = list(case.body) if isinstance(case.body, tuple) else [case.body] if case.body else []
        reply = send_h2(
            runtime.envoy.port, case.method, target, headers=case.headers, body=sent_pieces, trailers=case.trailers
        )
    else:
        pieces = iter(case.body if isinstance(case.body, tuple) else ())
        body = case.body if isinstance(case.body, bytes) and not case.trailers else pieces
        reply = runtime.send(target, method=case.method, headers=case.headers, body=body, trailers=case.trailers)
    (received,) = runtime.upstream.received
    return (
        reply.status,
        plain(reply.headers, name),
        reply.body,
        plain(reply.trailers, name),
        received.method,
        received.target.replace(f"/{name}/", "/"),
        plain(received.headers, name),
        bytes(received.body),
        plain(received.trailers, name),
    )


def framing_apart(found: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same without `content-length` and `transfer-encoding`, which Envoy itself changes for a streamed body."""

    def kept(part: Any) -> Any:
        if isinstance(part, list):
            return [one for one in part if one[0] not in ("content-length", "transfer-encoding")]
        return part

    return tuple(map(kept, found))


@pytest.mark.parametrize(
    ("case", "http2"), [(case, http2) for case in CASES for http2 in (False, True) if not (http2 and "over" in case)]
)
@pytest.mark.parametrize("name", SHADOWS)
def test_nothing_changes(runtime: Runtime, name: str, case: str, *, http2: bool) -> None:
    expected = sent(runtime, "plain", CASES[case], http2=http2)
    found = sent(runtime, name, CASES[case], http2=http2)
    if name.endswith("duplex"):
        expected, found = framing_apart(expected), framing_apart(found)
    assert found == expected
    runtime.settled()


def test_what_it_wanted_is_counted_and_logged(runtime: Runtime) -> None:
    labels = {"route": "denies", "policy": "scripted", "wanted": "answer"}
    before = runtime.value("policy_engine_policy_shadow_total", **labels)
    sent(runtime, "denies", CASES["small"], http2=False)
    assert runtime.value("policy_engine_policy_shadow_total", **labels) == before + 4
    assert runtime.value("policy_engine_policy_short_circuits_total", route="denies") == 0
    assert "scripted v1.0.0, in shadow, would have answered with 403" in runtime.engine.log()
    assert "would have changed" in runtime.engine.log()


def test_beside_a_policy_that_needs_the_body_it_sees_it_and_changes_nothing(runtime: Runtime) -> None:
    for case in ("small", "in pieces", "trailers", "compressed"):
        expected = sent(runtime, "buffers", CASES[case], http2=False)
        assert sent(runtime, "buffers-beside", CASES[case], http2=False) == expected
    assert sent(runtime, "after-shadow", CASES["small"], http2=False) == sent(
        runtime, "after", CASES["small"], http2=False
    )


def test_enforcing_it_is_one_word(runtime: Runtime) -> None:
    assert runtime.send("/denies/").status == 200
    runtime.swap({**CHAINS, "denies": [EVERYWHERE]})
    eventually(lambda: runtime.send("/denies/").status == 403, "enforced")
    runtime.swap(CHAINS)


def test_a_response_that_a_stream_in_shadow_reads_arrives_piece_by_piece(runtime: Runtime) -> None:
    counted = runtime.phases_of(lambda: sent(runtime, "duplex", CASES["in pieces"], http2=True))
    assert counted["response_body"] >= 2
