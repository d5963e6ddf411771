"""Policies that say what they always want are answered for without being asked; nothing else about a chain changes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policy_engine.explain.http_text import HttpRequest, HttpResponse
from policy_engine.explain.playing import answering, play
from policy_engine.kernel.session import Session
from policy_engine.kernel.stream import Peer
from policy_engine.sdk import (
    ImmediateResponse,
    Parameters,
    Policy,
    Request,
    RequestMutation,
    Response,
    ResponseMutation,
)
from policy_engine.worker.chains.spec import Mode, PolicySpec
from testsupport.chains import Engine, chains, engine, entry
from testsupport.envoy_messages import body, parse, request_headers, response_headers, trailers

_VALUES = ({"x-a": "1"}, {"x-a": "2", "x-b": "3"}, {":not-a-name": "1"})
LARGE = [("x-large", "v" * 3000)]


class Asked(Policy):
    """Wants the same of every request, and does not say so; parameters: `request`, `response` (headers to set)."""

    def __init__(self, parameters: Parameters) -> None:
        request, response = parameters.get("request"), parameters.get("response")
        self.actions: dict[str, RequestMutation | ResponseMutation] = {}
        if request is not None:
            self.actions["request_headers"] = RequestMutation(set_headers=dict(request), remove_headers=("x-c",))
        if response is not None:
            self.actions["response_headers"] = ResponseMutation(
                append_headers=list(response.items()), status=parameters.get("status")
            )
        self.idle_phases = {"request_headers", "response_headers"} - self.actions.keys()

    def on_request_headers(self, request: Request) -> Any:
        return self.actions["request_headers"]

    def on_response_headers(self, request: Request, response: Response) -> Any:
        return self.actions["response_headers"]


class Fixed(Asked):
    """The same, and says so."""

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self.constant_actions = self.actions


class Reader(Policy):
    """Shows what it sees in both phases."""

    def on_request_headers(self, request: Request) -> RequestMutation:
        return RequestMutation(set_headers={"x-seen": repr(sorted(request.headers.items()))})

    def on_response_headers(self, request: Request, response: Response) -> ResponseMutation:
        seen = sorted(request.headers.items()), sorted(response.headers.items())
        return ResponseMutation(set_headers={"x-seen": repr(seen).replace("\n", "")})


_parameters = st.fixed_dictionaries(
    {},
    optional={
        "request": st.sampled_from(_VALUES),
        "response": st.sampled_from(_VALUES),
        "status": st.sampled_from([201, 503]),
    },
)
_entries = st.tuples(
    _parameters,
    st.sampled_from([None, 'request.method == "GET"', 'request.method == "POST"', 'request.headers["x-a"] == "1"']),
    st.sampled_from(["open", "closed"]),
    st.sampled_from([Mode.ENFORCE, Mode.SHADOW]),
)
_later = st.lists(
    st.sampled_from(
        [
            body("request", b"b"),
            trailers("request"),
            response_headers(200, [("x-a", "up")]),
            response_headers(200, LARGE, end=True),
            body("response", b"b"),
            trailers("response"),
        ]
    ),
    max_size=4,
)


def made_of(policy: type[Asked], entries: Sequence[Any], *, read: bool) -> Engine:
    specs = [
        entry(policy, parameters=parameters, condition=condition, failure_mode=failure_mode, mode=mode)
        for parameters, condition, failure_mode, mode in entries
    ]
    return engine(*specs, *([Reader] if read else []), classes=[policy, Reader], header_size=2000)


def outcome(made: Engine, messages: Sequence[bytes]) -> Any:
    """Every reply of a stream, how it ended, and all that was counted; the name of the policy left out."""
    peer = Peer()
    session = Session(made.kernel, peer)
    replies: list[Any] = []
    for message in messages:
        try:
            replies.append(session.receive(message))
        except Exception as error:
            replies.append(repr(error))
            break
    session.close()
    counted = made.kernel.statistics
    route = next(iter(made.kernel.snapshot.chains.values())) if made.kernel.snapshot else None
    return (
        [None if one is None else str(one).replace("fixed", "asked") for one in replies],
        (peer.doubted, counted.active, counted.phases, counted.immediate, counted.headers_too_large),
        route and (route.usage.streams, route.needs),
        [
            (one.runs, one.skipped, one.short_circuits, one.failures, one.failed_open, one.wanted)
            for one in made.compiler.statistics.values()
        ],
    )


@given(
    entries=st.lists(_entries, min_size=1, max_size=3),
    read=st.booleans(),
    modes=st.sampled_from([(0, 0), (2, 2), (1, 1), (4, 4)]),
    method=st.sampled_from(["GET", "POST"]),
    later=_later,
)
@example(
    entries=[({"request": _VALUES[0]}, None, "closed", Mode.ENFORCE)],
    read=False,
    modes=(0, 0),
    method="GET",
    later=[response_headers(200, LARGE, end=True), body("response", b"b")],
)
@example(
    entries=[({"request": _VALUES[0], "response": _VALUES[1]}, None, "closed", Mode.ENFORCE)] * 2,
    read=False,
    modes=(0, 0),
    method="GET",
    later=[response_headers(200, [("x-a", "up")])],
)
def test_a_chain_does_the_same_whether_its_policies_say_so_or_not(
    entries: list[Any], read: bool, modes: tuple[int, int], method: str, later: list[bytes]
) -> None:
    first = request_headers(pairs=[("x-c", "1"), ("x-d", "2")], method=method, end=False, body_modes=modes)
    asked = outcome(made_of(Asked, entries, read=read), [first, *later])
    said = outcome(made_of(Fixed, entries, read=read), [first, *later])
    assert said == asked


def test_the_hook_of_a_policy_that_says_so_is_not_called() -> None:
    class Never(Fixed):
        def on_request_headers(self, request: Request) -> Any:
            raise AssertionError("called")

    made = engine(entry(Never, parameters={"request": {"x-a": "1"}}), classes=[Never])
    session = made.session()
    reply = parse(session.receive(request_headers()))
    assert reply.request_headers.response.header_mutation.set_headers[0].header.key == "x-a"
    assert [one.runs for one in made.compiler.statistics.values()] == [1]


def test_the_hook_is_called_where_an_action_could_still_be_changed() -> None:
    called = []

    class Filled(Policy):
        def __init__(self, parameters: Parameters) -> None:
            self.metadata: dict[str, Any] = {}
            action = RequestMutation(set_headers={"x-a": "1"}, dynamic_metadata=self.metadata)
            self.constant_actions: Mapping[str, Any] = {"request_headers": action}

        def on_request_headers(self, request: Request) -> Any:
            called.append(request)
            return self.constant_actions["request_headers"]

    engine(Filled).session().receive(request_headers())
    assert called


@pytest.mark.parametrize(
    "action",
    [ImmediateResponse(403), ResponseMutation(), RequestMutation(body=b"x"), RequestMutation(set_query={"a": "b"})],
)
def test_what_is_no_plain_change_of_headers_is_left_to_the_hook(action: Any) -> None:
    called = []

    class Odd(Policy):
        def __init__(self, parameters: Parameters) -> None:
            self.constant_actions: Mapping[str, Any] = {"request_headers": action}

        def on_request_headers(self, request: Request) -> None:
            called.append(request)

    engine(Odd).session().receive(request_headers())
    assert called


def test_a_recorded_request_shows_the_policy_and_what_it_wants() -> None:
    made = engine(entry(Fixed, parameters={"request": {"x-a": "1"}}), classes=[Fixed])
    request = HttpRequest("GET", "/", headers=(), body=b"", route="r")
    record = asyncio.run(play(made.kernel, request, answering(HttpResponse())))
    assert [(one.policy, one.hook, one.decision.value) for one in record.hooks] == [
        ("fixed", "on_request_headers", "changed")
    ]


def test_instances_are_closed_when_the_last_stream_on_a_retired_chain_ends_and_once() -> None:
    closed = []

    class Closing(Fixed):
        def close(self) -> None:
            closed.append(self)

    specs: list[PolicySpec] = [entry(Closing, parameters={"request": {"x-a": "1"}})]
    made = Engine([Closing])
    made.activate(chains(r=specs))
    one, other = made.session(), made.session()
    for session in (one, other):
        session.receive(request_headers())
    made.activate(chains(r=[entry(Closing, parameters={"request": {"x-a": "2"}})]))
    one.close()
    assert not closed
    other.receive(response_headers(200, [("x-large", "v" * 200_000)]))  # refused: it becomes a stream as others are
    other.close()
    assert len(closed) == 1
