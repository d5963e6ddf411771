"""Builds the ext_proc messages Envoy 1.36 sends, and reads the engine's replies as Envoy would apply them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

Pairs = Iterable[tuple[str, str | bytes]]
ProcessingMode = processing_mode_pb2.ProcessingMode
Reply = ext_proc.ProcessingResponse

ATTRIBUTES = "envoy.filters.http.ext_proc"


def _fill(header_map: Any, pairs: Pairs) -> None:
    for name, value in pairs:
        header_map.headers.add(key=name, raw_value=value if isinstance(value, bytes) else value.encode())


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
    message = ext_proc.ProcessingRequest()
    pseudo = [(":authority", authority), (":path", path), (":method", method), (":scheme", "http")]
    _fill(message.request_headers.headers, [*pseudo, *pairs])
    message.request_headers.end_of_stream = end
    named = ({} if route is None else {"xds.route_name": route}) | (attributes or {})
    for name, value in named.items():
        message.attributes[ATTRIBUTES].fields[name].string_value = value
    message.protocol_config.request_body_mode = body_modes[0]
    message.protocol_config.response_body_mode = body_modes[1]
    return bytes(message.SerializeToString())


def response_headers(status: int = 200, pairs: Pairs = (), *, end: bool = False) -> bytes:
    message = ext_proc.ProcessingRequest()
    _fill(message.response_headers.headers, [(":status", str(status)), *pairs])
    message.response_headers.end_of_stream = end
    return bytes(message.SerializeToString())


def body(side: str, data: bytes, *, end: bool = True) -> bytes:
    """`side` is `request` or `response`."""
    message = ext_proc.ProcessingRequest()
    part = getattr(message, f"{side}_body")
    part.body = data
    part.end_of_stream = end
    return bytes(message.SerializeToString())


def trailers(side: str, pairs: Pairs = ()) -> bytes:
    message = ext_proc.ProcessingRequest()
    part = getattr(message, f"{side}_trailers")
    part.SetInParent()
    _fill(part.trailers, pairs)
    return bytes(message.SerializeToString())


def parse(reply: Any) -> Any:
    """The reply as a message; the engine must have answered with exactly one."""
    assert isinstance(reply, bytes), reply
    return Reply.FromString(reply)


def header_changes(mutation: Any) -> tuple[list[tuple[str, bytes, bool]], list[str]]:
    """`(name, value, append)` of every set header in order, and the removed names."""
    sets = [(one.header.key, one.header.raw_value, one.append.value) for one in mutation.set_headers]
    return sets, list(mutation.remove_headers)
