"""What a client gets when the engine itself refuses: the one place for it, whatever the cause.

The request id in it is the one that the log line of the refusal has. Nothing of the cause is told: it may be a secret,
and it is of use to an attacker alone.
"""

from __future__ import annotations

import json
from dataclasses import replace
from http import HTTPStatus

from policy_engine.sdk import Headers, ImmediateResponse
from policy_engine.sdk.statuses import WITHOUT_CONTENT

_LONGEST_ID = 128
_GRPC = "application/grpc"


def denial(response: ImmediateResponse, headers: Headers) -> ImmediateResponse:
    """Return `response` with a body for the client whose request has these headers, unless it has one already.

    Problem details (RFC 9457) with the member `request_id`; a gRPC client gets one line, which Envoy makes the message
    of the status.
    """
    if response.body or response.status in WITHOUT_CONTENT:
        return response
    identifier = headers.get("x-request-id") or ""
    if len(identifier) > _LONGEST_ID or not (identifier.isascii() and identifier.isprintable()):
        identifier = ""
    title = _title(response.status)
    if (headers.get("content-type") or "").lower().startswith(_GRPC):
        line = f"{title}; request id {identifier}" if identifier else title
        return replace(response, body=line)
    problem = {"type": "about:blank", "title": title, "status": response.status}
    if identifier:
        problem["request_id"] = identifier
    typed = {"content-type": "application/problem+json", **response.headers}
    return replace(response, body=json.dumps(problem), headers=typed)


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Refused"
