"""Requests and responses as a client and an upstream send them."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

from policy_engine.kernel.header_lines import HeaderLines, HeaderValues, Part, lines_of
from policy_engine.sdk import Request, Response
from policy_engine.sdk.attributes import ATTRIBUTES, AttributeValue, EnvoyMetadata, why_not


def request(
    method: str = "GET",
    target: str = "/",
    headers: HeaderValues | None = None,
    body: bytes | None = None,
    *,
    authority: str = "api.example.test",
    scheme: str = "https",
    client_address: str = "192.0.2.1",
    route: str = "test-route",
    request_id: str = "test-request",
    metadata: MutableMapping[str, Any] | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
    envoy_metadata: EnvoyMetadata | None = None,
) -> Request:
    """Build a request as Envoy would send it; `target` is the path with its query string.

    A header with several lines takes a list; Envoy joins the lines of most headers it knows, and so does this.
    `content-length` is added for a body unless given. `attributes` and `envoy_metadata` are what Envoy knows beside it;
    a policy sees those that its `policy.yaml` asks for, one without `policy.yaml` sees all. Raises ValueError for an
    attribute that Envoy does not have.
    """
    for name in attributes or {}:
        if reason := why_not(name):
            raise ValueError(f"the attribute {name!r} {reason}; known: {', '.join(sorted(ATTRIBUTES))}")
    pseudo = {":method": method, ":path": target, ":authority": authority, ":scheme": scheme}
    lines = HeaderLines(Part.REQUEST_HEADERS, lines_of({**pseudo, **(headers or {})}))
    _add_length(lines, body)
    return Request(
        lines.view(),
        route=route,
        request_id=request_id,
        client_address=client_address,
        body=body,
        metadata=metadata,
        attributes=attributes,
        envoy_metadata=envoy_metadata,
    )


def response(
    status: int = 200,
    headers: HeaderValues | None = None,
    body: bytes | None = None,
    *,
    origin: Literal["upstream", "envoy"] = "upstream",
) -> Response:
    """Build the upstream's response, or one that Envoy makes itself; `content-length` is added for a body unless given.

    A policy's answer comes from a policy further in, see `Response.origin`.
    """
    lines = HeaderLines(Part.RESPONSE_HEADERS, lines_of({":status": str(status), **(headers or {})}))
    _add_length(lines, body)
    return Response(lines.view(), body=body, origin=origin)


def _add_length(lines: HeaderLines, body: bytes | None) -> None:
    if body is not None and "content-length" not in lines:
        lines.set("content-length", str(len(body)))
