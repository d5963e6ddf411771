"""What a client gets when a policy or the engine answers: the one place for it, whatever the cause.

An answer without a body of its own gets one for statuses from 400: a gRPC client a status and a message, others what
the route's `errors` say. Every answer has the request's id, which is the one that log lines have.
"""

from __future__ import annotations

from policy_engine.kernel.error_bodies import Denied, phrase_of, written
from policy_engine.kernel.reply import Answer
from policy_engine.sdk import Headers, ImmediateResponse, list_members
from policy_engine.sdk.error_formats import ErrorFormat
from policy_engine.sdk.headers import encode_value
from policy_engine.sdk.statuses import WITHOUT_CONTENT
from policy_engine.worker.chains.error_answers import ErrorAnswers

_LONGEST_ID = 128
_LONGEST_MESSAGE = 1024
"""Characters of a gRPC message: it is a header, and clients bound those."""
_JSON = ("application/problem+json", "application/json")
_REQUEST_ID = "x-request-id"
_CONTENT_TYPE = "content-type"
_GRPC = "application/grpc"
_GRPC_STATUSES = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
_GRPC_UNKNOWN = 2
"""grpc/doc/http-grpc-status-mapping.md"""
_STANDARD = ErrorAnswers()


def answer_to(
    headers: Headers,
    response: ImmediateResponse,
    errors: ErrorAnswers | None = None,
    *,
    route: str = "",
    body: bytes | None = None,
) -> Answer:
    """Return what the client whose request has these `headers` is sent for `response`.

    `errors` are those of its `route`; `body` is the request's where it was read.
    """
    identifier = _identifier(headers)
    changed = [(name.lower(), encode_value(value), False) for name, value in response.headers.items()]
    if identifier and _REQUEST_ID not in [name for name, _, _ in changed]:
        changed.append((_REQUEST_ID, identifier.encode(), False))
    if response.append_headers:
        changed += [(name.lower(), encode_value(value), True) for name, value in response.append_headers]
    answer = Answer(response.status, changed, _own_body(response), response.grpc_status, response.details)
    if response.status in WITHOUT_CONTENT:
        answer.body = b""
    elif is_grpc(headers):
        _for_grpc(answer, response, Denied(response.status, response.problem, identifier, None))
    elif response.body is None and response.status >= 400:
        denied = Denied(response.status, response.problem, identifier, body)
        _write(answer, denied, errors or _STANDARD, headers, route)
    return answer


def is_grpc(headers: Headers) -> bool:
    """Return whether Envoy answers this request as gRPC (source/common/grpc/common.cc, `hasGrpcContentType`)."""
    content_type = headers.get(_CONTENT_TYPE) or ""
    return content_type == _GRPC or content_type.startswith(f"{_GRPC}+")


def _for_grpc(answer: Answer, response: ImmediateResponse, denied: Denied) -> None:
    """Make the body what Envoy makes the message of the gRPC status: percent-encoded, with HTTP status 200."""
    content_type = next((value for name, value, _ in answer.changed if name == _CONTENT_TYPE), b"text/plain")
    answer.changed = [one for one in answer.changed if one[0] != _CONTENT_TYPE]
    if response.status >= 400 and answer.grpc_status is None:
        answer.grpc_status = _GRPC_STATUSES.get(response.status, _GRPC_UNKNOWN)
    own = answer.body.decode(errors="replace") if content_type.lower().startswith(b"text/") else ""
    if response.body is None or (answer.body and not own):
        own = denied.line if response.status >= 400 else phrase_of(response.status)
    answer.body = own[:_LONGEST_MESSAGE].encode()


def _write(answer: Answer, denied: Denied, errors: ErrorAnswers, headers: Headers, route: str) -> None:
    template = errors.template(denied.status)
    if template is not None:
        values = {
            "status": str(denied.status),
            "title": denied.title,
            "detail": denied.problem.get("detail") or "",
            "request_id": denied.request_id,
            "route": route,
        }
        content_type, answer.body = template.content_type, template.rendered(values)
    else:
        kind = errors.format or ErrorFormat.PROBLEM
        if kind is ErrorFormat.PROBLEM and _prefers_text(headers):
            kind = ErrorFormat.TEXT
        content_type, answer.body = written(denied, kind)
    answer.changed = [one for one in answer.changed if one[0] != _CONTENT_TYPE]
    answer.changed.append((_CONTENT_TYPE, content_type.encode(), False))


def _own_body(response: ImmediateResponse) -> bytes:
    body = response.body
    return body if isinstance(body, bytes) else (body or "").encode()


def _identifier(headers: Headers) -> str:
    """Return the request's id; empty for one that is too long or odd to be shown."""
    identifier = headers.get(_REQUEST_ID) or ""
    usable = len(identifier) <= _LONGEST_ID and identifier.isascii() and identifier.isprintable()
    return identifier if usable else ""


def _prefers_text(headers: Headers) -> bool:
    """Return whether `Accept` ranks plain text above JSON (RFC 9110, 12.5.1)."""
    accept = headers.get_all("accept")
    if not any("text/" in one.lower() for one in accept):
        return False
    ranks: dict[str, float] = {}
    for member in list_members(accept):
        kind, _, parameters = member.partition(";")
        ranks[kind.strip().lower()] = _quality(parameters)
    anything = ranks.get("*/*", 0.0)
    text = ranks.get("text/plain", ranks.get("text/*", anything))
    problem = [ranks.get(kind, ranks.get("application/*", anything)) for kind in _JSON]
    return text > max(problem)


def _quality(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
