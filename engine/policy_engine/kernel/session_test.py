"""A session speaks ext_proc as Envoy does: bytes of its messages in, bytes of the replies out (R-01 to R-08)."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from policy_engine.kernel.route_key import RouteKey
from policy_engine.kernel.stream import StreamError
from policy_engine.sdk import (
    Chunk,
    ChunkMutation,
    Headers,
    ImmediateResponse,
    Policy,
    Request,
    RequestMutation,
    Response,
    ResponseMutation,
    TrailerMutation,
)
from testsupport.chains import chains, engine, entry, settle
from testsupport.envoy_messages import (
    ProcessingMode,
    body,
    header_changes,
    parse,
    request_headers,
    response_headers,
    trailers,
)


class Tag(Policy):
    """Sets constant headers in both directions."""

    def __init__(self, parameters: Any) -> None:
        name = parameters.get("name", "tag")
        self.request = RequestMutation(set_headers={"x-" + name: "1", "x-last": name})
        self.response = ResponseMutation(set_headers={"x-" + name: "1", "x-last": name})

    def on_request_headers(self, request: Request) -> RequestMutation:
        request.metadata.setdefault("order", []).append(self.request.set_headers["x-last"])
        return self.request

    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation:
        request.metadata["order"].append("/" + str(self.request.set_headers["x-last"]))
        return self.response


class Deny(Policy):
    def on_request_headers(self, request: Request) -> ImmediateResponse:
        return ImmediateResponse(
            403, "no", {"x-why": "deny"}, append_headers=(("set-cookie", "a"), ("set-cookie", "b"))
        )


class Explode(Policy):
    ran = 0

    def on_request_headers(self, request: Request) -> None:
        Explode.ran += 1
        raise RuntimeError("secret detail")


class Upper(Policy):
    def on_request_body(self, request: Request) -> RequestMutation:
        return RequestMutation(body=(request.body or b"").upper())

    def on_response_body(self, request: Request, response: Response) -> ResponseMutation:
        return ResponseMutation(body=(response.body or b"").upper(), status=201)


class Look(Policy):
    """Writes down what it sees."""

    seen: list[Any] = []  # noqa: RUF012 - cleared by each test that uses it

    def on_request_headers(self, request: Request) -> None:
        Look.seen.append(
            (request.method, request.target, request.authority, dict(request.headers.items()), request.client_address)
        )

    def on_response_headers(self, request: Request, response: Response) -> None:
        Look.seen.append((request.path, response.status, dict(response.headers.items())))


class Rewrite(Policy):
    def on_request_headers(self, request: Request) -> RequestMutation:
        return RequestMutation(
            method="PUT",
            path="/new?q=1",
            authority="other:81",
            set_headers={"X-Set": "v"},
            remove_headers=("X-Gone",),
            append_headers=(("x-many", "1"), ("x-many", "2")),
            clear_route_cache=True,
            dynamic_metadata={"ns": {"n": 1, "list": ["a", None, True]}},
        )


class Slow(Policy):
    async def on_request_headers(self, request: Request) -> RequestMutation:
        await asyncio.sleep(0)
        return RequestMutation(set_headers={"x-slow": "1"})


def first(made: Any, **message: Any) -> Any:
    return parse(settle(made.session().receive(request_headers(**message))))


def test_request_phase_runs_in_order_and_response_phase_in_reverse() -> None:
    names = ("a", "b", "c")
    made = engine(*(entry(Tag, parameters={"name": name}) for name in names), classes=[Tag])
    session = made.session()
    request = parse(session.receive(request_headers()))
    sets, _ = header_changes(request.request_headers.response.header_mutation)
    assert sets == [("x-a", b"1", False), ("x-last", b"c", False), ("x-b", b"1", False), ("x-c", b"1", False)]
    response = parse(session.receive(response_headers()))
    sets, _ = header_changes(response.response_headers.response.header_mutation)
    assert {name: value for name, value, _ in sets}["x-last"] == b"a"
    phases = session._phases
    assert phases is not None
    assert phases.request.metadata["order"] == ["a", "b", "c", "/c", "/b", "/a"]


def test_constant_actions_are_serialised_once() -> None:
    made = engine(Tag)
    made.session().receive(request_headers())  # what comes once may come once only
    first = made.session().receive(request_headers())
    assert made.session().receive(request_headers(path="/other")) is first


def test_immediate_response_ends_the_chain() -> None:
    Explode.ran = 0
    made = engine(Tag, Deny, Explode)
    session = made.session()
    reply = parse(session.receive(request_headers())).immediate_response
    assert (reply.status.code, reply.body) == (403, b"no")
    assert header_changes(reply.headers)[0] == [
        ("x-why", b"deny", False),
        ("set-cookie", b"a", True),
        ("set-cookie", b"b", True),
        ("x-tag", b"1", False),
        ("x-last", b"tag", False),
    ]
    assert Explode.ran == 0
    assert session.receive(response_headers()) is None  # what was on its way already
    # The next request is not affected by it.
    assert parse(made.session().receive(request_headers())).HasField("immediate_response")


def test_later_policies_see_earlier_changes_and_the_response_sees_what_was_sent() -> None:
    Look.seen.clear()
    made = engine(Look, Rewrite, Look)
    session = made.session()
    pairs = [("x-gone", "1"), ("x-many", "0"), ("cookie", "a=1")]
    reply = parse(session.receive(request_headers(pairs=pairs, attributes={"source.address": "[2001:db8::1]:443"})))
    before, after = Look.seen
    assert before[:3] == ("GET", "/", "host.example")
    assert after[:3] == ("PUT", "/new?q=1", "other:81")
    assert after[3] == {"x-many": "2", "cookie": "a=1", "x-set": "v"}
    assert after[4] == "2001:db8::1"
    common = reply.request_headers.response
    assert common.clear_route_cache
    sets, removed = header_changes(common.header_mutation)
    assert removed == ["x-gone"]
    assert ("x-many", b"1", True) in sets
    assert (":path", b"/new?q=1", False) in sets
    assert (":method", b"PUT", False) in sets
    assert (":authority", b"other:81", False) in sets
    assert reply.dynamic_metadata["ns"]["n"] == 1
    Look.seen.clear()
    session.receive(response_headers(pairs=[("x-up", "1")]))
    assert Look.seen[0] == ("/new", 200, {"x-up": "1"})


def test_a_removal_after_a_set_removes_for_good() -> None:
    class SetIt(Policy):
        def on_request_headers(self, request: Request) -> RequestMutation:
            return RequestMutation(set_headers={"x-a": "1", "x-b": "1"})

    class RemoveIt(Policy):
        def on_request_headers(self, request: Request) -> RequestMutation:
            return RequestMutation(remove_headers=("X-A",))

    sets, removed = header_changes(
        first(engine(SetIt, RemoveIt)).request_headers.response.header_mutation,
    )
    assert (sets, removed) == ([("x-b", b"1", False)], ["x-a"])


@pytest.mark.parametrize("mode", ["closed", "open"])
def test_a_failing_policy_follows_its_failure_mode(mode: str) -> None:
    made = engine(entry(Explode, failure_mode=mode), Tag, classes=[Explode])
    reply = first(made)
    if mode == "closed":
        assert reply.immediate_response.status.code == 500
        assert b"secret" not in reply.SerializeToString()
    else:
        assert reply.request_headers.response.header_mutation.set_headers[0].header.key == "x-tag"


def test_an_awaiting_policy_keeps_its_place_in_the_chain() -> None:
    sets, _ = header_changes(first(engine(Tag, Slow, Deny)).immediate_response.headers)
    assert sets[0][0] == "x-why"
    sets, _ = header_changes(first(engine(Tag, Slow)).request_headers.response.header_mutation)
    assert [name for name, _, _ in sets] == ["x-tag", "x-last", "x-slow"]


# -- body modes (R-08) -----------------------------------------------------------------------------------------------


def test_a_headers_only_chain_switches_every_other_phase_off() -> None:
    class OnlyRequest(Policy):
        def on_request_headers(self, request: Request) -> None:
            pass

    mode = first(engine(OnlyRequest)).mode_override
    assert mode.response_header_mode == ProcessingMode.SKIP
    assert mode.request_body_mode == ProcessingMode.NONE
    assert mode.response_body_mode == ProcessingMode.NONE
    assert mode.request_trailer_mode == ProcessingMode.SKIP
    assert mode.response_trailer_mode == ProcessingMode.SKIP


def test_a_phase_in_which_no_instance_has_work_is_switched_off() -> None:
    class Both(Policy):
        def on_request_headers(self, request: Request) -> None:
            pass

        def on_response_headers(self, request: Request, response: Response) -> None:
            pass

    class Idle(Both):
        idle_phases = ("response_headers",)

    assert first(engine(Idle)).mode_override.response_header_mode == ProcessingMode.SKIP
    assert first(engine(Idle, Both)).mode_override.response_header_mode != ProcessingMode.SKIP


def test_a_request_body_policy_buffers_the_request_only() -> None:
    class OnlyBody(Policy):
        def on_request_body(self, request: Request) -> None:
            pass

    mode = first(engine(OnlyBody), end=False).mode_override
    assert mode.request_body_mode == ProcessingMode.BUFFERED
    assert mode.response_body_mode == ProcessingMode.NONE
    assert mode.response_header_mode == ProcessingMode.SKIP


def test_an_empty_chain_passes_with_one_message() -> None:
    reply = first(engine())
    assert reply.request_headers.response.ByteSize() == 0
    assert reply.mode_override.response_header_mode == ProcessingMode.SKIP


def test_a_new_configuration_changes_the_next_request_but_not_one_in_flight() -> None:
    made = engine(Tag, classes=[Upper])
    running = made.session()
    running.receive(request_headers())
    made.activate(chains(r=[Upper]))
    assert first(made, end=False).mode_override.request_body_mode == ProcessingMode.BUFFERED
    sets, _ = header_changes(parse(running.receive(response_headers())).response_headers.response.header_mutation)
    assert sets[0][0] == "x-tag"


# -- bodies ----------------------------------------------------------------------------------------------------------


def test_a_buffered_body_is_replaced_and_content_length_kept_right() -> None:
    session = engine(Upper).session()
    session.receive(request_headers(pairs=[("content-length", "3")], method="POST", end=False))
    common = parse(session.receive(body("request", b"abc"))).request_body.response
    assert common.body_mutation.body == b"ABC"
    assert header_changes(common.header_mutation)[0] == [("content-length", b"3", False)]
    session.receive(response_headers())
    common = parse(session.receive(body("response", b"xyz"))).response_body.response
    assert common.body_mutation.body == b"XYZ"
    assert header_changes(common.header_mutation)[0] == [(":status", b"201", False)]


def test_a_compressed_body_is_decoded_for_the_policy_and_encoded_again() -> None:
    session = engine(Upper).session()
    session.receive(request_headers(pairs=[("content-encoding", "gzip")], method="POST", end=False))
    reply = parse(session.receive(body("request", gzip.compress(b"abc"))))
    assert gzip.decompress(reply.request_body.response.body_mutation.body) == b"ABC"


def test_a_body_replaced_in_a_headers_phase_matches_its_content_encoding() -> None:
    class Replace(Policy):
        def on_request_headers(self, request: Request) -> RequestMutation:
            return RequestMutation(body=b"plain")

        def on_response_headers(self, request: Request, response: Response) -> ResponseMutation:
            # The header is gone with this change, so the body goes out as it is.
            return ResponseMutation(body=b"plain", remove_headers=("content-encoding",))

    session = engine(Replace).session()
    gzipped = [("content-encoding", "gzip")]
    reply = parse(session.receive(request_headers(pairs=gzipped, method="POST", end=False)))
    assert gzip.decompress(reply.request_headers.response.body_mutation.body) == b"plain"
    reply = parse(session.receive(response_headers(pairs=gzipped)))
    assert reply.response_headers.response.body_mutation.body == b"plain"
    unknown = request_headers(pairs=[("content-encoding", "zstd")], method="POST", end=False)
    common = parse(engine(Replace).session().receive(unknown)).request_headers.response
    assert common.body_mutation.body == b"plain"
    assert header_changes(common.header_mutation)[1] == ["content-encoding"]


def test_a_body_policy_runs_for_a_request_without_a_body() -> None:
    class Need(Policy):
        def on_request_body(self, request: Request) -> ImmediateResponse | None:
            return ImmediateResponse(400, "body required") if not request.body else None

    assert first(engine(Need), end=True).immediate_response.status.code == 400


@pytest.mark.parametrize("side", ["request", "response"])
def test_a_body_emptied_in_a_headers_phase_is_sent_empty_and_not_asked_for(side: str) -> None:
    seen: list[bytes | None] = []

    class Empty(Policy):
        def on_request_headers(self, request: Request) -> RequestMutation | None:
            return RequestMutation(body=b"") if side == "request" else None

        def on_response_headers(self, request: Request, response: Response) -> ResponseMutation | None:
            return ResponseMutation(body=b"") if side == "response" else None

    class Read(Policy):
        def on_request_body(self, request: Request) -> None:
            seen.append(request.body)

        def on_response_body(self, request: Request, response: Response) -> None:
            seen.append(response.body)

    made = engine(Empty, Read) if side == "request" else engine(Read, Empty)
    session = made.session()
    reply = parse(session.receive(request_headers(method="POST", end=side == "response"))).request_headers.response
    if side == "response":
        seen.clear()
        reply = parse(session.receive(response_headers(end=False))).response_headers.response
    assert reply.status == reply.CONTINUE_AND_REPLACE
    assert reply.body_mutation.clear_body
    assert seen == [b""]


def test_a_body_replaced_in_the_headers_phase_is_seen_by_body_policies() -> None:
    class Replace(Policy):
        def on_request_headers(self, request: Request) -> RequestMutation:
            return RequestMutation(body=b"new")

    reply = first(engine(Replace, Upper), end=False, method="POST")
    common = reply.request_headers.response
    assert common.status == common.CONTINUE_AND_REPLACE
    assert common.body_mutation.body == b"NEW"


@pytest.mark.parametrize(("side", "status"), [("request", 413), ("response", 502)])
def test_a_body_over_the_limit_is_refused(side: str, status: int) -> None:
    session = engine(Upper, body_limit=4).session()
    session.receive(request_headers(method="POST", end=False))
    if side == "response":
        session.receive(body("request", b"ok"))
        session.receive(response_headers())
    assert parse(session.receive(body(side, b"12345"))).immediate_response.status.code == status


@pytest.mark.parametrize("length", ["5", "9" * 5000])
def test_a_body_announced_over_the_limit_is_refused_before_it_comes(length: str) -> None:
    headers = [("content-length", length)]
    session = engine(Upper, body_limit=4).session()
    assert parse(session.receive(request_headers(pairs=headers, end=False))).immediate_response.status.code == 413


def test_an_announced_length_that_fits_or_that_nobody_reads_is_no_matter() -> None:
    fits = engine(Upper, body_limit=4).session().receive(request_headers(pairs=[("content-length", "4")], end=False))
    unread = engine(Tag, body_limit=4).session().receive(request_headers(pairs=[("content-length", "5")], end=False))
    assert [parse(reply).WhichOneof("response") for reply in (fits, unread)] == ["request_headers"] * 2


def test_a_decompression_bomb_is_refused() -> None:
    session = engine(Upper, body_limit=1000).session()
    session.receive(request_headers(pairs=[("content-encoding", "gzip")], method="POST", end=False))
    bomb = gzip.compress(b"0" * 1_000_000)
    assert parse(session.receive(body("request", bomb))).immediate_response.status.code == 413


def test_an_undecodable_body_follows_the_failure_mode() -> None:
    for mode, expected in (("closed", "immediate_response"), ("open", "request_body")):
        session = engine(entry(Upper, failure_mode=mode), classes=[Upper]).session()
        session.receive(request_headers(pairs=[("content-encoding", "gzip")], method="POST", end=False))
        assert parse(session.receive(body("request", b"not gzip"))).WhichOneof("response") == expected


def test_a_body_envoy_never_sent_denies_a_closed_chain() -> None:
    session = engine(Upper).session()
    session.receive(request_headers(method="POST", end=False))
    reply = parse(session.receive(response_headers()))
    assert reply.immediate_response.status.code == 500


# -- streaming -------------------------------------------------------------------------------------------------------


class Stars(Policy):
    """Replaces bytes of a stream and ends it at a full stop."""

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> ChunkMutation | None:
        if b"." in chunk.data:
            return ChunkMutation(chunk.data.partition(b".")[0], end=True)
        return ChunkMutation(chunk.data.replace(b"x", b"*")) if b"x" in chunk.data else None


def streamed(static: int) -> Any:
    session = engine(Stars).session()
    reply = parse(session.receive(request_headers(body_modes=(0, static))))
    if static == ProcessingMode.FULL_DUPLEX_STREAMED:
        assert not reply.HasField("mode_override")  # Envoy takes none then
    else:
        assert reply.mode_override.response_body_mode == static
    session.receive(response_headers())
    return session


def test_streamed_chunks_are_answered_one_by_one() -> None:
    session = streamed(ProcessingMode.STREAMED)
    answers = [
        parse(session.receive(body("response", data, end=end))).response_body.response
        for data, end in ((b"axb", False), (b"cc", False), (b"d.e", False), (b"f", True))
    ]
    assert answers[0].body_mutation.body == b"a*b"
    assert not answers[1].HasField("body_mutation")
    assert answers[2].body_mutation.body == b"d"
    assert answers[3].body_mutation.clear_body


def test_full_duplex_chunks_are_forwarded_by_the_engine() -> None:
    session = streamed(ProcessingMode.FULL_DUPLEX_STREAMED)

    def send(data: bytes, *, end: bool) -> Any:
        return session.receive(body("response", data, end=end))

    piece = parse(send(b"axb", end=False)).response_body.response.body_mutation.streamed_response
    assert (piece.body, piece.end_of_stream) == (b"a*b", False)
    piece = parse(send(b"d.e", end=False)).response_body.response.body_mutation.streamed_response
    assert (piece.body, piece.end_of_stream) == (b"d", True)
    assert send(b"f", end=True) is None


def test_a_streaming_chain_buffers_where_envoy_does_not_stream() -> None:
    session = engine(Stars).session()
    reply = parse(session.receive(request_headers(body_modes=(0, 0))))
    assert reply.mode_override.response_body_mode == ProcessingMode.BUFFERED
    session.receive(response_headers())
    common = parse(session.receive(body("response", b"axb"))).response_body.response
    assert common.body_mutation.body == b"a*b"


def test_chunks_that_cross_an_immediate_response_are_no_protocol_error() -> None:
    class DenyMidway(Policy):
        def on_request_chunk(self, request: Request, chunk: Chunk) -> ImmediateResponse | None:
            return ImmediateResponse(403) if b"x" in chunk.data else None

    made = engine(DenyMidway)
    session = made.session()
    session.receive(request_headers(method="POST", end=False, body_modes=(ProcessingMode.FULL_DUPLEX_STREAMED, 0)))
    assert parse(session.receive(body("request", b"x"))).immediate_response.status.code == 403
    assert session.receive(body("request", b"y")) is None
    assert session.receive(trailers("request")) is None
    assert made.kernel.statistics.protocol_errors == 0


# -- trailers --------------------------------------------------------------------------------------------------------


def test_trailers_of_both_sides_can_be_changed() -> None:
    class Trail(Policy):
        def on_request_trailers(self, request: Request, trailers: Headers) -> TrailerMutation:
            return TrailerMutation(set_headers={"x-seen": trailers["x-t"]})

        def on_response_trailers(self, request: Request, response: Response, trailers: Headers) -> TrailerMutation:
            return TrailerMutation(remove_headers=("grpc-message",))

    session = engine(Trail).session()
    mode = parse(session.receive(request_headers(end=False))).mode_override
    assert (mode.request_trailer_mode, mode.response_trailer_mode) == (ProcessingMode.SEND, ProcessingMode.SEND)
    reply = parse(session.receive(trailers("request", [("x-t", "v")])))
    assert header_changes(reply.request_trailers.header_mutation)[0] == [("x-seen", b"v", False)]
    session.receive(response_headers())
    reply = parse(session.receive(trailers("response", [("grpc-message", "m")])))
    assert header_changes(reply.response_trailers.header_mutation)[1] == ["grpc-message"]


# -- routes (R-07) ---------------------------------------------------------------------------------------------------


def test_an_unmapped_route_is_denied_and_logged_with_near_keys(caplog: pytest.LogCaptureFixture) -> None:
    made = engine(Tag)
    made.activate(chains(checkout=[Tag]))
    assert first(made, route="chekout").immediate_response.status.code == 500
    assert "'chekout'" in caplog.text
    assert "checkout" in caplog.text
    assert first(made, route=None).immediate_response.status.code == 500


def test_an_unmapped_route_passes_when_the_operator_chose_so() -> None:
    made = engine(Tag, pass_unmapped=True)
    assert first(made, route="other").WhichOneof("response") == "request_headers"


def test_the_key_may_come_from_another_attribute() -> None:
    expression = "xds.route_metadata.filter_metadata['a']['b']"
    made = engine(Tag, route_key=RouteKey(["metadata:a:b"]))
    assert first(made, route=None, attributes={expression: "r"}).WhichOneof("response") == "request_headers"


def test_nothing_is_let_through_before_the_first_configuration() -> None:
    from policy_engine.kernel.kernel import Kernel
    from policy_engine.kernel.session import Session
    from policy_engine.kernel.stream import Peer

    assert parse(Session(Kernel(), Peer()).receive(request_headers())).immediate_response.status.code == 503


# -- sequence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "messages",
    [
        [b"\xff\xff"],
        [b""],
        [body("request", b"")],
        [trailers("response")],
        [request_headers(), request_headers()],
        [request_headers(), body("response", b"")],
        [request_headers(), response_headers(), response_headers()],
    ],
)
def test_messages_out_of_order_end_the_stream(messages: list[bytes]) -> None:
    session = engine(Tag).session()
    for message in messages[:-1]:
        session.receive(message)
    with pytest.raises(StreamError):
        session.receive(messages[-1])


def test_a_local_reply_of_envoy_passes_without_a_request() -> None:
    session = engine(Tag).session()
    assert parse(session.receive(response_headers(401))).WhichOneof("response") == "response_headers"


def test_the_last_stream_on_a_retired_chain_closes_its_policies() -> None:
    closed: list[str] = []

    class Held(Policy):
        def on_request_headers(self, request: Request) -> None:
            pass

        def on_stream_end(self, request: Request) -> None:
            closed.append("stream")

        def close(self) -> None:
            closed.append("policy")

    made = engine(Held, classes=[Tag])
    session, idle = made.session(), made.session()
    session.receive(request_headers())
    made.activate(chains(r=[Tag]))
    assert closed == []
    session.close()
    session.close()
    idle.close()
    assert closed == ["stream", "policy"]
    assert made.kernel.statistics.active == 0
