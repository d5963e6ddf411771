"""Fuzz target: any sequence of ext_proc messages into sessions of one connection, with policies of every temper."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from policy_engine.kernel.kernel import PARTS
from policy_engine.kernel.session import Session
from policy_engine.kernel.stream import Peer, StreamError
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
from testsupport import envoy_messages
from testsupport.chains import chains, engine, entry

_CODINGS = ("", "gzip", "br", "deflate, gzip", "nonsense")
_BODY_MODES = ((0, 0), (2, 2), (1, 1), (4, 4))


class _Wrong:
    """No action at all."""


def _fail(error: BaseException) -> Any:
    raise error


async def _later(mutation: Callable[..., Any]) -> Any:
    await asyncio.sleep(0)
    return mutation(set_headers={"x-late": "1"})


_ACTIONS: tuple[Callable[[Any], Any], ...] = (
    lambda mutation: None,
    lambda mutation: mutation(set_headers={"x-set": "1"}),
    lambda mutation: mutation(remove_headers=("x-do", "content-encoding"), append_headers=(("x-many", b"\xff"),)),
    lambda mutation: ImmediateResponse(403, "no", {"x-why": "fuzz"}),
    lambda mutation: _fail(RuntimeError("as the input wants")),
    lambda mutation: _fail(SystemExit(3)),
    lambda mutation: _Wrong(),
    lambda mutation: mutation(set_headers={"bad name": "x"}),
    lambda mutation: mutation(body=b"replaced"),
    lambda mutation: mutation(body=b""),
    lambda mutation: ChunkMutation(b"chunk", end=True),
    lambda mutation: ChunkMutation(b""),
    lambda mutation: mutation(dynamic_metadata={"fuzz": {"a": [1, None, "x"]}}),
    _later,
    lambda mutation: RequestMutation(path="/else", method="PUT", clear_route_cache=True),
    lambda mutation: ResponseMutation(status=418),
)


def _act(do: int, mutation: Callable[..., Any]) -> Any:
    """Do what the input says; the same numbers mean the same in every hook, fit or not."""
    return _ACTIONS[do % len(_ACTIONS)](mutation)


def _told(headers: Headers) -> int:
    text = headers.get("x-do") or ""
    return int(text) if text.isdecimal() and len(text) < 3 else 0


def _first(body: bytes | None) -> int:
    return body[0] & 15 if body else 0


class OfHeaders(Policy):
    """Takes part in both headers phases."""

    def on_request_headers(self, request: Request) -> Any:
        return _act(_told(request.headers), RequestMutation)

    def on_response_headers(self, request: Request, response: Response) -> Any:
        return _act(_told(response.headers), ResponseMutation)


class OfBodies(Policy):
    """Reads both bodies whole."""

    def on_request_body(self, request: Request) -> Any:
        return _act(_first(request.body), RequestMutation)

    def on_response_body(self, request: Request, response: Response) -> Any:
        return _act(_first(response.body), ResponseMutation)


class OfChunks(Policy):
    """Reads both bodies piece by piece."""

    def on_request_chunk(self, request: Request, chunk: Chunk) -> Any:
        return _act(_first(chunk.data), RequestMutation)

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> Any:
        return _act(_first(chunk.data), ResponseMutation)


class OfTrailers(Policy):
    """Takes part in both trailers phases."""

    def on_request_trailers(self, request: Request, trailers: Headers) -> Any:
        return _act(_told(trailers), TrailerMutation)

    def on_response_trailers(self, request: Request, response: Response, trailers: Headers) -> Any:
        return _act(_told(trailers), TrailerMutation)


_CLASSES = (OfHeaders, OfBodies, OfChunks, OfTrailers)
_CHAINS = (
    (OfHeaders,),
    (OfHeaders, OfBodies, OfTrailers),
    (OfHeaders, OfChunks, OfTrailers),
    (OfBodies, OfChunks),
    (OfTrailers,),
    (),
)


def _made(failure_mode: str) -> Any:
    made = engine(classes=_CLASSES, body_limit=4096)
    routes = {
        f"r{number}": [entry(one, failure_mode=failure_mode, timeout=0.2) for one in classes]
        for number, classes in enumerate(_CHAINS)
    }
    made.activate(chains(**routes))
    return made


_ENGINES = {mode: _made(mode) for mode in ("closed", "open")}
_LOOP = asyncio.new_event_loop()


class _Input:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def bytes(self) -> bytes:
        size = self.byte()
        self._at += size
        return self._data[self._at - size : self._at]


def _message(source: _Input, op: int, route: str) -> tuple[str, bytes]:
    kind, end, do = op & 7, bool(op & 8), op >> 4
    if kind == 6:
        return "", source.bytes()
    part = PARTS[min(kind, 5)]
    side = part.partition("_")[0]
    if part.endswith("_body"):
        return part, envoy_messages.body(side, bytes((do,)) + source.bytes(), end=end)
    if part.endswith("_trailers"):
        return part, envoy_messages.trailers(side, [("x-do", str(do))])
    shape = source.byte()
    pairs = [("x-do", str(do)), ("content-encoding", _CODINGS[shape % len(_CODINGS)])]
    if shape & 16:
        pairs.append(("content-length", str(shape * 40)))
    if part == "response_headers":
        return part, envoy_messages.response_headers((200, 204, 304, 100)[shape >> 6], pairs, end=end)
    return part, envoy_messages.request_headers(
        route,
        pairs,
        method="HEAD" if shape & 32 else "POST",
        end=end,
        body_modes=_BODY_MODES[shape >> 6],
    )


def _receive(session: Session, message: bytes) -> tuple[bytes, ...]:
    replies = session.receive(message)
    if asyncio.iscoroutine(replies):
        replies = _LOOP.run_until_complete(replies)
    if replies is None:
        return ()
    return (replies,) if isinstance(replies, bytes) else tuple(replies)


def _check(part: str, reply: bytes, waiting: set[str]) -> bool:
    """Return whether `reply` answers the exchange for good; raises AssertionError when it is none for `part`.

    `waiting` are the sides whose headers are not answered yet: in full duplex that comes with the whole body.
    """
    answered = ext_proc.ProcessingResponse.FromString(reply).WhichOneof("response")
    if answered == "immediate_response":
        return True
    side = part.partition("_")[0]
    if answered is None or (part and answered != part and not (side in waiting and answered.startswith(side))):
        raise AssertionError(f"{part} was answered by {answered}")
    return False


def run(data: bytes) -> None:
    """Feed one input: streams one after the other on one connection; raises on any wrong."""
    source = _Input(data)
    mode = source.byte()
    made = _ENGINES["open" if mode & 1 else "closed"]
    kernel, peer, route = made.kernel, Peer(), f"r{(mode >> 1) % (len(_CHAINS) + 1)}"
    session, over, waiting = Session(kernel, peer), False, set[str]()
    while source:
        op = source.byte()
        if op & 7 == 7:
            session.close()
            session, over, waiting = Session(kernel, peer), False, set[str]()
            continue
        part, message = _message(source, op, route)
        try:
            replies = _receive(session, message)
        except StreamError:
            over = True
            continue
        if over and replies:
            raise AssertionError("a reply after the stream was answered for good")
        for reply in replies:
            over = _check(part, reply, waiting) or over
        side = part.partition("_")[0]
        if replies:
            waiting.discard(side)
        elif part.endswith("_headers"):
            waiting.add(side)
    session.close()
    session.close()
    if kernel.statistics.active or any(chain.usage.streams for chain in kernel.snapshot.chains.values()):
        raise AssertionError("a stream is counted after its end")
