"""What a recorded stream tells, and that what nobody records is untouched."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from policy_engine.explain.http_text import HttpRequest, HttpResponse
from policy_engine.explain.live import Filter, LiveTrace
from policy_engine.explain.playing import answering, play
from policy_engine.explain.record import Decision, ExchangeRecord, HookRecord, Verdict
from policy_engine.explain.recorder import MOST_STREAMS, Ended, Recorder, Wanted
from policy_engine.explain.recording import MOST_HOOKS
from policy_engine.explain.text import render, render_line
from policy_engine.kernel.stream import Peer, StreamError
from policy_engine.kit import messages
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
from policy_engine.worker.chains.spec import WHOLE, AnyOf, PolicySpec, Share
from testsupport.chains import Engine, chains, engine, entry, settle
from testsupport.envoy_messages import body, request_headers, response_headers

ROUTE = "r"


def played(made: Engine, request: HttpRequest | None = None, response: HttpResponse | None = None) -> ExchangeRecord:
    given = request or HttpRequest("POST", "/x?token=private", headers=(("x-a", "1"),), body=b"{}", route=ROUTE)
    return asyncio.run(play(made.kernel, given, answering(response or HttpResponse())))


def hooks(record: ExchangeRecord) -> list[tuple[str, str, Decision]]:
    return [(one.policy, one.hook, one.decision) for one in record.hooks]


class Changing(Policy):
    def on_request_headers(self, request: Request) -> RequestMutation:
        request.metadata["seen"] = {"by": "changing"}
        return RequestMutation(
            set_headers={"x-new": "1", "X-A": "2"},
            append_headers=[("x-b", "3")],
            remove_headers=["accept", "x-not-there"],
            path="/y",
            dynamic_metadata={"ns": {"k": 1}},
        )

    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation:
        return ResponseMutation(status=201, body=b"longer")


class Waiting(Policy):
    async def on_request_body(self, request: Request) -> RequestMutation:
        await asyncio.sleep(0)
        return RequestMutation(body=b"{}!")


class Denying(Policy):
    def on_request_headers(self, request: Request) -> ImmediateResponse:
        return ImmediateResponse(403, "no", {"x-why": "none"}, details="not_you")


class Answering(Policy):
    def on_request_headers(self, request: Request) -> ImmediateResponse:
        return ImmediateResponse(204)


class Raising(Policy):
    def on_request_headers(self, request: Request) -> None:
        raise KeyError("what")


class Wrong(Policy):
    def on_request_headers(self, request: Request) -> Any:
        return "no action"


class Late(Policy):
    async def on_request_headers(self, request: Request) -> None:
        await asyncio.sleep(60)


class Idle(Policy):
    def on_request_headers(self, request: Request) -> None:
        """Do nothing."""


def test_changes_are_shown_as_differences() -> None:
    record = played(engine(Changing), HttpRequest(headers=(("x-a", "1"), ("accept", "a"), ("x-b", "2")), route=ROUTE))
    first, last = record.hooks
    found = {one.what: (one.before, one.after) for one in first.changes}
    assert found == {
        "header accept": ("a", None),
        "header x-new": (None, "1"),
        "header x-a": ("1", "2"),
        "header x-b": ("2", "2, 3"),
        "path": ("/", "/y"),
        "dynamic metadata ns k": (None, "1"),
        "metadata seen": (None, '{"by": "changing"}'),
    }
    assert {one.what: (one.before, one.after) for one in last.changes} == {
        "status": ("200", "201"),
        "body": (None, "6 bytes"),
    }
    assert record.verdict is Verdict.PASSED
    assert record.status == 201
    assert dict(record.sent.headers)[":path"] == "/y"  # type: ignore[union-attr] # it was sent
    assert record.answer.body == "longer"  # type: ignore[union-attr] # it was answered
    assert record.metadata == {"ns": {"k": 1}}


def test_modes_asked_bodies_and_times() -> None:
    record = played(engine(Waiting))
    assert record.modes["request_body_mode"] == "BUFFERED"
    assert record.modes["response_header_mode"] == "SKIP"
    assert record.request.body == "{}"  # type: ignore[union-attr] # it came
    assert record.sent.body == "{}!"  # type: ignore[union-attr] # it was sent
    assert record.hooks[0].milliseconds is not None
    assert any("did not come" in note for note in record.notes)


@pytest.mark.parametrize(
    ("made", "verdict", "status", "decision", "reason"),
    [
        (lambda: engine(Denying), Verdict.DENIED, 403, Decision.DENIED, "not_you"),
        (lambda: engine(Answering), Verdict.ANSWERED, 204, Decision.ANSWERED, ""),
        (lambda: engine(Raising), Verdict.FAILED, 500, Decision.FAILED, "policy_failed:raising_v1.0.0"),
        (lambda: engine(Wrong), Verdict.FAILED, 500, Decision.FAILED, "policy_failed:wrong_v1.0.0"),
        (
            lambda: engine(entry(Late, timeout=0.05), classes=[Late]),
            Verdict.FAILED,
            500,
            Decision.FAILED,
            "policy_failed:late_v1.0.0",
        ),
    ],
)
def test_who_ended_the_request(
    made: Callable[[], Engine], verdict: Verdict, status: int, decision: Decision, reason: str
) -> None:
    record = played(made())
    assert (record.verdict, record.status, record.reason) == (verdict, status, reason)
    assert record.hooks[-1].decision is decision
    assert (record.policy, record.hook) == (record.hooks[-1].policy, "on_request_headers")
    assert record.sent is None


@pytest.mark.parametrize(("policy", "kind"), [(Raising, "exception"), (Wrong, "invalid_action"), (Late, "timeout")])
def test_what_fails_open_is_told_and_passes(policy: type[Policy], kind: str) -> None:
    made = engine(entry(policy, failure_mode="open", timeout=0.05), Idle, classes=[policy])
    record = played(made)
    assert record.verdict is Verdict.PASSED
    assert [one.decision for one in record.hooks] == [Decision.FAILED_OPEN, Decision.PASSED]
    assert record.hooks[0].failure == kind


def conditional(condition: str, **how: Any) -> Engine:
    return engine(entry(Denying, condition=condition, **how), classes=[Denying])


def test_a_condition_is_shown_with_its_parts() -> None:
    record = played(conditional('request.method == "GET" && request.headers["x-a"] == "1"'))
    assert record.verdict is Verdict.PASSED
    (hook,) = record.hooks
    assert hook.decision is Decision.SKIPPED
    assert hook.condition is not None
    assert hook.condition.result is False
    assert [(part.text, part.value) for part in hook.condition.parts] == [
        ('request.method == "GET"', False),
        ("request.method", "POST"),
        ('request.headers["x-a"] == "1"', True),
        ('request.headers["x-a"]', "1"),
    ]


def test_a_condition_that_fails_is_told() -> None:
    record = played(conditional('int(request.headers["x-none"]) > 1'))
    (hook,) = record.hooks
    assert (record.verdict, hook.decision, hook.failure) == (Verdict.FAILED, Decision.FAILED, "condition")
    assert hook.condition is not None
    assert (hook.condition.result, hook.condition.error) == (None, "condition failed: no such key in a map")


def test_no_part_of_a_condition_shows_a_credential() -> None:
    text = (
        'request.headers["authorization"] == "x" || request.query_string.contains("zz") || '
        'request.query["token"] == "y" || request.headers.map(h, request.headers[h]) == [] || request.target == "z"'
    )
    given = HttpRequest(target="/x?token=private", headers=(("authorization", "Bearer private"),), route=ROUTE)
    record = played(conditional(text), given)
    assert "private" not in str(record.as_document())
    assert {part.text for part in record.hooks[0].condition.parts} >= {'request.headers["authorization"]'}  # type: ignore[union-attr] # it has one


def test_the_engines_own_refusals() -> None:
    made = engine(Idle)
    record = played(made, HttpRequest(route="no-such"))
    assert (record.verdict, record.policy, record.reason) == (Verdict.DENIED, "", "policy_engine:unmapped_route")
    assert record.hooks == []


def test_the_same_is_counted_for_recorded_streams() -> None:
    made = engine(Denying)
    played(made)
    statistics = made.compiler.statistics["r", "denying", "v1.0.0"]
    assert (statistics.runs, statistics.short_circuits) == (1, 1)
    assert made.kernel.statistics.immediate == 1
    assert made.kernel.requests_by_route() == {"r": 1}
    assert made.kernel.snapshot is not None
    assert made.kernel.snapshot.chains["r"].usage.streams == 0


@dataclass
class Watching:
    """Wants the requests of some routes."""

    routes: tuple[str, ...] = (ROUTE,)
    watching: bool = True
    ended: list[Ended] = field(default_factory=list)
    lost: int = 0

    def wants(self, request: Request) -> Wanted | None:
        return Wanted(self.ended.append) if request.route in self.routes else None

    def dropped(self) -> None:
        self.lost += 1


def recorder(made: Engine, watcher: Watching) -> Recorder:
    found = Recorder(made.kernel, (watcher,))
    found.refresh()
    return found


def test_nobody_is_recorded_while_nobody_watches() -> None:
    made, watcher = engine(Denying), Watching(watching=False)
    assert not recorder(made, watcher).active
    assert recorder(made, Watching()).active


def test_a_stream_that_nobody_wants_runs_as_any_other() -> None:
    made, watcher = engine(Denying), Watching(routes=())
    session = recorder(made, watcher).handler(Peer())
    plain = made.session()
    message = request_headers(ROUTE, [("x-request-id", "1")])
    assert session.receive(message) == plain.receive(message)
    session.close()
    assert watcher.ended == []


def test_replies_of_a_recorded_stream_are_those_of_any_other() -> None:
    made, watcher = engine(Changing, Waiting), Watching()
    for session in (recorder(made, watcher).handler(Peer()),):
        plain = made.session()
        for message in (
            request_headers(ROUTE, [("x-request-id", "1")], method="POST", end=False),
            body("request", b"{}", end=True),
        ):
            assert settle(session.receive(message)) == settle(plain.receive(message))
        session.close()
        plain.close()
    assert hooks(watcher.ended[0].record) == [
        ("changing", "on_request_headers", Decision.CHANGED),
        ("waiting", "on_request_body", Decision.CHANGED),
    ]


def test_too_many_streams_at_once_are_dropped_and_counted() -> None:
    made, watcher = engine(Waiting), Watching()
    made_by = recorder(made, watcher)
    message = request_headers(ROUTE, [], method="POST")
    sessions = [made_by.handler(Peer()) for _ in range(MOST_STREAMS + 2)]
    for one in sessions:
        one.receive(message)
    assert watcher.lost == 2
    for one in sessions:
        one.close()
    assert made_by.open == 0
    assert len(watcher.ended) == MOST_STREAMS


def test_a_new_configuration_is_recorded_too() -> None:
    made, watcher = engine(Denying, classes=[Answering]), Watching()
    made_by = recorder(made, watcher)
    first = made_by.handler(Peer())
    first.receive(request_headers(ROUTE, []))
    made.activate(chains(r=[Answering]))
    second = made_by.handler(Peer())
    second.receive(request_headers(ROUTE, []))
    for one in (first, second):
        one.close()
    assert [one.record.status for one in watcher.ended] == [403, 204]


def test_a_broken_stream_is_told() -> None:
    made, watcher = engine(Waiting), Watching()
    session = recorder(made, watcher).handler(Peer())
    session.receive(request_headers(ROUTE, [], method="POST"))
    with pytest.raises(StreamError):
        session.receive(request_headers(ROUTE, [], method="POST"))
    session.close()
    assert watcher.ended[0].record.verdict is Verdict.FAILED


def test_rubbish_is_refused_as_without_a_recorder() -> None:
    made = engine(Denying)
    for message in (b"\xff\xff", b"", body("request", b"x", end=True)):
        session = recorder(made, Watching()).handler(Peer())
        plain = made.session()
        with pytest.raises(StreamError) as mine:
            session.receive(message)
        with pytest.raises(StreamError) as theirs:
            plain.receive(message)
        assert mine.value.message == theirs.value.message
        session.close()


class Chunks(Policy):
    def on_request_chunk(self, request: Request, chunk: Chunk) -> ChunkMutation:
        return ChunkMutation(chunk.data.upper())


def test_of_a_long_stream_a_bounded_number_of_hooks_is_shown() -> None:
    made, watcher = engine(Chunks), Watching()
    session = recorder(made, watcher).handler(Peer())
    session.receive(request_headers(ROUTE, [], method="POST", end=False, body_modes=(4, 4)))
    for _ in range(MOST_HOOKS + 10):
        session.receive(body("request", b"a", end=False))
    session.close()
    record = watcher.ended[0].record
    assert len(record.hooks) == MOST_HOOKS
    assert "10 more calls of hooks are not shown" in record.notes


class Secretive(Policy):
    def __init__(self, parameters: Any) -> None:
        self.credentials = ("x-partner",)
        self._value = parameters["value"]

    def on_request_headers(self, request: Request) -> RequestMutation:
        return RequestMutation(set_headers={"x-upstream": self._value})


def test_what_policies_and_chains_declare_secret_is_masked() -> None:
    spec = PolicySpec("secretive", "v1", parameters={"value": "hidden-value"}, secrets=frozenset({"/value"}))
    made = engine(spec, classes=[Secretive])
    record = played(made, HttpRequest(headers=(("x-partner", "private"),), route=ROUTE))
    text = str(record.as_document())
    assert "hidden-value" not in text
    assert "private" not in text
    assert "x-upstream" in text


class Apart(Policy):
    """Two requests at once do not mix their records."""

    async def on_request_headers(self, request: Request) -> RequestMutation:
        await asyncio.sleep(0.01 if request.path == "/a" else 0)
        return RequestMutation(set_headers={"x-path": request.path})


def test_requests_at_the_same_time_have_records_of_their_own() -> None:
    made = engine(Apart)

    async def both() -> list[ExchangeRecord]:
        plays: list[Awaitable[ExchangeRecord]] = [
            play(made.kernel, HttpRequest(target=path, route=ROUTE), answering(HttpResponse())) for path in ("/a", "/b")
        ]
        return list(await asyncio.gather(*plays))

    for record, path in zip(asyncio.run(both()), ("/a", "/b"), strict=True):
        assert [change.after for change in record.hooks[0].changes] == [path]


def test_a_record_is_json_and_says_only_what_there_is() -> None:
    document = HookRecord("p", "v1", 0, "on_request_headers").__class__
    assert document is HookRecord
    found = played(engine(Idle)).as_document()
    assert "reason" not in found
    assert found["hooks"][0]["decision"] == "passed"


class Door(Policy):
    """Lets in who shows its header; fails for `raise`."""

    def __init__(self, parameters: Any) -> None:
        self._header = parameters["header"]

    def on_request_headers(self, request: Request) -> ImmediateResponse | None:
        shown = request.headers.get(self._header)
        if shown == "raise":
            raise RuntimeError("no store")
        return None if shown else ImmediateResponse(401, details=f"{self._header}_missing")


def doors(**first: Any) -> Engine:
    group = AnyOf(0)
    return engine(
        entry(Door, parameters={"header": "x-first"}, any_of=group, **first),
        entry(Door, parameters={"header": "x-second"}, any_of=group),
        entry(Door, parameters={"header": "x-third"}, any_of=group, condition='request.method == "GET"'),
        classes=[Door],
    )


def shown_at(made: Engine, *names: str) -> ExchangeRecord:
    return played(made, HttpRequest("POST", "/", headers=tuple((name, "1") for name in names), route=ROUTE))


def test_alternatives_refuse_and_the_group_denies() -> None:
    record = shown_at(doors())
    assert [(one.policy, one.decision) for one in record.hooks] == [
        ("door", Decision.REFUSED),
        ("door", Decision.REFUSED),
        ("door", Decision.SKIPPED),
        ("any_of", Decision.DENIED),
    ]
    assert record.hooks[2].condition is not None
    assert (record.verdict, record.policy, record.version) == (Verdict.DENIED, "any_of", "")
    text = render(record.as_document())
    assert "any_of  on_request_headers: denied with 401" in text
    assert "DENIED with 401 by any_of (on_request_headers): any_of:x-first_missing+x-second_missing" in text
    assert "when" not in text.partition("3. door")[0]
    assert "by any_of (on_request_headers)" in render_line(record.as_document())


def test_an_alternative_that_lets_in_is_told_and_those_after_it() -> None:
    record = shown_at(doors(), "x-first")
    assert record.verdict is Verdict.PASSED
    assert [one.decision for one in record.hooks] == [
        Decision.PASSED, Decision.SKIPPED, Decision.SKIPPED, Decision.PASSED,
    ]  # fmt: skip
    for one in record.hooks[1:3]:
        assert (one.reason, one.condition) == ("an alternative before it let the request in", None)
    assert "2. door v1.0.0  on_request_headers: skipped, an alternative before it let" in render(record.as_document())


def test_an_alternative_that_fails_has_not_ended_the_request() -> None:
    given = HttpRequest("POST", "/", headers=(("x-first", "raise"), ("x-second", "1")), route=ROUTE)
    record = played(doors(), given)
    assert record.verdict is Verdict.PASSED
    assert (record.hooks[0].decision, record.hooks[0].failure) == (Decision.REFUSED, "exception")


def test_a_request_outside_a_share_is_told_so_and_not_that_a_condition_is_false() -> None:
    made = engine(entry(Changing, share=Share(0, 0), condition='request.method == "POST"'), classes=[Changing])
    (hook,) = played(made).hooks
    assert (hook.decision, hook.reason, hook.condition) == (Decision.SKIPPED, "the request is not in its share", None)
    made = engine(entry(Changing, share=Share(0, WHOLE), condition='request.method == "GET"'), classes=[Changing])
    (hook,) = played(made).hooks
    assert hook.condition is not None
    assert hook.reason == ""


@pytest.mark.parametrize("policy", [Changing, Denying])
def test_conditions_of_who_watches_may_ask_where_the_response_came_from(policy: type[Policy]) -> None:
    seen: list[str] = []

    @dataclass
    class Watching:
        watching: bool = True

        def wants(self, request: Request) -> Wanted:
            return Wanted(lambda ended: seen.append("" if ended.response is None else ended.response.origin))

        def dropped(self) -> None:
            raise AssertionError

    recorder = Recorder(engine(policy).kernel, (Watching(),))
    recorder.refresh()
    handler = recorder.handler(Peer())
    settle(handler.receive(request_headers(ROUTE)))
    if policy is Changing:
        settle(handler.receive(response_headers(200, end=True)))
    handler.close()
    assert seen == ["upstream" if policy is Changing else "policy"]


def test_what_envoy_sent_is_recorded_and_conditions_of_who_watches_may_ask_for_it() -> None:
    live = LiveTrace(0, lambda: None)
    live.listen(1, Filter(where='request.attributes["connection.mtls"]'))
    live.listen(2, Filter(where='request.envoy_metadata["geo"].country == "CH"'))
    live.listen(3, Filter(where='request.attributes["source.port"] == 1'))
    recorder = Recorder(engine(Changing).kernel, (live,))
    recorder.refresh()
    handler = recorder.handler(Peer())
    message = messages.request_headers(
        [(":method", "GET"), (":path", "/"), (":authority", "h")],
        end=True,
        attributes={"xds.route_name": ROUTE, "connection.mtls": True, "request.path": "/x?token=private"},
        metadata={"geo": {"country": "CH", "token": "private"}},
        body_modes=(0, 0),
    )
    settle(handler.receive(message))
    handler.close()
    (((numbers, record),), _) = live.take(5)
    assert numbers == [1, 2]
    assert record["attributes"]["connection.mtls"] is True
    assert record["envoy_metadata"] == {"geo": {"country": "CH", "token": "***"}}
    assert "private" not in str(record["attributes"])
