"""Bodies that stream through the engine chunk by chunk in both modes that Envoy's configuration can set (R-08)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from typing import overload

import pytest

from integration.harness.chain_file import Document, policy
from integration.harness.client import ClientError
from integration.harness.exchange import Answer
from integration.runtime_stack import Runtime, scripted, started

_WAIT_S = 10.0


def streaming(side: str, **parameters: str | bool) -> Document:
    return policy("streaming", "v1.0.0", {"side": side, **parameters}, timeout="20s")


KINDS = {"streamed": "STREAMED", "duplex": "FULL_DUPLEX_STREAMED"}
CHAINS = {
    **{
        f"{name}-{kind}": policies
        for kind in KINDS
        for name, policies in {
            "events": [streaming("response")],
            "holds": [streaming("response", hold=True)],
            "request-holds": [streaming("request", hold=True)],
            "ends": [streaming("response", end_at="STOP")],
            "request": [streaming("request")],
            "request-ends": [streaming("request", end_at="STOP")],
            "denies": [streaming("request", deny="EVIL")],
        }.items()
    },
    "events-unstreamed": [streaming("response", end_at="STOP")],
    "buffers-streamed": [streaming("response"), scripted(response_body={"set": {"x-whole": "1"}})],
}


def overrides() -> dict[str, object]:
    """Return the processing modes of the routes that stream; full duplex needs trailers, says Envoy."""
    found: dict[str, object] = {}
    for name in CHAINS:
        kind = KINDS.get(name.rpartition("-")[2])
        side = "request" if name.startswith(("request", "denies")) else "response"
        if kind is not None:
            mode = {"request_header_mode": "SEND", "response_header_mode": "SEND", f"{side}_body_mode": kind}
            trailers = {f"{side}_trailer_mode": "SEND"} if kind == "FULL_DUPLEX_STREAMED" else {}
            found[name] = {"processing_mode": {**mode, **trailers}}
    return found


class Gated(Sequence[bytes]):
    """Chunks of which only the first comes by itself: the others wait until the test has seen it."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks
        self.opened = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        for number, chunk in enumerate(self._chunks):
            if number and not self.opened.wait(_WAIT_S):
                return
            yield chunk

    def __len__(self) -> int:
        return len(self._chunks)

    @overload
    def __getitem__(self, at: int) -> bytes: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[bytes]: ...

    def __getitem__(self, at: int | slice) -> bytes | Sequence[bytes]:
        return self._chunks[at]


@pytest.fixture(scope="module")
def running(transport: str) -> Iterator[Runtime]:
    with started(CHAINS, transport=transport, overrides=overrides()) as runtime:
        yield runtime


