"""What clients of each kind get on a denial: problem details, text, gRPC, JSON-RPC, OpenAI's shape, templates."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policy_engine.kernel.denial import answer_to
from policy_engine.kernel.reply import Answer
from policy_engine.sdk import Headers, ImmediateResponse
from policy_engine.sdk.error_formats import ErrorFormat
from policy_engine.worker.chains.error_answers import ErrorAnswers, ErrorTemplate

DENIED = ImmediateResponse(403)


def answer(
    response: ImmediateResponse = DENIED,
    errors: ErrorAnswers | ErrorFormat | None = None,
    *,
    body: bytes | None = None,
    **headers: Any,
) -> Answer:
    known = {"x-request-id": "0b9e-77"} | {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(errors, ErrorFormat):
        errors = ErrorAnswers(errors)
    return answer_to(Headers.of(known), response, errors, route="shop", body=body)


def header(found: Answer, name: str) -> str | None:
    return next((value.decode() for key, value, _ in found.changed if key == name), None)


def test_problem_details_with_what_the_client_may_be_told() -> None:
    given = ImmediateResponse(
        422, headers={"retry-after": "1"}, problem={"title": "No", "detail": "The order.", "errors": [{"at": ("/a",)}]}
    )
    found = answer(given)
    assert json.loads(found.body) == {
        "type": "about:blank",
        "title": "No",
        "detail": "The order.",
        "errors": [{"at": ["/a"]}],
        "status": 422,
        "request_id": "0b9e-77",
    }
    assert (header(found, "content-type"), header(found, "retry-after")) == ("application/problem+json", "1")


@pytest.mark.parametrize("details", ["secret reason", "policy_failed:auth_v1.0.0"])
@pytest.mark.parametrize("kind", list(ErrorFormat))
def test_why_is_in_no_format(kind: ErrorFormat, details: str) -> None:
    found = answer(ImmediateResponse(403, details=details), kind)
    assert details.encode() not in found.body
    assert found.details == details


@pytest.mark.parametrize("status", [200, 204, 302, 304])
def test_what_is_no_denial_gets_no_body(status: int) -> None:
    found = answer(ImmediateResponse(status))
    assert (found.body, header(found, "content-type")) == (b"", None)


@pytest.mark.parametrize("body", [b"", "", b"own", "own", '{"error":"own"}'])
@pytest.mark.parametrize("kind", list(ErrorFormat))
def test_a_body_of_the_policys_own_is_kept_and_an_empty_one_too(kind: ErrorFormat, body: str | bytes) -> None:
    found = answer(ImmediateResponse(403, body, {"content-type": "application/json"}), kind)
    assert found.body == (body if isinstance(body, bytes) else body.encode())
    assert header(found, "content-type") == "application/json"


def test_the_request_id_is_on_every_answer_and_a_policys_own_is_kept() -> None:
    assert header(answer(ImmediateResponse(200, "ok")), "x-request-id") == "0b9e-77"
    assert header(answer(content_type="application/grpc"), "x-request-id") == "0b9e-77"
    own = ImmediateResponse(403, headers={"X-Request-Id": "mine"})
    assert [value for name, value, _ in answer(own).changed if name == "x-request-id"] == [b"mine"]


@pytest.mark.parametrize(
    ("accept", "text"),
    [
        ("text/plain", True),
        ("text/plain, application/json;q=0.5", True),
        ("text/*", True),
        ("TEXT/PLAIN", True),
        (["application/json;q=0.2", "text/plain;q=0.3"], True),
        ("text/plain, */*;q=0.1", True),
        ("text/plain;q=0.1, application/json", False),
        ("text/plain;q=0.5, application/problem+json;q=0.6", False),
        ("text/plain, application/json", False),
        ("text/plain, */*", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("text/plain;q=0", False),
        ("text/plain;q=x", False),
        ("*/*", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_plain_text_for_who_prefers_it(accept: Any, *, text: bool) -> None:
    found = answer(accept=accept)
    assert (header(found, "content-type") == "text/plain; charset=utf-8") is text
    assert (found.body == b"Forbidden; request id 0b9e-77\n") is text
    assert header(answer(errors=ErrorFormat.OPENAI, accept=accept), "content-type") == "application/json"


@pytest.mark.parametrize(
    ("status", "grpc_status"),
    [(400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (500, 2), (502, 14), (503, 14), (504, 14), (418, 2)],
)
@pytest.mark.parametrize("kind", [None, *ErrorFormat])
def test_a_grpc_client_gets_a_status_and_a_message(status: int, grpc_status: int, kind: ErrorFormat | None) -> None:
    found = answer(ImmediateResponse(status), kind, content_type="application/grpc+proto")
    assert found.grpc_status == grpc_status
    assert found.body.endswith(b"; request id 0b9e-77")
    assert header(found, "content-type") is None


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (ImmediateResponse(403, problem={"detail": "Not yours."}), b"Not yours.; request id 0b9e-77"),
        (ImmediateResponse(403, "my message"), b"my message"),
        (ImmediateResponse(403, "my message", {"content-type": "text/plain"}), b"my message"),
        (ImmediateResponse(403, b""), b""),
        (ImmediateResponse(403, '{"a":1}', {"content-type": "application/json"}), b"Forbidden; request id 0b9e-77"),
        (ImmediateResponse(403, "x" * 100_000), b"x" * 1024),
    ],
)
def test_the_grpc_message_is_text_and_bounded(response: ImmediateResponse, message: bytes) -> None:
    assert answer(response, content_type="application/grpc").body == message


def test_the_policys_grpc_status_goes_before_the_mapped_one() -> None:
    assert answer(ImmediateResponse(429, grpc_status=8), content_type="application/grpc").grpc_status == 8
    assert answer(ImmediateResponse(200, grpc_status=0), content_type="application/grpc").grpc_status == 0


@pytest.mark.parametrize("content_type", ["application/grpc-web", "application/json", "application/grpcx"])
def test_what_envoy_does_not_answer_as_grpc_is_not_grpc(content_type: str) -> None:
    found = answer(content_type=content_type)
    assert found.grpc_status is None
    assert json.loads(found.body)["status"] == 403


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"tools/call"}', 7),
        (b'{"jsonrpc":"2.0","id":"a-1","method":"tools/call"}', "a-1"),
        (b'{"jsonrpc":"2.0","id":1.5}', 1.5),
        (b'{"jsonrpc":"2.0","id":null}', None),
        (b'{"jsonrpc":"2.0","method":"notifications/initialized"}', None),
        (b'{"id":true}', None),
        (b'{"id":{"a":1}}', None),
        (b'{"id":NaN}', None),
        (b'{"id":' + b"9" * 5000 + b"}", None),
        (b'{"id":"' + b"x" * 300 + b'"}', None),
        (b'[{"id":1}]', None),
        (b"[" * 30_000, None),
        (b'{"id":1,"x":"' + b"x" * 70_000 + b'"}', None),
        (b"no json", None),
        (b"\xff", None),
        (b"", None),
        (None, None),
    ],
)
def test_a_json_rpc_error_has_the_requests_id(body: bytes | None, expected: Any) -> None:
    found = json.loads(answer(ImmediateResponse(403), ErrorFormat.JSON_RPC, body=body).body)
    assert found == {
        "jsonrpc": "2.0",
        "id": expected,
        "error": {"code": -32000, "message": "Forbidden", "data": {"status": 403, "request_id": "0b9e-77"}},
    }


@pytest.mark.parametrize(
    ("status", "code"), [(400, -32600), (413, -32600), (401, -32000), (429, -32000), (503, -32603)]
)
def test_json_rpc_codes(status: int, code: int) -> None:
    assert json.loads(answer(ImmediateResponse(status), ErrorFormat.JSON_RPC).body)["error"]["code"] == code


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (401, "invalid_request_error", "invalid_api_key"),
        (429, "rate_limit_error", "rate_limit_exceeded"),
        (413, "invalid_request_error", None),
        (500, "server_error", None),
    ],
)
def test_openais_error_object(status: int, kind: str, code: str | None) -> None:
    found = json.loads(answer(ImmediateResponse(status, problem={"detail": "It is so."}), ErrorFormat.OPENAI).body)
    assert found == {
        "error": {"message": "It is so.", "type": kind, "param": None, "code": code},
        "request_id": "0b9e-77",
    }


def test_a_policys_own_error_object_goes_into_openais() -> None:
    given = ImmediateResponse(413, problem={"detail": "Long.", "error": {"code": "context_length_exceeded"}})
    error = json.loads(answer(given, ErrorFormat.OPENAI).body)["error"]
    assert (error["message"], error["code"]) == ("Long.", "context_length_exceeded")


def test_anthropics_error_object() -> None:
    assert json.loads(answer(ImmediateResponse(429), ErrorFormat.ANTHROPIC).body) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "Too Many Requests"},
        "request_id": "0b9e-77",
    }


JSON_TEMPLATE = (
    '{"code": {{status}}, "why": "{{ title }}", "more": "{{detail}}", "id": "{{request_id}}", "at": "{{route}}"}'
)


def test_a_template_is_written_as_its_content_type_is() -> None:
    told = ImmediateResponse(403, problem={"detail": 'a "b"\n<i>'})
    found = answer(told, ErrorAnswers(templates=(ErrorTemplate(JSON_TEMPLATE, "application/json"),)))
    expected = {"code": 403, "why": "Forbidden", "more": 'a "b"\n<i>', "id": "0b9e-77", "at": "shop"}
    assert json.loads(found.body) == expected
    assert header(found, "content-type") == "application/json"
    page = ErrorAnswers(templates=(ErrorTemplate("<p>{{detail}}</p>", "text/html; charset=utf-8"),))
    assert answer(told, page).body == b"<p>a &quot;b&quot;\n&lt;i&gt;</p>"
    assert answer(told, ErrorAnswers(templates=(ErrorTemplate("{{detail}}"),))).body == b'a "b"\n<i>'


@pytest.mark.parametrize(("status", "body"), [(401, b"own"), (403, b"class"), (500, b"any"), (599, b"any")])
def test_the_most_specific_template_is_taken(status: int, body: bytes) -> None:
    templates = (ErrorTemplate("own", status="401"), ErrorTemplate("class", status="4xx"), ErrorTemplate("any"))
    assert answer(ImmediateResponse(status), ErrorAnswers(ErrorFormat.OPENAI, templates)).body == body


def test_a_template_is_not_for_grpc_nor_for_a_policys_own_body() -> None:
    templates = ErrorAnswers(templates=(ErrorTemplate("any"),))
    assert answer(DENIED, templates, content_type="application/grpc").body == b"Forbidden; request id 0b9e-77"
    assert answer(ImmediateResponse(403, "own"), templates).body == b"own"
