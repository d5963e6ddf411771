"""What the policies before one that answers see of its answer, in every phase, and what they make of it."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from policy_engine.kernel.routes import Route
from policy_engine.sdk import (
    Chunk,
    ChunkMutation,
    Headers,
    ImmediateResponse,
    Parameters,
    Policy,
    Request,
    RequestMutation,
    Response,
    ResponseMutation,
    TrailerMutation,
)
from testsupport.chains import engine, entry, settle
from testsupport.envoy_messages import ProcessingMode, Reply, body, request_headers, response_headers, trailers

DUPLEX = ProcessingMode.FULL_DUPLEX_STREAMED
IDENTIFIED = [("x-request-id", "0b9e-77")]


class Outer(Policy):
    """Notes each response that it sees and marks it."""

    seen: list[Any] = []  # noqa: RUF012 - cleared before each test

    def __init__(self, parameters: Parameters) -> None:
        self._name = parameters.get("name", "outer")

    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation:
        Outer.seen.append((self._name, response.status, response.origin, response.headers.get("content-length")))
        return ResponseMutation(set_headers={f"x-{self._name}": "1"})


class Reader(Policy):
    """Looks at whole bodies and changes them."""

    seen: list[Any] = []  # noqa: RUF012

    def on_response_body(self, request: Request, response: Response) -> ResponseMutation:
        Reader.seen.append(response.body)
        return ResponseMutation(body=(response.body or b"").upper(), dynamic_metadata={"ns": {"read": True}})


class Waiting(Reader):
    """The same, awaited."""

    async def on_response_body(self, request: Request, response: Response) -> ResponseMutation:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().on_response_body(request, response)


class Streaming(Policy):
    """Takes bodies piece by piece only."""

    seen: list[Any] = []  # noqa: RUF012

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> ChunkMutation:
        Streaming.seen.append(chunk)
        return ChunkMutation(chunk.data + b"!")


class Trailing(Policy):
    """Must never see an answer."""

    def on_response_trailers(self, request: Request, response: Response, trailers: Headers) -> TrailerMutation:
        raise AssertionError("an answer has no trailers")


class Denies(Policy):
    """Answers where its parameters say."""

    def __init__(self, parameters: Parameters) -> None:
        self._at = parameters.get("at", "request_headers")
        self._answer = ImmediateResponse(
            **parameters.get("answer", {"status": 403, "body": "no"}), dynamic_metadata={"ns": {"denied": True}}
        )
        if parameters.get("packed"):
            headers = {"content-encoding": "gzip"}
            self._answer = replace(self._answer, body=gzip.compress(b"no"), headers=headers)
        self._raises = parameters.get("raises", False)
        body_hooks = {"request_body", "response_body"}
        self.idle_phases = {*body_hooks, "request_trailers", "response_headers"} - {self._at}

    def _act(self, at: str) -> Any:
        if at != self._at:
            return None
        if self._raises:
            raise RuntimeError("secret detail")
        return self._answer

    def on_request_headers(self, request: Request) -> Any:
        return self._act("request_headers")

    def on_request_body(self, request: Request) -> Any:
        return self._act("request_body")

    def on_request_trailers(self, request: Request, trailers: Headers) -> Any:
        return self._act("request_trailers")

    def on_response_headers(self, request: Request, response: Response) -> Any:
        return self._act("response_headers")

    def on_response_body(self, request: Request, response: Response) -> Any:
        return self._act("response_body")


class DeniesChunk(Policy):
    def on_request_chunk(self, request: Request, chunk: Chunk) -> ImmediateResponse:
        return ImmediateResponse(403, "no")


class Again(Policy):
    """Answers whatever it sees with another answer."""

    def on_response_headers(self, request: Request, response: Response) -> ImmediateResponse:
        return ImmediateResponse(451 if response.status == 403 else 500, "again", dynamic_metadata={"ns": {"again": 1}})


class Fails(Policy):
    def on_response_headers(self, request: Request, response: Response) -> None:
        raise RuntimeError("secret detail")


class Restates(Policy):
    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation:
        return ResponseMutation(status=404, remove_headers=["x-why"], append_headers=[("x-many", "2")])


class Gone(Policy):
    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation:
        return ResponseMutation(status=204)


class Replaces(Policy):
    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation:
        return ResponseMutation(body=b"replaced")


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    for policy in (Outer, Reader, Streaming):
        policy.seen.clear()


POLICIES = (Outer, Reader, Waiting, Streaming, Trailing, Denies, DeniesChunk, Again, Fails, Restates, Gone, Replaces)


def answer(*entries: Any, messages: Any = None, **options: Any) -> Any:
    """The immediate response that ends the stream, when these messages come."""
    session = engine(*entries, classes=POLICIES, **options).session()
    for message in messages or [request_headers(pairs=IDENTIFIED)]:
        replies = settle(session.receive(message))
    reply = Reply.FromString(replies)
    assert reply.HasField("immediate_response"), reply
    return reply


def headers(reply: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in reply.immediate_response.headers.set_headers:
        if not one.append.value:
            found[one.header.key] = []
        found.setdefault(one.header.key, []).append(one.header.raw_value.decode())
    return found


POST = request_headers(method="POST", pairs=IDENTIFIED, end=False)
AT: dict[str, list[bytes]] = {
    "request_headers": [request_headers(pairs=IDENTIFIED)],
    "request_body": [POST, body("request", b"data")],
    "request_trailers": [POST, body("request", b"data", end=False), trailers("request", [("x-t", "1")])],
    "response_headers": [request_headers(pairs=IDENTIFIED), response_headers(200)],
    "response_body": [request_headers(pairs=IDENTIFIED), response_headers(200), body("response", b"data")],
}


@pytest.mark.parametrize("at", AT)
@pytest.mark.parametrize("raises", [False, True], ids=["answers", "fails"])
def test_policies_before_it_see_an_answer_of_any_phase(at: str, *, raises: bool) -> None:
    if at == "request_trailers" and not raises:
        pytest.skip("a trailers hook cannot answer, it can only fail")
    inner = entry(Outer, parameters={"name": "inner"})
    denies = entry(Denies, parameters={"at": at, "raises": raises})
    reply = answer(Outer, denies, inner, messages=AT[at])
    status = 500 if raises else 403
    length = str(len(reply.immediate_response.body))
    assert reply.immediate_response.status.code == status
    assert headers(reply)["x-outer"] == ["1"]
    assert headers(reply)["x-request-id"] == ["0b9e-77"]
    assert "x-inner" not in headers(reply)
    assert [one for one in Outer.seen if one[2] == "policy"] == [("outer", status, "policy", length)]


def test_innermost_first_and_each_sees_what_the_one_before_it_changed() -> None:
    first, last = entry(Outer, parameters={"name": "first"}), entry(Outer, parameters={"name": "last"})
    reply = answer(first, Restates, last, entry(Denies, parameters={"answer": {"status": 403, "body": "no"}}))
    assert [one[:2] for one in Outer.seen] == [("last", 403), ("first", 404)]
    assert reply.immediate_response.status.code == 404
    assert not any(one.header.key == ":status" for one in reply.immediate_response.headers.set_headers)


def test_header_changes_go_on_top_of_the_answers_own() -> None:
    own = {"status": 403, "body": "no", "headers": {"x-why": "deny", "x-many": "1"}}
    reply = answer(Restates, entry(Denies, parameters={"answer": own}))
    assert headers(reply)["x-many"] == ["1", "2"]
    assert "x-why" in reply.immediate_response.headers.remove_headers or "x-why" not in headers(reply)


@pytest.mark.parametrize("reader", [Reader, Waiting])
def test_body_hooks_read_and_change_the_body(reader: type[Policy]) -> None:
    reply = answer(reader, Denies)
    assert Reader.seen == [b"no"]
    assert reply.immediate_response.body == b"NO"
    assert reply.dynamic_metadata["ns"]["read"] is True
    assert reply.dynamic_metadata["ns"]["denied"] is True


def test_chunk_hooks_get_the_body_as_one_last_chunk() -> None:
    assert answer(Streaming, Denies).immediate_response.body == b"no!"
    assert Streaming.seen == [Chunk(b"no", end=True)]


def test_a_chunk_hook_gets_it_too_where_envoy_streams_requests() -> None:
    posted = request_headers(method="POST", end=False, body_modes=(DUPLEX, DUPLEX))
    reply = answer(Streaming, DeniesChunk, messages=[posted, body("request", b"x", end=False)])
    assert (reply.immediate_response.status.code, reply.immediate_response.body) == (403, b"no!")


def test_an_answer_after_the_response_went_out_is_shown_to_nobody() -> None:
    class Late(Policy):
        def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> None:
            raise RuntimeError

    made = engine(Outer, Late)
    session = made.session()
    session.receive(request_headers(body_modes=(DUPLEX, DUPLEX)))
    session.receive(response_headers(200))
    settle(session.receive(body("response", b"x", end=False)))
    assert [one[2] for one in Outer.seen] == ["upstream"]


def test_there_are_no_trailers() -> None:
    assert answer(Trailing, Denies).immediate_response.status.code == 403


def test_the_body_of_a_denial_without_one_is_seen_as_it_is_sent() -> None:
    reply = answer(Reader, entry(Denies, parameters={"answer": {"status": 403}}))
    assert json.loads(Reader.seen[0])["title"] == "Forbidden"
    assert reply.immediate_response.body == Reader.seen[0].upper()


@pytest.mark.parametrize(("status", "method"), [(204, "GET"), (304, "GET"), (403, "HEAD")])
def test_body_hooks_do_not_run_where_there_is_no_content(status: int, method: str) -> None:
    denies = entry(Denies, parameters={"answer": {"status": status, "body": ""}})
    reply = answer(Outer, Reader, denies, messages=[request_headers(method=method)])
    assert Reader.seen == []
    assert headers(reply)["x-outer"] == ["1"]


def test_a_status_without_content_takes_the_body_away() -> None:
    reply = answer(Gone, Denies)
    assert (reply.immediate_response.status.code, reply.immediate_response.body) == (204, b"")


def test_a_headers_hook_may_replace_the_body() -> None:
    assert answer(Replaces, Denies).immediate_response.body == b"replaced"
    assert answer(Reader, Replaces, Denies).immediate_response.body == b"REPLACED"


def test_a_compressed_body_is_read_as_text_and_sent_compressed_again() -> None:
    reply = answer(Reader, entry(Denies, parameters={"packed": True}))
    assert Reader.seen == [b"no"]
    assert gzip.decompress(reply.immediate_response.body) == b"NO"


@pytest.mark.parametrize(("mode", "status"), [("closed", 502), ("open", 403)])
def test_a_body_that_cannot_be_decoded_is_for_the_failure_mode(mode: str, status: int) -> None:
    odd = {"status": 403, "body": "no", "headers": {"content-encoding": "gzip"}}
    reply = answer(Outer, entry(Reader, failure_mode=mode), entry(Denies, parameters={"answer": odd}))
    assert reply.immediate_response.status.code == status
    assert headers(reply)["x-outer"] == ["1"]


def test_one_that_answers_again_is_seen_by_those_before_it_alone() -> None:
    first, last = entry(Outer, parameters={"name": "first"}), entry(Outer, parameters={"name": "last"})
    reply = answer(first, Again, last, Denies)
    assert Outer.seen == [("last", 403, "policy", "2"), ("first", 451, "policy", "5")]
    assert (reply.immediate_response.status.code, reply.immediate_response.body) == (451, b"again")
    assert "x-last" not in headers(reply)
    assert dict(reply.dynamic_metadata["ns"]) == {"denied": True, "again": 1.0}


def test_many_that_answer_again_come_to_an_end() -> None:
    reply = answer(*[Again] * 20, Denies)
    assert (reply.immediate_response.status.code, reply.immediate_response.body) == (500, b"again")


@pytest.mark.parametrize(("mode", "status"), [("closed", 500), ("open", 403)])
def test_one_that_fails_is_for_its_failure_mode(mode: str, status: int) -> None:
    reply = answer(Outer, entry(Fails, failure_mode=mode), Denies)
    assert reply.immediate_response.status.code == status
    assert b"secret" not in reply.immediate_response.body
    assert headers(reply)["x-outer"] == ["1"]


def test_refusals_of_the_engine_are_seen_once_the_request_was() -> None:
    large = request_headers(method="POST", pairs=[*IDENTIFIED, ("content-length", "100")], end=False)
    reads = entry(Denies, parameters={"at": "request_body"})
    reply = answer(Outer, reads, messages=[large], body_limit=10)
    assert (reply.immediate_response.status.code, headers(reply)["x-outer"]) == (413, ["1"])
    many = response_headers(200, [(f"x-{number}", "1") for number in range(30)])
    reply = answer(Outer, messages=[request_headers(), many], header_count=20)
    assert (reply.immediate_response.status.code, headers(reply)["x-outer"]) == (502, ["1"])


UPGRADE = request_headers(pairs=[("connection", "upgrade"), ("upgrade", "websocket")], end=False)


def test_a_body_without_end_is_refused_after_the_headers_were_judged() -> None:
    reads = entry(Denies, parameters={"at": "request_body"})
    reply = answer(Outer, reads, entry(Outer, parameters={"name": "inner"}), messages=[UPGRADE])
    assert (reply.immediate_response.status.code, headers(reply)["x-outer"]) == (501, ["1"])
    assert "x-inner" not in headers(reply)
    assert answer(reads, Denies, messages=[UPGRADE]).immediate_response.status.code == 403


def test_who_may_not_send_a_body_is_not_told_how_large_it_may_be() -> None:
    large = request_headers(method="POST", pairs=[("content-length", "100")], end=False)
    reads = entry(Denies, parameters={"at": "request_body"})
    assert answer(Denies, reads, messages=[large], body_limit=10).immediate_response.status.code == 403


@pytest.mark.parametrize(
    ("condition", "marked"),
    [
        ('response.origin == "policy"', True),
        ('response.origin == "upstream"', False),
        ("response.status == 403", True),
        ("response.status == 200", False),
        ('request.path == "/"', True),
    ],
)
@pytest.mark.parametrize("at", ["request_headers", "response_body"])
def test_conditions_are_about_the_answer(condition: str, at: str, *, marked: bool) -> None:
    outer = entry(Outer, condition=condition)
    reply = answer(outer, entry(Denies, parameters={"at": at}), messages=AT[at])
    assert ("x-outer" in headers(reply)) is marked


def test_a_condition_on_the_request_stays_decided() -> None:
    class Moves(Policy):
        def on_request_headers(self, request: Request) -> RequestMutation:
            return RequestMutation(path="/moved")

    class Both(Outer):
        def on_request_headers(self, request: Request) -> None:
            return None

    made = engine(entry(Both, condition='request.path == "/"'), Moves, Denies, classes=[Both])
    reply = Reply.FromString(settle(made.session().receive(request_headers())))
    assert headers(reply)["x-outer"] == ["1"]


def test_without_response_hooks_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    steps: Callable[..., Any] = Route.outer_steps

    def noting(route: Route, before: int) -> Any:
        found = steps(route, before)
        asked.append(before)
        assert found is None
        return found

    monkeypatch.setattr(Route, "outer_steps", noting)
    assert answer(entry(Denies, parameters={"answer": {"status": 401}})).immediate_response.status.code == 401
    assert asked == [0]
