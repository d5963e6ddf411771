"""Bodies of which only trailers tell that they are over, or that there is none (R-08)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from policy_engine.sdk import (
    Chunk,
    ChunkMutation,
    ImmediateResponse,
    Policy,
    Request,
    RequestMutation,
    Response,
    ResponseMutation,
)
from testsupport.chains import engine, entry, settle
from testsupport.envoy_messages import (
    ProcessingMode,
    Reply,
    body,
    parse,
    request_headers,
    response_headers,
    trailers,
)

STREAMED, DUPLEX = ProcessingMode.STREAMED, ProcessingMode.FULL_DUPLEX_STREAMED


@pytest.mark.parametrize(("action", "status"), [("deny", 422), ("change", 500), ("nothing", 0)])
@pytest.mark.parametrize("waits", [False, True])
def test_trailers_without_a_body_run_the_body_policies(action: str, status: int, waits: bool) -> None:
    class Check(Policy):
        def on_request_body(self, request: Request) -> Any:
            assert request.body == b""
            found = {
                "deny": ImmediateResponse(422),
                "change": RequestMutation(set_headers={"x-checked": "1"}),
                "nothing": RequestMutation(body=b""),
            }[action]
            return later(found) if waits else found

    async def later(found: Any) -> Any:
        await asyncio.sleep(0)
        return found

    made = engine(Check)
    session = made.session()
    reply = parse(session.receive(request_headers(method="POST", end=False)))
    assert reply.mode_override.request_trailer_mode == ProcessingMode.SEND
    reply = parse(settle(session.receive(trailers("request"))))
    assert reply.immediate_response.status.code == status
    assert reply.HasField("request_trailers") == (status == 0)


@pytest.mark.parametrize(("action", "status"), [("deny", 422), ("change", 500), ("nothing", 0)])
def test_trailers_without_a_body_run_the_response_body_policies(action: str, status: int) -> None:
    class Check(Policy):
        def on_response_body(self, request: Request, response: Response) -> Any:
            assert response.body == b""
            return {
                "deny": ImmediateResponse(422),
                "change": ResponseMutation(body=b"other"),
                "nothing": ResponseMutation(),
            }[action]

    made = engine(Check)
    session = made.session()
    reply = parse(session.receive(request_headers()))
    assert reply.mode_override.response_trailer_mode == ProcessingMode.SEND
    session.receive(response_headers())
    reply = parse(session.receive(trailers("response")))
    assert reply.immediate_response.status.code == status
    session.close()
    assert made.kernel.statistics.broken_response_promises == 0


def test_what_a_policy_that_fails_open_changes_beside_a_missing_body_is_left_out() -> None:
    class Change(Policy):
        def on_request_body(self, request: Request) -> RequestMutation:
            return RequestMutation(set_headers={"x-checked": "1"})

    session = engine(entry(Change, failure_mode="open"), classes=[Change]).session()
    session.receive(request_headers(method="POST", end=False))
    assert parse(session.receive(trailers("request"))).HasField("request_trailers")


class HoldsBack(Policy):
    """Sends each chunk with the next one, as a policy does that looks for something across their borders."""

    def on_request_chunk(self, request: Request, chunk: Chunk) -> ChunkMutation:
        return self._release(request, chunk)

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> ChunkMutation:
        return self._release(request, chunk)

    def _release(self, request: Request, chunk: Chunk) -> ChunkMutation:
        held, request.metadata["held"] = request.metadata.get("held", b""), chunk.data
        return ChunkMutation(held + chunk.data if chunk.end else held)


@pytest.mark.parametrize("side", ["request", "response"])
def test_what_is_held_back_goes_out_before_the_trailers_in_full_duplex(side: str) -> None:
    session = engine(HoldsBack).session()
    session.receive(request_headers(end=side == "response", body_modes=(DUPLEX, DUPLEX)))
    if side == "response":
        session.receive(response_headers())
    session.receive(body(side, b"one", end=False))
    replies = settle(session.receive(trailers(side)))
    first, second = map(Reply.FromString, replies)
    sent = getattr(first, f"{side}_body").response.body_mutation.streamed_response
    assert (sent.body, sent.end_of_stream, second.HasField(f"{side}_trailers")) == (b"one", False, True)


@pytest.mark.parametrize("mode", ["closed", "open"])
@pytest.mark.parametrize("side", ["request", "response"])
def test_what_is_held_back_cannot_go_out_in_streamed_mode(side: str, mode: str) -> None:
    session = engine(entry(HoldsBack, failure_mode=mode), classes=[HoldsBack]).session()
    session.receive(request_headers(end=side == "response", body_modes=(STREAMED, STREAMED)))
    if side == "response":
        session.receive(response_headers())
    session.receive(body(side, b"one", end=False))
    reply = parse(session.receive(trailers(side)))
    assert reply.HasField("immediate_response" if mode == "closed" else f"{side}_trailers")


@pytest.mark.parametrize("static", [STREAMED, DUPLEX])
def test_nothing_is_told_twice(static: int) -> None:
    ends = []

    class Counts(Policy):
        def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> None:
            ends.append(chunk.end)

        async def on_response_trailers(self, request: Request, response: Response, trailers: Any) -> None:
            await asyncio.sleep(0)

    session = engine(Counts).session()
    session.receive(request_headers(body_modes=(0, static)))
    session.receive(response_headers())
    session.receive(body("response", b"one", end=False))
    replies = settle(session.receive(trailers("response")))
    assert ends == [False, True]
    assert parse(replies).HasField("response_trailers")
