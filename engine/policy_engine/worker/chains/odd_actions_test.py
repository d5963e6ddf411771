"""Whatever objects a policy puts into an action, it is carried out or is a failure of that policy like any other."""

from __future__ import annotations

import asyncio
import decimal
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import pytest

from policy_engine.kernel.stream import Peer
from policy_engine.sdk import (
    Chunk,
    ChunkMutation,
    ImmediateResponse,
    Policy,
    Request,
    RequestMutation,
    ResponseMutation,
    TrailerMutation,
)
from policy_engine.worker.chains.action_check import InvalidAction, check_action
from policy_engine.worker.chains.statistics import FailureKind
from testsupport.chains import engine, entry, settle
from testsupport.envoy_messages import Reply, body, request_headers, response_headers, trailers

FULL_DUPLEX = 4
"""`ProcessingMode.FULL_DUPLEX_STREAMED`, in which chunk hooks run."""


class Hostile(Mapping[str, str]):
    """A mapping whose every method raises, one of them to end the process."""

    def __getitem__(self, key: str) -> str:
        raise SystemExit(3)

    def __iter__(self) -> Iterator[str]:
        raise SystemExit(3)

    def __len__(self) -> int:
        raise RuntimeError("secret")

    def __bool__(self) -> bool:
        raise RuntimeError("secret")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("secret")

    __hash__ = None  # type: ignore[assignment] # as a dict has none


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("secret")

    __str__ = __repr__


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("secret")


class LastWords(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


def _endless() -> list[Any]:
    held: list[Any] = []
    held += [held] * 9
    return held


LEAVES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    5,
    99,
    199,
    200,
    204,
    304,
    600,
    10**400,
    1.5,
    200.0,
    float("nan"),
    float("inf"),
    decimal.Decimal("200"),
    HTTPStatus.OK,
    "",
    "a",
    "x-a",
    "/p",
    "GET",
    "\ud800",
    "\udc0a",
    "/\ud800",
    "x\ud800",
    "a\r\nb: c",
    "\0",
    "\x01",
    "ä",
    "x" * 100_000,
    b"",
    b"a",
    b"\r\n",
    b"\xff",
    bytearray(b"a"),
    memoryview(b"a"),
    object(),
    object,
    len,
    {"a"},
    range(3),
    Hostile(),
    Unprintable(),
    Unspeakable(),
    Chunk(b"x"),
    _endless(),
    MappingProxyType({"a": "b"}),
)
FIXED: tuple[Any, ...] = (
    [("a", "b")],
    {"a": "b"},
    {"a": {"b": 1}},
    {"a": MappingProxyType({"b": MappingProxyType({"c": (1, 2)})})},
    {"a": {"b": 10**400}},
    {"a": {"b": float("nan")}},
    {"\ud800": {"b": 1}},
    {"a": {"\ud800": 1}},
    {"a": {"b": "\ud800"}},
    {"a": {"b": {1: 2}}},
    {"a": {"b": b"raw"}},
    [("a",)],
    ["ab"],
    [("a", "b", "c")],
    [["x-a", "1"]],
    ["x-a"],
    ("x-a", 5),
    {"content-length": "5"},
    {":path": "/"},
    {"x-a": None},
    {"x-a": 5},
    {"x-a": ["1", "2"]},
    {None: "1"},
    {b"x-a": "1"},
    [None],
)
KINDS = (RequestMutation, ResponseMutation, ImmediateResponse, ChunkMutation, TrailerMutation)
FIELDS = [(kind, field.name) for kind in KINDS for field in fields(kind)]
NEEDED: dict[type, dict[str, Any]] = {ImmediateResponse: {"status": 403}, ChunkMutation: {"data": b""}}

HOOKS: dict[str, tuple[type, ...]] = {
    "on_request_headers": (RequestMutation, ImmediateResponse),
    "on_request_body": (RequestMutation, ImmediateResponse),
    "on_request_chunk": (ChunkMutation, ImmediateResponse),
    "on_request_trailers": (TrailerMutation,),
    "on_response_headers": (ResponseMutation, ImmediateResponse),
    "on_response_body": (ResponseMutation, ImmediateResponse),
    "on_response_chunk": (ChunkMutation,),
    "on_response_trailers": (TrailerMutation,),
}


