"""The ext_proc messages that Envoy sends, as bytes; Envoy 1.36 and later (external_processor.proto)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from policy_engine.kernel.header_lines import HeaderLines, Part
from policy_engine.kernel.route_key import ATTRIBUTES
from policy_engine.sdk import HeaderValue
from policy_engine.sdk.attributes import AttributeValue, EnvoyMetadata

Lines = Iterable[tuple[str, HeaderValue]]


def request_headers(
    lines: Lines,
    *,
    end: bool,
    attributes: Mapping[str, AttributeValue],
    body_modes: tuple[int, int],
    metadata: EnvoyMetadata | None = None,
) -> bytes:
    """Return the first message of a stream; `body_modes` are those of Envoy's configuration, request and response."""
    message = ext_proc.ProcessingRequest()
    HeaderLines(Part.REQUEST_HEADERS, lines).fill(message.request_headers.headers)
    message.request_headers.end_of_stream = end
    for name, value in attributes.items():
        sent = message.attributes[ATTRIBUTES].fields[name]
        if isinstance(value, bool):
            sent.bool_value = value
        else:  # Envoy writes whole numbers as text, too
            sent.string_value = str(value)
    for namespace, values in (metadata or {}).items():
        message.metadata_context.filter_metadata[namespace].update(json.loads(json.dumps(values)))
    message.protocol_config.request_body_mode, message.protocol_config.response_body_mode = body_modes
    return bytes(message.SerializeToString())


def response_headers(lines: Lines, *, end: bool, attributes: Mapping[str, str] | None = None) -> bytes:
    """Return the message with the response's headers, `:status` among them."""
    message = ext_proc.ProcessingRequest()
    HeaderLines(Part.RESPONSE_HEADERS, lines).fill(message.response_headers.headers)
    message.response_headers.end_of_stream = end
    for name, value in (attributes or {}).items():
        message.attributes[ATTRIBUTES].fields[name].string_value = value
    return bytes(message.SerializeToString())


def body(side: str, data: bytes, *, end: bool) -> bytes:
    """Return a whole body or a piece of one; `side` is `request` or `response`."""
    message = ext_proc.ProcessingRequest()
    part = getattr(message, f"{side}_body")
    part.body = data
    part.end_of_stream = end
    return bytes(message.SerializeToString())


def trailers(side: str, lines: Lines) -> bytes:
    """Return the message with trailers; `side` is `request` or `response`."""
    message = ext_proc.ProcessingRequest()
    part = getattr(message, f"{side}_trailers")
    part.SetInParent()
    HeaderLines(Part[f"{side.upper()}_TRAILERS"], lines).fill(part.trailers)
    return bytes(message.SerializeToString())
