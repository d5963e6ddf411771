"""Builds the ext_proc messages Envoy 1.36 sends, and reads the engine's replies as Envoy would apply them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from policy_engine.kit import messages

Pairs = Iterable[tuple[str, str | bytes]]
ProcessingMode = processing_mode_pb2.ProcessingMode
Reply = ext_proc.ProcessingResponse


def request_headers(
    route: str | None = "r",
    pairs: Pairs = (),
    *,
    method: str = "GET",
    path: str = "/",
    authority: str = "host.example",
    end: bool = True,
    body_modes: tuple[int, int] = (0, 0),
    attributes: dict[str, str] | None = None,
) -> bytes:
    """The first message of a stream, with the attributes and the protocol configuration Envoy puts into it."""
    pseudo = [(":authority", authority), (":path", path), (":method", method), (":scheme", "http")]
    named = ({} if route is None else {"xds.route_name": route}) | (attributes or {})
    return messages.request_headers([*pseudo, *pairs], end=end, attributes=named, body_modes=body_modes)


def response_headers(status: int = 200, pairs: Pairs = (), *, end: bool = False) -> bytes:
    return messages.response_headers([(":status", str(status)), *pairs], end=end)


def body(side: str, data: bytes, *, end: bool = True) -> bytes:
    """`side` is `request` or `response`."""
    return messages.body(side, data, end=end)


def trailers(side: str, pairs: Pairs = ()) -> bytes:
    return messages.trailers(side, pairs)


def parse(reply: Any) -> Any:
    """The reply as a message; the engine must have answered with exactly one."""
    assert isinstance(reply, bytes), reply
    return Reply.FromString(reply)


def header_changes(mutation: Any) -> tuple[list[tuple[str, bytes, bool]], list[str]]:
    """`(name, value, append)` of every set header in order, and the removed names."""
    sets = [(one.header.key, one.header.raw_value, one.append.value) for one in mutation.set_headers]
    return sets, list(mutation.remove_headers)