def composed(chance: random.Random, depth: int = 0) -> Any:
    """A random object: a leaf, or a container of such."""
    kind = chance.randrange(10 if depth < 3 else 6)
    if kind < 6:
        return chance.choice(LEAVES)
    many = [composed(chance, depth + 1) for _ in range(chance.randrange(3))]
    if kind == 6:
        return many
    if kind == 7:
        return tuple(many)
    keys = [chance.choice(("a", "x-a", "", 5, None, b"k", "\ud800", ":x", "content-length")) for _ in many]
    return dict(zip(keys, many, strict=True))


def actions() -> Iterator[Any]:
    """Every field of every action with every odd object, and some of several at once."""
    chance = random.Random(20261130)
    for kind, name in FIELDS:
        for value in (*LEAVES, *FIXED, *(composed(chance) for _ in range(40))):
            yield kind(**(NEEDED.get(kind, {}) | {name: value}))
    for _ in range(1500):
        kind = chance.choice(KINDS)
        names = [field.name for field in fields(kind)]
        chosen = chance.sample(names, min(len(names), 3))
        yield kind(**(NEEDED.get(kind, {}) | {name: composed(chance) for name in chosen}))


def _refusal(action: Any) -> str | None:
    try:
        check_action(action)
    except InvalidAction as error:
        return str(error)
    return None


def test_checking_an_action_raises_nothing_else_and_tells_no_value() -> None:
    refusals = [refusal for action in actions() if (refusal := _refusal(action)) is not None]
    assert len(refusals) > 1000
    assert not [refusal for refusal in refusals if "secret" in refusal]


def _only(hook: str, action: list[Any]) -> type[Policy]:
    """A policy whose one hook returns what is in `action`."""
    return type("Playing", (Policy,), {hook: lambda self, *_: action[0]})


def _exchange(made: Any, hook: str) -> list[Any]:
    streams = hook.endswith("_chunk")
    session = made.session(Peer())
    modes = (FULL_DUPLEX, FULL_DUPLEX) if streams else (0, 0)
    messages = [
        request_headers(method="POST", end=False, body_modes=modes),
        body("request", b"abc", end=not streams),
        trailers("request"),
        response_headers(200, [("content-length", "3")]),
        body("response", b"abc", end=not streams),
        trailers("response"),
    ]
    replies: list[Any] = []
    for message in messages:
        answered = settle(session.receive(message))
        replies += answered if isinstance(answered, tuple) else [answered] if answered is not None else []
    session.close()
    return [Reply.FromString(reply) for reply in replies]


@pytest.mark.parametrize("failure_mode", ["closed", "open"])
@pytest.mark.parametrize("hook", HOOKS)
def test_an_odd_action_is_an_invalid_action_whatever_the_hook(hook: str, failure_mode: str) -> None:
    playing_now: list[Any] = [None]
    playing = _only(hook, playing_now)
    made = engine(entry(playing, failure_mode=failure_mode), classes=[playing])
    (statistics,) = made.compiler.statistics.values()
    for action in actions():
        if type(action) not in HOOKS[hook]:
            continue
        playing_now[0] = action
        before = statistics.failures[FailureKind.INVALID_ACTION]
        replies = _exchange(made, hook)
        assert replies
        failed = statistics.failures[FailureKind.INVALID_ACTION] - before
        denied = [one.immediate_response.status.code for one in replies if one.HasField("immediate_response")]
        if _refusal(action) is None:
            assert failed == 0
        else:
            assert failed >= 1, action
            assert denied == ([500] if failure_mode == "closed" else []), action
    assert sum(statistics.failures.values()) == statistics.failures[FailureKind.INVALID_ACTION]


