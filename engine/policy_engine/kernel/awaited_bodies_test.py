"""Bodies that were asked for: what it means when they do not come, come in part, or in full duplex (R-08, R-09)."""

from __future__ import annotations

import pytest

from policy_engine.kernel.stream import Peer
from policy_engine.sdk import Policy, Request, RequestMutation, Response
from testsupport.chains import engine, settle
from testsupport.envoy_messages import ProcessingMode, body, parse, request_headers, response_headers


class Upper(Policy):
    def on_request_body(self, request: Request) -> RequestMutation:
        return RequestMutation(body=(request.body or b"").upper())


class ReadsBoth(Policy):
    def on_request_body(self, request: Request) -> None: ...

    def on_response_body(self, request: Request, response: Response) -> None: ...


@pytest.mark.parametrize(
    ("static", "status", "passes"),
    [
        # Envoy's own configuration sends the body: whatever answers before it, no upstream has seen the request.
        (ProcessingMode.BUFFERED, 413, True),
        (ProcessingMode.BUFFERED, 408, True),
        (ProcessingMode.BUFFERED, 503, True),
        # Only an override does: these two say that the body was not taken.
        (ProcessingMode.NONE, 413, True),
        (ProcessingMode.NONE, 408, True),
        (ProcessingMode.NONE, 200, False),
        (ProcessingMode.NONE, 503, False),
    ],
)
def test_an_answer_before_the_body_is_envoys_own_or_a_broken_promise(static: int, status: int, passes: bool) -> None:
    """Envoy refuses a body that is too large or too slow; from 1.37 on its answer comes through the filter."""
    made = engine(ReadsBoth)
    peer = Peer()
    session = made.session(peer)
    session.receive(request_headers(method="POST", end=False, body_modes=(static, static)))
    reply = parse(session.receive(response_headers(status)))
    assert reply.HasField("response_headers") is passes
    assert (made.kernel.statistics.broken_promises, peer.doubted) == (0 if passes else 1, not passes)


def test_a_sized_body_that_envoy_has_no_room_for_is_refused_at_once() -> None:
    made = engine(ReadsBoth, envoy_buffer_limit=32768)
    for size, refused in ((32768, False), (32769, True)):
        sized = [("content-length", str(size))]
        reply = parse(made.session().receive(request_headers(method="POST", pairs=sized, end=False)))
        assert reply.HasField("immediate_response") is refused
        assert reply.immediate_response.status.code == (413 if refused else 0)
        # In full duplex Envoy holds nothing of it.
        full = (ProcessingMode.FULL_DUPLEX_STREAMED, ProcessingMode.NONE)
        assert made.session().receive(request_headers(method="POST", pairs=sized, end=False, body_modes=full)) is None
        session = made.session()
        session.receive(request_headers())
        reply = parse(session.receive(response_headers(pairs=sized)))
        assert reply.immediate_response.status.code == (502 if refused else 0)


def test_a_request_that_ends_while_its_body_is_waited_for_is_named(caplog: pytest.LogCaptureFixture) -> None:
    made = engine(ReadsBoth)
    for length in ("9999", "70000", "70000"):
        session = made.session()
        session.receive(request_headers(method="POST", pairs=[("content-length", length)], end=False))
        session.close()
    assert ["70000" in one.getMessage() for one in caplog.records] == [True]


def test_part_of_a_body_is_not_taken_for_the_whole() -> None:
    """In BUFFERED_PARTIAL what is over Envoy's buffer goes by without a message."""
    made = engine(Upper)
    session = made.session()
    partial = (ProcessingMode.BUFFERED_PARTIAL, ProcessingMode.NONE)
    session.receive(request_headers(method="POST", end=False, body_modes=partial))
    assert parse(session.receive(body("request", b"part", end=False))).immediate_response.status.code == 500
    session = made.session()
    session.receive(request_headers(method="POST", end=False, body_modes=partial))
    assert parse(session.receive(body("request", b"all"))).request_body.response.body_mutation.body == b"ALL"


def test_collected_bodies_are_bounded_together_and_let_go() -> None:
    made = engine(Upper, body_limit=1 << 30)
    full = (ProcessingMode.FULL_DUPLEX_STREAMED, ProcessingMode.NONE)
    piece = body("request", b"a" * (64 << 20), end=False)
    sessions = [made.session() for _ in range(3)]
    for session in sessions:
        assert session.receive(request_headers(method="POST", end=False, body_modes=full)) is None
    assert [sessions[0].receive(piece) for _ in range(2)] == [None, None]
    assert [sessions[1].receive(piece) for _ in range(2)] == [None, None]
    assert parse(sessions[2].receive(piece)).immediate_response.status.code == 503
    assert made.kernel.statistics.collected_bytes == 256 << 20
    sessions[0].close()
    assert made.kernel.statistics.collected_bytes == 128 << 20
    assert settle(sessions[1].receive(body("request", b""))) is not None
    assert made.kernel.statistics.collected_bytes == 0
