"""What clients get on a denial, through Envoy with the configuration that the product writes, and the product's policies.

Problem details, plain text, a real gRPC client, JSON-RPC, OpenAI's shape and templates; what policies before the one that
denies add, on either protocol; where Envoy itself answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from integration.harness.chain_file import Document, policy
from integration.harness.client import Connection, Reply
from integration.harness.client_h2 import send_h2
from integration.harness.exchange import Answer, Received
from integration.runtime_stack import Runtime, document, eventually, generated

POLICIES = Path(__file__).parent.parent / "policies"
APP = "https://app.example.com"
KEYS = {"keys": [{"client": "mobile", "sha256": "477739a1d440eb56e7a2aa8b2ae592b43568448c046c22bc2d63bc36009cbc48"}]}
GOOD = ("x-api-key", "mobile-key-1")
DENIES = policy("api-key-validation", "v1.0.0", KEYS)
SCHEMA = policy("json-schema-validation", "v1.0.0", {"request": {"schema": {"type": "object", "required": ["id"]}}})
EVERY_RESPONSE = (
    policy("security-headers", "v1.0.0"),
    policy("request-id", "v1.0.0"),
    policy("log-message", "v1.0.0"),
    policy("cors", "v1.0.0", {"allow_origins": [APP], "expose_headers": ["x-request-id"]}),
    policy("rate-limit", "v1.0.0", {"limits": ["1000/hour"], "key": [{"source": "route"}], "headers_on_allowed": True}),
)
JSON_TEMPLATE = '{"code": {{status}}, "title": "{{title}}", "id": "{{request_id}}", "route": "{{route}}"}'
CHAINS: dict[str, list[Document]] = {
    "plain": [DENIES],
    "outer": [*EVERY_RESPONSE, policy("cache", "v1.0.0", {"default_ttl": "60s", "status_header": "x-cache"}), DENIES],
    "headers": [*EVERY_RESPONSE, DENIES],
    "text": [DENIES],
    "mcp": [DENIES, SCHEMA],
    "openai": [DENIES],
    "templates": [DENIES],
    "masked": [policy("pii-masking", "v1.0.0"), DENIES],
    "upstream": [
        *(
            policy("security-headers", "v1.0.0", {"permissions_policy": who}, condition=f'response.origin == "{who}"')
            for who in ("upstream", "envoy", "policy")
        ),
        policy("api-key-validation", "v1.0.0", KEYS, condition='request.path.endsWith("/closed")'),
    ],
}
ERRORS: dict[str, Document] = {
    "text": {"format": "text"},
    "mcp": {"format": "json-rpc"},
    "openai": {"format": "openai"},
    "templates": {
        "templates": [
            {"status": 401, "content_type": "application/json", "body": JSON_TEMPLATE},
            {"body": "other"},
        ]
    },
}


def _answer(request: Received) -> Answer:
    return Answer.of(b"{}", headers=[("content-type", "application/json")])


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    # Routes of the generated configuration have the prefix of their name.
    with generated(CHAINS, policies=POLICIES) as started:
        started.upstream.answer_with(_answer)
        routes = [
            route | {"errors": ERRORS[route["route_key"]]} if route["route_key"] in ERRORS else route
            for route in map(dict, document(CHAINS)["routes"])
        ]
        swaps = started.value("policy_engine_configuration_swaps_total")
        started.chains.write({"version": "v1", "routes": routes})
        eventually(lambda: started.value("policy_engine_configuration_swaps_total") > swaps, "active")
        yield started


def problem_of(reply: Reply) -> Any:
    assert reply.header("content-type") == "application/problem+json"
    return json.loads(reply.body)


def test_problem_details_with_the_id_that_envoy_gave(runtime: Runtime) -> None:
    reply = runtime.send("/plain/")
    problem = problem_of(reply)
    assert problem == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "request_id": reply.header("x-request-id"),
    }
    assert len(problem["request_id"]) == 36
    assert reply.header("www-authenticate")


def test_plain_text_when_asked_for_or_configured(runtime: Runtime) -> None:
    asked = runtime.send("/plain/", headers=[("accept", "text/plain"), ("accept", "application/json;q=0.5")])
    configured = runtime.send("/text/", headers=[("accept", "application/json")])
    for reply in (asked, configured):
        assert reply.header("content-type") == "text/plain; charset=utf-8"
        assert reply.body.decode() == f"Unauthorized; request id {reply.header('x-request-id')}\n"


@pytest.mark.parametrize("identifier", [7, "a-1", None])
def test_a_json_rpc_error_has_the_id_where_the_body_was_read(runtime: Runtime, identifier: Any) -> None:
    call = json.dumps({"jsonrpc": "2.0", "id": identifier, "method": "tools/call"}).encode()
    typed = [("content-type", "application/json"), ("accept", "application/json, text/event-stream")]
    unread = json.loads(runtime.send("/mcp/", method="POST", headers=typed, body=call).body)
    assert (unread["id"], unread["error"]["message"]) == (None, "Unauthorized")
    wrong = b"[" + call + b"]" if identifier is None else call.replace(b'"id"', b'"id" ')
    read = runtime.send("/mcp/", method="POST", headers=[*typed, GOOD], body=wrong.replace(b"tools", b"t"))
    if identifier is None:
        assert json.loads(read.body)["id"] is None
    else:
        assert read.status == 200


def test_openais_shape(runtime: Runtime) -> None:
    reply = runtime.send("/openai/", method="POST", body=b"{}")
    assert (reply.status, reply.header("content-type")) == (401, "application/json")
    assert json.loads(reply.body)["error"]["code"] == "invalid_api_key"


def test_templates_of_a_route(runtime: Runtime) -> None:
    reply = runtime.send("/templates/")
    told = {"code": 401, "title": "Unauthorized", "id": reply.header("x-request-id"), "route": "templates"}
    assert json.loads(reply.body) == told
    several = runtime.send("/templates/", headers=[("x-api-key", "a"), ("x-api-key", "b")])
    assert (several.status, several.body) == (400, b"other")


def test_a_grpc_client_gets_a_status_and_a_message_it_can_read(runtime: Runtime) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{runtime.envoy.port}") as channel:
        for route in ("plain", "openai", "templates", "headers", "outer", "mcp"):
            call = channel.unary_unary(f"/{route}/Method", None, None)
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=20)
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            metadata = dict(error.trailing_metadata())
            identifier = metadata.get("x-request-id")
            assert ("x-content-type-options" in metadata) is (route in {"headers", "outer"})
            assert error.details() == f"Unauthorized; request id {identifier}"


@pytest.mark.parametrize("version", [1, 2])
def test_policies_before_it_see_a_denial(runtime: Runtime, version: int) -> None:
    given = [("origin", APP)]
    if version == 1:
        reply = runtime.send("/outer/", headers=given)
    else:
        reply = send_h2(runtime.envoy.port, "GET", "/outer/", headers=given)
    assert reply.status == 401
    assert reply.header("access-control-allow-origin") == APP
    assert reply.header("access-control-expose-headers") == "x-request-id"
    assert reply.header("x-content-type-options") == "nosniff"
    assert (reply.header("ratelimit") or "").startswith('"')
    assert reply.values("x-request-id") == [problem_of(reply)["request_id"]]
    assert reply.header("x-cache") == "miss"


def test_a_denial_is_logged_and_not_stored(runtime: Runtime) -> None:
    target = "/outer/not-stored"
    denied = runtime.send(target, headers=[("origin", APP)])
    identifier = denied.header("x-request-id") or ""
    eventually(lambda: identifier in runtime.engine.log(), "logged")
    (line,) = [
        json.loads(line)
        for line in runtime.engine.log().splitlines()
        if identifier in line and '"policy.log-message"' in line
    ]
    assert "401" in json.dumps(line)
    passed = runtime.send(target, headers=[GOOD])
    assert (passed.status, passed.body) == (200, b"{}")


def test_a_head_request_gets_no_content_and_the_connection_goes_on(runtime: Runtime) -> None:
    with Connection(runtime.envoy.port) as connection:
        for _ in range(2):
            reply = connection.send("HEAD", "/outer/", headers=[("origin", APP)])
            assert (reply.status, reply.body, reply.header("access-control-allow-origin")) == (401, b"", APP)
            assert connection.send("GET", "/plain/", headers=[GOOD]).status == 200


def test_a_body_hook_changes_what_a_policy_answered(runtime: Runtime) -> None:
    reply = runtime.send("/masked/", headers=[("x-request-id", "ignored")])
    assert reply.status == 401
    assert problem_of(reply)["title"] == "Unauthorized"
    assert reply.header("content-length") == str(len(reply.body))


def test_conditions_tell_who_answered(runtime: Runtime) -> None:
    assert runtime.send("/upstream/").header("permissions-policy") == "upstream"
    closed = runtime.send("/upstream/closed")
    assert (closed.status, closed.header("permissions-policy")) == (401, "policy")
    # The upstream breaks off: Envoy answers with 503, and the engine sees that it did.
    runtime.upstream.answer_with(lambda request: Answer(delay_s=0, headers=[("content-length", "x")]))
    try:
        broken = runtime.send("/upstream/")
        assert broken.status in {502, 503}
        # Envoy 1.36 shows the filter none of its own answers at this point, later ones do.
        assert broken.header("permissions-policy") in {None, "envoy"}
    finally:
        runtime.upstream.answer_with(_answer)


def test_details_are_in_envoys_log_and_nowhere_else(runtime: Runtime) -> None:
    reply = runtime.send("/plain/why")
    assert b"api_key" not in reply.body
    assert not any("api_key" in value for _, value in reply.headers)