@pytest.mark.parametrize("error", [Unspeakable, LastWords])
@pytest.mark.parametrize("later", [False, True])
def test_an_exception_without_a_text_is_a_failure_like_any_other(
    error: type[Exception], later: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Raising(Policy):
        def on_request_headers(self, request: Request) -> Any:
            return self._later() if later else self._now()

        def _now(self) -> None:
            raise error

        async def _later(self) -> None:
            await asyncio.sleep(0)
            raise error

    for failure_mode, expected in (("closed", True), ("open", False)):
        made = engine(entry(Raising, failure_mode=failure_mode), classes=[Raising])
        reply = Reply.FromString(settle(made.session().receive(request_headers())))
        assert reply.HasField("immediate_response") is expected
        (statistics,) = made.compiler.statistics.values()
        assert statistics.failures[FailureKind.EXCEPTION] == 1
    assert f"{error.__name__}: its text cannot be had" in caplog.text


@pytest.mark.parametrize("status", [204, 205, 304])
def test_a_body_that_a_status_cannot_have_is_an_invalid_action(status: int) -> None:
    for action in (ImmediateResponse(status, b"x"), ResponseMutation(status=status, body=b"x")):
        with pytest.raises(InvalidAction, match="has no body"):
            check_action(action)
    for action in (
        ImmediateResponse(status),
        ResponseMutation(status=status, body=b""),
        ResponseMutation(status=status),
    ):
        check_action(action)


def test_what_changes_after_it_was_looked_at_is_looked_at_again() -> None:
    published: dict[str, Any] = {"a": {"b": 1}}
    answer: dict[str, Any] = {"x-a": "1"}

    class Publishes(Policy):
        action: Any = RequestMutation(dynamic_metadata=published)

        def on_request_headers(self, request: Request) -> Any:
            return Publishes.action

    changes: list[Callable[[], None]] = [
        lambda: published.update(c={"d": object()}),
        lambda: answer.update({"x b": "1"}),
    ]
    made = engine(Publishes)
    (statistics,) = made.compiler.statistics.values()
    for action, change in zip((Publishes.action, ImmediateResponse(403, headers=answer)), changes, strict=True):
        Publishes.action = action
        settle(made.session().receive(request_headers()))
        change()
        before = statistics.failures[FailureKind.INVALID_ACTION]
        reply = Reply.FromString(settle(made.session().receive(request_headers())))
        assert reply.immediate_response.status.code == 500
        assert statistics.failures[FailureKind.INVALID_ACTION] == before + 1


@pytest.mark.parametrize("kind", [RequestMutation, ResponseMutation])
@pytest.mark.parametrize("part", ["set_headers", "append_headers", "remove_headers"])
def test_one_action_whose_parts_are_filled_anew_asks_for_what_it_holds_then(kind: Any, part: str) -> None:
    held: Any = {} if part == "set_headers" else []
    action = kind(**{part: held})

    class Fills(Policy):
        def on_request_headers(self, request: Request) -> Any:
            return self._filled(request) if kind is RequestMutation else None

        def on_response_headers(self, request: Request, response: Any) -> Any:
            return self._filled(request) if kind is ResponseMutation else None

        def _filled(self, request: Request) -> Any:
            user = request.headers["x-asks"]
            held.clear()
            if part == "set_headers":
                held["x-user"] = user
            else:
                held.append(("x-user", user) if part == "append_headers" else f"x-{user}")
            return action

    made = engine(Fills)
    for user in ("alice", "alice", "alice", "bob", "carol"):
        session = made.session()
        reply = settle(session.receive(request_headers(pairs=[("x-asks", user)])))
        if kind is ResponseMutation:
            reply = settle(session.receive(response_headers()))
        assert user.encode() in reply, user


def test_parts_of_a_constant_action_that_were_empty_cannot_pass_by_the_check() -> None:
    class Empty(Policy):
        action = RequestMutation(set_headers={"x-a": "1"}, dynamic_metadata={}, set_query={})

        def on_request_headers(self, request: Request) -> Any:
            return self.action

    class Publishes(Policy):
        def on_request_headers(self, request: Request) -> Any:
            return RequestMutation(dynamic_metadata={"n": {"k": 1}})

    made = engine(Empty, Publishes)
    for _ in range(3):
        assert b"x-a" in settle(made.session().receive(request_headers()))
    for change in ("dynamic_metadata", "set_query", "set_headers"):
        with pytest.raises(TypeError):
            getattr(Empty.action, change)["n"] = object()
    # Held by somebody else, it is never taken for constant.
    published: dict[str, Any] = {}
    Empty.action = RequestMutation(set_headers={"x-a": "1"}, dynamic_metadata=published)
    for _ in range(3):
        assert b"x-a" in settle(made.session().receive(request_headers()))
    published["n"] = {"k": object()}
    reply = Reply.FromString(settle(made.session().receive(request_headers())))
    assert reply.immediate_response.status.code == 500
    (statistics, _) = made.compiler.statistics.values()
    assert statistics.failures[FailureKind.INVALID_ACTION] == 1
