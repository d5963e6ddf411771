"""Entries in shadow: whatever they do, nothing of the exchange changes, and what they wanted is counted (R-27)."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import Iterable
from typing import Any, ClassVar

import pytest

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
from policy_engine.sdk.repeated_lines import RepeatedLines
from policy_engine.worker.chains import shadow as module
from policy_engine.worker.chains.shadow import OwnMetadata
from policy_engine.worker.chains.spec import ChainsSpec, Mode, RouteSpec
from policy_engine.worker.chains.statistics import Wanted
from testsupport.chains import Engine, engine, entry, settle
from testsupport.envoy_messages import (
    ProcessingMode,
    body,
    parse,
    request_headers,
    response_headers,
    trailers,
)


class Meddles(Policy):
    """Wants something in every phase, and writes wherever it can."""

    def __init__(self, parameters: Any) -> None:
        self.answers = parameters.get("answers", False)
        self.fails = parameters.get("fails", False)
        self.metadata_seen: list[Any] = []

    def _act(self, request: Request, mutation: Any) -> Any:
        request.metadata["mine"] = "written"
        request.metadata.setdefault("list", []).append("meddled")
        request.metadata.pop("shared", None)
        request.body = b"meddled"
        if self.fails:
            raise RuntimeError("no")
        return ImmediateResponse(403, "no") if self.answers else mutation

    def on_request_headers(self, request: Request) -> Any:
        return self._act(
            request, RequestMutation(set_headers={"x-m": "1"}, path="/m", dynamic_metadata={"a": {"b": 1}})
        )

    def on_request_body(self, request: Request) -> Any:
        return self._act(request, RequestMutation(body=b"other"))

    def on_request_trailers(self, request: Request, trailers: Headers) -> TrailerMutation:
        return TrailerMutation(set_headers={"x-t": "1"})

    def on_response_headers(self, request: Request, response: Response) -> Any:
        response.body = b"meddled"
        assert request.metadata["mine"] == "written", "it finds what it wrote itself"
        return self._act(request, ResponseMutation(status=500))

    def on_response_body(self, request: Request, response: Response) -> Any:
        return self._act(request, ResponseMutation(body=b"other"))

    def on_response_trailers(self, request: Request, response: Response, trailers: Headers) -> TrailerMutation:
        return TrailerMutation(remove_headers=["x-end"])


class Later(Meddles):
    """The same, after a wait."""

    async def on_request_headers(self, request: Request) -> Any:
        await asyncio.sleep(0)
        return super().on_request_headers(request)


class Looks(Policy):
    """Writes down all that can be seen of an exchange; it is around the shadows, so that it sees what they leave."""

    seen: ClassVar[list[Any]] = []

    def on_request_headers(self, request: Request) -> None:
        Looks.seen.append((request.target, dict(request.headers.items()), dict(request.metadata), request.body))
        request.metadata["shared"] = "kept"
        request.metadata["list"] = ["one"]

    def on_response_headers(self, request: Request, response: Response) -> None:
        Looks.seen.append(
            (request.target, dict(request.headers.items()), dict(request.metadata), request.body, response.status)
        )

    def on_stream_end(self, request: Request) -> None:
        Looks.seen.append(dict(request.metadata))


class ReadsBody(Policy):
    def on_request_body(self, request: Request) -> None:
        Looks.seen.append(request.body)

    def on_response_body(self, request: Request, response: Response) -> None:
        Looks.seen.append(response.body)


class Streams(Policy):
    def on_request_chunk(self, request: Request, chunk: Chunk) -> ChunkMutation:
        return ChunkMutation(chunk.data.upper(), chunk.end)


class StreamsToo(Policy):
    def on_request_chunk(self, request: Request, chunk: Chunk) -> ImmediateResponse:
        return ImmediateResponse(403)

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> ChunkMutation:
        return ChunkMutation(b"", end=True)


def shadow(policy_class: type[Policy], **more: Any) -> Any:
    return entry(policy_class, mode=Mode.SHADOW, **more)


MESSAGES = (
    request_headers(end=False, method="POST"),
    body("request", b"sent"),
    response_headers(200),
    body("response", b"answered"),
)


def exchange(made: Engine, messages: Iterable[bytes] = MESSAGES) -> tuple[list[Any], list[Any]]:
    """The replies, and what the policies around saw."""
    Looks.seen.clear()
    session = made.session()
    replies = [parse(settle(session.receive(one))) for one in messages]
    for reply in replies:
        reply.ClearField("mode_override")
    session.close()
    return replies, list(Looks.seen)


def wanted(made: Engine, name: str) -> dict[Wanted, int]:
    return made.compiler.statistics["r", name, "v1.0.0"].wanted or {}


AROUND = (entry(Looks), entry(ReadsBody))


@pytest.mark.parametrize("kind", [Meddles, Later])
@pytest.mark.parametrize("does", [{}, {"answers": True}, {"fails": True}])
@pytest.mark.parametrize("failure_mode", ["open", "closed"])
def test_nothing_of_an_exchange_changes(kind: type[Policy], does: dict[str, bool], failure_mode: str) -> None:
    one = shadow(kind, parameters=does, failure_mode=failure_mode)
    without = exchange(engine(*AROUND, classes=[Looks, ReadsBody]))
    made = engine(AROUND[0], one, AROUND[1], one, classes=[Looks, ReadsBody, kind])
    assert exchange(made) == without
    expected = Wanted.FAILURE if does.get("fails") else Wanted.ANSWER if does.get("answers") else Wanted.CHANGE
    statistics = made.compiler.statistics["r", kind.__name__.lower(), "v1.0.0"]
    assert wanted(made, kind.__name__.lower()) == {**dict.fromkeys(Wanted, 0), expected: 8}
    assert (statistics.short_circuits, sum(statistics.failures.values())) == (0, 0)
    assert made.kernel.statistics.immediate == 0


@pytest.mark.parametrize("kind", [Meddles, Later])
def test_alone_in_a_chain_it_changes_nothing_either(kind: type[Policy]) -> None:
    made = engine(shadow(kind, parameters={"answers": True}), classes=[kind])
    without, _ = exchange(engine(entry(Nothing), classes=[Nothing]))
    replies, _ = exchange(made)
    assert replies == without
    assert wanted(made, kind.__name__.lower())[Wanted.ANSWER] == 4


class Nothing(Policy):
    """Looks at everything and wants nothing."""

    def on_request_headers(self, request: Request) -> None: ...

    def on_request_body(self, request: Request) -> None: ...

    def on_request_trailers(self, request: Request, trailers: Headers) -> None: ...

    def on_response_headers(self, request: Request, response: Response) -> None: ...

    def on_response_body(self, request: Request, response: Response) -> None: ...

    def on_response_trailers(self, request: Request, response: Response, trailers: Headers) -> None: ...


def test_trailers_stay_as_they_are() -> None:
    messages = [
        request_headers(end=False),
        body("request", b"sent", end=False),
        trailers("request", [("x-end", "1")]),
        response_headers(200),
        body("response", b"answered", end=False),
        trailers("response", [("x-end", "1")]),
    ]
    expected, _ = exchange(engine(entry(Nothing), classes=[Nothing]), messages)
    assert exchange(engine(shadow(Meddles), classes=[Meddles]), messages)[0] == expected


@pytest.mark.parametrize(
    "data", [b"x" * 101, gzip.compress(b"x" * 101, mtime=0), b"no gzip at all"], ids=["long", "bomb", "none"]
)
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_a_body_that_cannot_be_read_goes_on(data: bytes, coding: str) -> None:
    made = engine(shadow(Meddles, parameters={"answers": True}), classes=[Meddles], body_limit=100)
    headers = [("content-length", str(len(data))), ("content-encoding", coding)]
    for side, opening in (("request", request_headers(pairs=headers, end=False)), ("response", None)):
        messages = [opening, body(side, data)] if opening else [response_headers(200, headers), body(side, data)]
        replies, _ = exchange(made, messages if opening else [request_headers(), *messages])
        assert all(reply.WhichOneof("response") != "immediate_response" for reply in replies)
        assert not getattr(replies[-1], f"{side}_body").response.HasField("body_mutation")


SIZED = [("content-length", "100")]
TOO_LARGE = [("content-length", "101")]
EVENTS = [("content-type", "text/event-stream")]


@pytest.mark.parametrize(
    ("headers", "mode"),
    [
        (SIZED, ProcessingMode.BUFFERED),
        (TOO_LARGE, ProcessingMode.NONE),
        ([("content-length", "1" * 50)], ProcessingMode.NONE),
        ([], ProcessingMode.BUFFERED_PARTIAL),
        (EVENTS, ProcessingMode.NONE),
        ([*EVENTS, *SIZED], ProcessingMode.BUFFERED),
    ],
)
def test_a_body_comes_as_its_length_allows(headers: list[tuple[str, str]], mode: int) -> None:
    session = engine(shadow(Meddles), classes=[Meddles], body_limit=100).session()
    first = parse(session.receive(request_headers(end=False, pairs=headers)))
    assert first.mode_override.request_body_mode == mode
    assert first.mode_override.response_body_mode == ProcessingMode.NONE
    answer = parse(session.receive(response_headers(200, headers)))
    assert answer.mode_override.response_body_mode == mode


def test_of_a_body_over_its_buffer_envoy_may_send_a_part() -> None:
    made = engine(shadow(Meddles, parameters={"answers": True}), classes=[Meddles])
    session = made.session()
    session.receive(request_headers(end=False))
    reply = parse(session.receive(body("request", b"x" * 100, end=False)))
    assert reply.WhichOneof("response") == "request_body"
    assert wanted(made, "meddles")[Wanted.ANSWER] == 1, "the headers; of part of a body nothing can be said"


def test_what_an_entry_that_acts_needs_is_asked_for_as_ever() -> None:
    session = engine(shadow(Meddles), entry(ReadsBody), classes=[Meddles, ReadsBody]).session()
    first = parse(session.receive(request_headers(end=False)))
    assert first.mode_override.request_body_mode == ProcessingMode.BUFFERED
    assert first.mode_override.response_body_mode == ProcessingMode.BUFFERED


def test_a_websocket_is_not_held_for_it() -> None:
    made = engine(shadow(Meddles), classes=[Meddles])
    opening = request_headers(pairs=[("connection", "upgrade"), ("upgrade", "websocket")], end=False)
    reply = parse(made.session().receive(opening))
    assert reply.mode_override.request_body_mode == ProcessingMode.NONE
    assert reply.WhichOneof("response") == "request_headers"


DUPLEX = (int(ProcessingMode.FULL_DUPLEX_STREAMED),) * 2


def test_what_others_stream_stays_a_stream_and_is_collected_for_it() -> None:
    made = engine(entry(Streams), shadow(Meddles), classes=[Streams, Meddles])
    messages = [
        request_headers(end=False, body_modes=DUPLEX),
        body("request", b"abc", end=False),
        body("request", b"def"),
    ]
    replies, _ = exchange(made, messages)
    pieces = [one.request_body.response.body_mutation.streamed_response.body for one in replies[1:]]
    assert pieces == [b"ABC", b"DEF"]
    assert wanted(made, "meddles")[Wanted.CHANGE] == 2, "headers, and the collected body once"


def test_collecting_ends_at_the_limit() -> None:
    made = Engine([Streams, ReadsBody])
    made.activate(ChainsSpec((RouteSpec("r", (entry(Streams), shadow(ReadsBody)), body_limit=10),)))
    messages = [request_headers(end=False, body_modes=DUPLEX), *(body("request", b"x" * 8, end=False),) * 3]
    _, seen = exchange(made, [*messages, body("request", b"")])
    assert seen == []


def test_streams_that_shadows_alone_read_pass_unchanged() -> None:
    made = engine(shadow(StreamsToo), classes=[StreamsToo])
    messages = [
        request_headers(end=False, body_modes=DUPLEX),
        body("request", b"abc", end=False),
        body("request", b"def"),
        response_headers(200),
        body("response", b"ghi", end=False),
        body("response", b"jkl"),
    ]
    replies, _ = exchange(made, messages)
    pieces = [
        getattr(one, side).response.body_mutation.streamed_response.body
        for one, side in zip([*replies[1:3], *replies[4:]], ["request_body"] * 2 + ["response_body"] * 2, strict=True)
    ]
    assert pieces == [b"abc", b"def", b"ghi", b"jkl"]
    assert wanted(made, "streamstoo") == {Wanted.ANSWER: 2, Wanted.CHANGE: 2, Wanted.FAILURE: 0}


@pytest.fixture
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line has been logged yet."""
    monkeypatch.setattr(module, "repeated", RepeatedLines(module.logger))