@pytest.fixture
def runtime(running: Runtime) -> Iterator[Runtime]:
    running.upstream.reset()
    yield running
    assert running.sums("policy_engine_handler_errors_total", "policy_engine_protocol_errors_total") == (0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_first_event_reaches_the_client_before_the_upstream_sends_the_second(runtime: Runtime, kind: str) -> None:
    chunks = Gated(b"data: one\n\n", b"data: two\n\n", b"data: three\n\n")
    runtime.upstream.answer_with(Answer(headers=[("content-type", "text/event-stream")], chunks=chunks))
    with socket.create_connection(("127.0.0.1", runtime.envoy.port), _WAIT_S) as client:
        client.sendall(f"GET /events-{kind}/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
        received = b""
        while b"DATA: ONE\n\n" not in received:
            piece = client.recv(65536)
            assert piece, received
            received += piece
        assert not chunks.opened.is_set()
        chunks.opened.set()
        while piece := client.recv(65536):
            received += piece
    assert received.index(b"DATA: ONE") < received.index(b"DATA: TWO") < received.index(b"DATA: THREE")
    assert received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("kind", KINDS)
def test_policy_ends_the_stream_and_the_rest_is_dropped(runtime: Runtime, kind: str) -> None:
    runtime.upstream.answer_with(Answer(chunks=[b"one ", b"two STOP three", b"four", b"five"], chunk_delay_s=0.05))
    reply = runtime.send(f"/ends-{kind}/")
    assert (reply.status, reply.body) == (200, b"ONE TWO ")


@pytest.mark.parametrize("kind", KINDS)
def test_long_stream_passes_whole_and_in_order(runtime: Runtime, kind: str) -> None:
    lines = [f"line {number}\n".encode() * 100 for number in range(200)]
    runtime.upstream.answer_with(Answer(chunks=lines))
    assert runtime.send(f"/events-{kind}/").body == b"".join(lines).upper()


@pytest.mark.parametrize("kind", KINDS)
def test_trailers_after_a_streamed_response_arrive(runtime: Runtime, kind: str) -> None:
    runtime.upstream.answer_with(Answer(chunks=[b"a", b"b"], trailers=[("x-end", "1")]))
    reply = runtime.send(f"/events-{kind}/")
    assert (reply.body, [pair for pair in reply.trailers if pair[0].lower() == "x-end"]) == (b"AB", [("x-end", "1")])


@pytest.mark.parametrize("trailers", [[], [("x-end", "1")]], ids=["end", "trailers"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_policy_held_back_goes_out_at_the_end(
    runtime: Runtime, kind: str, trailers: list[tuple[str, str]]
) -> None:
    """With trailers no chunk is the last; in STREAMED there is then no way to send what was held back."""
    lost = kind == "streamed" and trailers
    runtime.upstream.answer_with(Answer(chunks=[b"one ", b"two ", b"three"], trailers=trailers, chunk_delay_s=0.02))
    if lost:
        with pytest.raises(ClientError):
            runtime.send(f"/holds-{kind}/")
    else:
        reply = runtime.send(f"/holds-{kind}/")
        assert (reply.body, [one for one in reply.trailers if one[0] == "x-end"]) == (b"ONE TWO THREE", trailers)
    reply = runtime.send(
        f"/request-holds-{kind}/", method="POST", body=iter([b"one ", b"two ", b"three"]), trailers=trailers
    )
    assert reply.status == (500 if lost else 200)
    if not lost:
        last = runtime.upstream.last()
        assert (bytes(last.body), last.trailers) == (b"ONE TWO THREE", trailers)


@pytest.mark.parametrize("kind", KINDS)
def test_request_body_streams_to_the_upstream(runtime: Runtime, kind: str) -> None:
    pieces = [b"piece %d " % number * 1000 for number in range(20)]
    assert runtime.send(f"/request-{kind}/", method="POST", body=iter(pieces)).status == 200
    assert bytes(runtime.upstream.last().body) == b"".join(pieces).upper()


@pytest.mark.parametrize("kind", KINDS)
def test_request_body_is_ended_by_the_policy(runtime: Runtime, kind: str) -> None:
    assert runtime.send(f"/request-ends-{kind}/", method="POST", body=iter([b"one STOP two", b"three"])).status == 200
    assert bytes(runtime.upstream.last().body) == b"ONE "


@pytest.mark.parametrize("kind", KINDS)
def test_request_body_is_denied_midway(runtime: Runtime, kind: str) -> None:
    reply = runtime.send(f"/denies-{kind}/", method="POST", body=iter([b"good ", b"EVIL"]))
    assert (reply.status, reply.body) == (403, b"denied midway")


@pytest.mark.parametrize("kind", KINDS)
def test_streaming_route_without_a_body_passes(runtime: Runtime, kind: str) -> None:
    runtime.upstream.answer_with(Answer(status=204))
    assert runtime.send(f"/events-{kind}/").status == 204
    assert runtime.send(f"/request-{kind}/").status == 204


def test_streaming_policy_gets_the_whole_body_where_envoy_does_not_stream(runtime: Runtime) -> None:
    runtime.upstream.answer_with(Answer(chunks=[b"one ", b"two STOP three", b"four"]))
    assert runtime.send("/events-unstreamed/").body == b"ONE TWO "


def test_one_policy_that_cannot_stream_makes_the_chain_buffer(runtime: Runtime) -> None:
    runtime.upstream.answer_with(Answer(chunks=[b"one ", b"two"]))
    counted = runtime.phases_of(lambda: runtime.send("/buffers-streamed/"))
    assert counted == {"request_headers": 1, "response_headers": 1, "response_body": 1}
    reply = runtime.send("/buffers-streamed/")
    assert (reply.body, reply.header("x-whole")) == (b"ONE TWO", "1")
