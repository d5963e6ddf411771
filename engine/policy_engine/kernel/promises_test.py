"""Whether Envoy takes overrides is learnt from what it sends; until it is known, failure modes decide (R-08, R-11)."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from policy_engine.kernel.stream import Peer
from policy_engine.sdk import Policy, Request, RequestMutation, Response, ResponseMutation
from testsupport.chains import Engine, chains, engine, entry
from testsupport.envoy_messages import ProcessingMode, body, parse, request_headers, response_headers

NONE, STREAMED, BUFFERED = ProcessingMode.NONE, ProcessingMode.STREAMED, ProcessingMode.BUFFERED


class Mask(Policy):
    def on_response_body(self, request: Request, response: Response) -> ResponseMutation:
        return ResponseMutation(body=b"masked")


class Both(Policy):
    def on_request_body(self, request: Request) -> RequestMutation:
        return RequestMutation(body=(request.body or b"").upper())

    def on_response_body(self, request: Request, response: Response) -> ResponseMutation:
        return ResponseMutation(body=b"masked")


class Hide(Policy):
    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation:
        return ResponseMutation(remove_headers=("server",))


class Look(Policy):
    def on_request_headers(self, request: Request) -> None:
        pass


def made(**routes: Any) -> Engine:
    found = engine(classes=[Mask, Both, Hide, Look])
    found.activate(chains(**routes))
    return found


def first_reply(running: Engine, peer: Peer, route: str = "mask") -> tuple[Any, Any]:
    session = running.session(peer)
    return session, parse(session.receive(request_headers(route)))


def ends_after_headers(running: Engine, peer: Peer, route: str = "mask", **headers: Any) -> Any:
    """One stream that ends after its response headers; returns the reply to those."""
    session, _ = first_reply(running, peer, route)
    reply = parse(session.receive(response_headers(**headers)))
    session.close()
    return reply


def body_comes(running: Engine, peer: Peer, route: str = "mask") -> None:
    session, _ = first_reply(running, peer, route)
    session.receive(response_headers())
    assert parse(session.receive(body("response", b"x"))).response_body.response.body_mutation.body == b"masked"
    session.close()


def test_after_a_response_whose_body_never_came_responses_are_denied(caplog: pytest.LogCaptureFixture) -> None:
    running, peer = made(mask=[Mask]), Peer()
    with caplog.at_level(logging.ERROR):
        assert ends_after_headers(running, peer).HasField("response_headers")
        assert ends_after_headers(running, peer).immediate_response.status.code == 500
        assert ends_after_headers(running, peer).immediate_response.status.code == 500
    (line,) = [record.getMessage() for record in caplog.records]
    assert all(part in line for part in ("mask v1.0.0", "allow_mode_override: true", "response_body_mode: BUFFERED"))
    assert (running.kernel.statistics.broken_response_promises, running.kernel.statistics.doubted_responses) == (1, 2)


def test_another_connection_is_not_doubted() -> None:
    running = made(mask=[Mask])
    ends_after_headers(running, Peer())
    assert ends_after_headers(running, Peer()).HasField("response_headers")


def test_failing_open_passes_and_is_counted() -> None:
    running, peer = made(mask=[entry(Mask, failure_mode="open")]), Peer()
    for _ in range(3):
        session, reply = first_reply(running, peer)
        assert reply.mode_override.response_header_mode == ProcessingMode.SEND
        assert parse(session.receive(response_headers())).HasField("response_headers")
        session.close()
    assert running.kernel.statistics.broken_response_promises == 3


@pytest.mark.parametrize("static", [(NONE, BUFFERED), (NONE, STREAMED)])
def test_a_body_that_envoy_is_configured_to_send_needs_no_evidence(static: tuple[int, int]) -> None:
    running, peer = made(mask=[Mask]), Peer()
    for _ in range(3):
        session = running.session(peer)
        session.receive(request_headers("mask", body_modes=static))
        assert parse(session.receive(response_headers())).HasField("response_headers")
        session.close()
    assert (peer.doubted, peer.honoured, running.kernel.statistics.broken_response_promises) == (False, False, 0)


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"end": True}),
        ("HEAD", {}),
        ("GET", {"status": 204}),
        ("GET", {"status": 304}),
        ("GET", {"status": 101}),
    ],
)
def test_a_response_that_has_no_body_breaks_no_promise(method: str, headers: dict[str, Any]) -> None:
    running, peer = made(mask=[Mask]), Peer()
    for doubted in (False, True):
        peer.doubted = doubted
        session = running.session(peer)
        session.receive(request_headers("mask", method=method))
        assert parse(session.receive(response_headers(**headers))).HasField("response_headers")
        session.close()
    assert running.kernel.statistics.broken_response_promises == 0


def test_a_response_that_the_engine_answered_or_replaced_breaks_no_promise() -> None:
    class Replace(Policy):
        def on_response_headers(self, request: Request, response: Response) -> ResponseMutation:
            return ResponseMutation(body=b"other")

    running, peer = engine(Replace, Mask), Peer()
    ends_after_headers(running, peer, "r")
    assert not peer.doubted


def test_once_a_body_came_clients_that_leave_mean_nothing(caplog: pytest.LogCaptureFixture) -> None:
    running, peer = made(mask=[Mask], other=[Mask]), Peer()
    body_comes(running, peer, "other")
    for _ in range(19):
        assert ends_after_headers(running, peer).HasField("response_headers")
    assert not caplog.records
    ends_after_headers(running, peer)
    # Never a body on this route: a second filter of the same Envoy may be wrong, and that is said, but nothing denied.
    assert "route mask needs the response body" in caplog.text
    assert ends_after_headers(running, peer).HasField("response_headers")
    assert running.kernel.statistics.broken_response_promises == 0


def test_a_request_body_that_only_the_override_asked_for_is_evidence_too() -> None:
    running, peer = made(mask=[Mask], both=[Both]), Peer()
    session = running.session(peer)
    session.receive(request_headers("both", end=False))
    session.receive(body("request", b"x"))
    assert peer.honoured
    configured = Peer()
    session = running.session(configured)
    session.receive(request_headers("both", end=False, body_modes=(BUFFERED, NONE)))
    session.receive(body("request", b"x"))
    assert not configured.honoured


def test_in_doubt_the_headers_are_not_asked_for_and_a_body_without_them_ends_the_doubt() -> None:
    running, peer = made(mask=[Mask]), Peer()
    ends_after_headers(running, peer)
    session, reply = first_reply(running, peer)
    assert reply.mode_override.response_header_mode == ProcessingMode.SKIP
    assert reply.mode_override.response_body_mode == BUFFERED
    assert parse(session.receive(body("response", b"secret"))).immediate_response.status.code == 500
    session.close()
    _, reply = first_reply(running, peer)
    assert reply.mode_override.response_header_mode == ProcessingMode.SEND
    body_comes(running, peer)


def test_a_body_without_headers_is_out_of_order_when_it_was_not_asked_for() -> None:
    from policy_engine.kernel.stream import StreamError

    session, _ = first_reply(made(mask=[Mask]), Peer())
    with pytest.raises(StreamError):
        session.receive(body("response", b"secret"))


def test_a_chain_that_changes_response_headers_always_gets_them() -> None:
    running, peer = made(mask=[Hide, Mask], other=[Mask]), Peer()
    ends_after_headers(running, peer)
    session, reply = first_reply(running, peer)
    assert reply.mode_override.response_header_mode == ProcessingMode.SEND
    assert parse(session.receive(response_headers())).immediate_response.status.code == 500
    session, _ = first_reply(running, peer, "other")
    session.receive(body("response", b"secret"))
    body_comes(running, peer)


def test_headers_that_were_not_asked_for_raise_the_doubt_before_any_body_is_lost() -> None:
    running, peer = made(mask=[Mask], look=[Look]), Peer()
    ends_after_headers(running, peer, "look")
    assert ends_after_headers(running, peer).immediate_response.status.code == 500
    # Forged by a client that makes Envoy answer by itself at the right moment, it is as good as nothing once bodies came.
    body_peer = Peer()
    body_comes(running, body_peer)
    ends_after_headers(running, body_peer, "look")
    assert ends_after_headers(running, body_peer).HasField("response_headers")


def test_a_request_body_that_never_came_raises_it_too() -> None:
    running, peer = made(mask=[Mask], both=[entry(Both, failure_mode="open")]), Peer()
    session = running.session(peer)
    session.receive(request_headers("both", end=False))
    session.receive(response_headers())
    assert peer.doubted


@pytest.mark.parametrize("mode", ["closed", "open"])
def test_a_body_in_pieces_that_was_to_come_whole_is_broken_off(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    running = made(mask=[entry(Mask, failure_mode=mode)])
    session = running.session()
    session.receive(request_headers("mask", body_modes=(NONE, STREAMED)))
    session.receive(response_headers())
    session.receive(body("response", b"one", end=False))
    reply = parse(session.receive(body("response", b"two")))
    assert reply.HasField("immediate_response" if mode == "closed" else "response_body")
    assert "in pieces" in caplog.text