@pytest.mark.usefixtures("fresh_log")
def test_the_log_says_what_it_would_have_done_and_no_value(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "policy_engine.worker"):
        exchange(engine(shadow(Meddles), classes=[Meddles]))
        exchange(engine(shadow(Meddles, parameters={"answers": True}), classes=[Meddles]))
        exchange(engine(shadow(Meddles, parameters={"fails": True}), classes=[Meddles]))
    text = caplog.text
    assert "policy meddles v1.0.0, in shadow, would have changed header x-m, path, dynamic metadata" in text
    assert "would have answered with 403" in text
    assert "would have failed (exception): RuntimeError" in text
    assert "/m" not in text


@pytest.mark.usefixtures("fresh_log")
def test_the_log_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    made = engine(shadow(Meddles, parameters={"answers": True}), classes=[Meddles])
    with caplog.at_level(logging.INFO, "policy_engine.worker"):
        for _ in range(200):
            made.session().receive(request_headers("r"))
    assert len(caplog.records) < 30
    assert wanted(made, "meddles")[Wanted.ANSWER] == 400, "for headers, and for a body that is empty"


def test_metadata_of_its_own() -> None:
    base: dict[str, Any] = {"a": 1, "deep": {"list": [1]}, "gone": 2}
    own = OwnMetadata(base)
    own["b"] = 3
    own["deep"]["list"].append(2)
    del own["gone"]
    assert dict(own) == {"a": 1, "b": 3, "deep": {"list": [1, 2]}}
    assert (len(own), "gone" in own, own.get("gone"), own.pop("gone", 5)) == (3, False, None, 5)
    with pytest.raises(KeyError):
        del own["gone"]
    base["later"] = 4
    own["gone"] = 6
    assert (own["later"], own["gone"]) == (4, 6)
    assert base == {"a": 1, "deep": {"list": [1]}, "gone": 2, "later": 4}
