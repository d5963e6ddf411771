"""The body of a denial in each of the formats; which one it is, `denial` decides.

Nothing of the cause is in any of them but what the policy wrote for the client (`ImmediateResponse.problem`): the cause
may hold a secret, and is of use to an attacker alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from policy_engine.kernel.reply import plain_json
from policy_engine.sdk.error_formats import ErrorFormat

_INVALID_REQUEST: Final = -32600
_INTERNAL_ERROR: Final = -32603
_SERVER_ERROR: Final = -32000
"""Error codes of JSON-RPC 2.0, 5.1; the last begins the range that a server may give a meaning of its own."""
_INVALID_REQUEST_STATUSES: Final = frozenset({400, 405, 406, 411, 413, 414, 415, 422, 431})
_LARGEST_BODY: Final = 64 * 1024
"""Bytes of a request's body up to which its JSON-RPC id is looked for: parsing more would hold up other requests."""
_LONGEST_RPC_ID: Final = 256


@dataclass(frozen=True, slots=True)
class Denied:
    """What there is to say: `problem` are the members that the policy gave, `request_id` may be empty.

    `body` is the request's, None where it was not read.
    """

    status: int
    problem: Mapping[str, Any]
    request_id: str
    body: bytes | None

    @property
    def title(self) -> str:
        """The policy's, else the phrase of the status (RFC 9110, 15)."""
        return self.problem.get("title") or phrase_of(self.status)

    @property
    def message(self) -> str:
        """What happened, in one sentence."""
        return self.problem.get("detail") or self.title

    @property
    def line(self) -> str:
        """The message with the id to ask about it."""
        return f"{self.message}; request id {self.request_id}" if self.request_id else self.message

    @property
    def further(self) -> dict[str, Any]:
        """The members of `problem` beside title and detail."""
        return {name: plain_json(value) for name, value in self.problem.items() if name not in ("title", "detail")}


def phrase_of(status: int) -> str:
    """Return the reason phrase of `status`."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Refused"


def written(denied: Denied, kind: ErrorFormat) -> tuple[str, bytes]:
    """Return content type and body in the format `kind`."""
    if kind is ErrorFormat.TEXT:
        return "text/plain; charset=utf-8", f"{denied.line}\n".encode()
    content_type, document = _DOCUMENTS[kind](denied)
    return content_type, json.dumps(document).encode()


def _problem(denied: Denied) -> tuple[str, dict[str, Any]]:
    """RFC 9457, 3; `about:blank` is the type of a problem that its status says enough of (4.2.1)."""
    document: dict[str, Any] = {"type": "about:blank", "title": denied.title}
    if "detail" in denied.problem:
        document["detail"] = denied.problem["detail"]
    document |= denied.further
    return "application/problem+json", {**document, "status": denied.status} | _identified(denied)


def _json_rpc(denied: Denied) -> tuple[str, dict[str, Any]]:
    """JSON-RPC 2.0, 5 and 5.1; the HTTP status stays (Model Context Protocol, Streamable HTTP)."""
    if denied.status in _INVALID_REQUEST_STATUSES:
        code = _INVALID_REQUEST
    else:
        code = _INTERNAL_ERROR if denied.status >= 500 else _SERVER_ERROR
    data = {**denied.further, "status": denied.status} | _identified(denied)
    error = {"code": code, "message": denied.message, "data": data}
    return "application/json", {"jsonrpc": "2.0", "id": _rpc_id(denied.body), "error": error}


def _openai(denied: Denied) -> tuple[str, dict[str, Any]]:
    kind, code = _OPENAI.get(denied.status, ("server_error" if denied.status >= 500 else "invalid_request_error", None))
    error = {"message": denied.message, "type": kind, "param": None, "code": code}
    own = denied.further.get("error")
    return "application/json", {"error": error | own if isinstance(own, dict) else error} | _identified(denied)


def _anthropic(denied: Denied) -> tuple[str, dict[str, Any]]:
    kind = _ANTHROPIC.get(denied.status, "api_error" if denied.status >= 500 else "invalid_request_error")
    error = {"type": kind, "message": denied.message}
    return "application/json", {"type": "error", "error": error} | _identified(denied)


_OPENAI: Final[Mapping[int, tuple[str, str | None]]] = {
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "permission_denied"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}
_ANTHROPIC: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_DOCUMENTS: Final[Mapping[ErrorFormat, Callable[[Denied], tuple[str, dict[str, Any]]]]] = {
    ErrorFormat.PROBLEM: _problem,
    ErrorFormat.JSON_RPC: _json_rpc,
    ErrorFormat.OPENAI: _openai,
    ErrorFormat.ANTHROPIC: _anthropic,
}


def _identified(denied: Denied) -> dict[str, str]:
    return {"request_id": denied.request_id} if denied.request_id else {}


def _rpc_id(body: bytes | None) -> str | int | float | None:
    """Return the `id` of the one JSON-RPC request in `body`; None, as the specification has it, where there is none."""
    if not body or len(body) > _LARGEST_BODY:
        return None
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return None
    found = request.get("id") if isinstance(request, dict) else None
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        return None
    if isinstance(found, float) and not math.isfinite(found):
        return None
    return found if len(str(found)) <= _LONGEST_RPC_ID else None
