"""What both Python peers answer: a static header in each header phase, bodies pass. Built once, in their favour."""

from __future__ import annotations

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    BodyResponse,
    CommonResponse,
    HeaderMutation,
    HeadersResponse,
    ProcessingRequest,
    ProcessingResponse,
)

_HEADER = HeaderValueOption(
    header=HeaderValue(key="x-gateway", raw_value=b"edge-1"),
    append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
)
_SET = HeadersResponse(response=CommonResponse(header_mutation=HeaderMutation(set_headers=[_HEADER])))
_ANSWERS = {
    "request_headers": ProcessingResponse(request_headers=_SET),
    "response_headers": ProcessingResponse(response_headers=_SET),
    "request_body": ProcessingResponse(request_body=BodyResponse()),
    "response_body": ProcessingResponse(response_body=BodyResponse()),
}


def answer(request: ProcessingRequest) -> ProcessingResponse:
    """Return the answer to `request`."""
    return _ANSWERS[request.WhichOneof("request")]
