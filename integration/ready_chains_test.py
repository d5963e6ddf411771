"""The chains of docs/gateways.md through Envoy, with plain requests; gateway_clients_test has the client libraries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from integration.gateway_stack import (
    JSON,
    KEYS,
    Gateway,
    body_of,
    chunks,
    completion,
    gateway,
    message,
)
from integration.harness.exchange import Answer


@pytest.fixture(scope="module")
def served() -> Iterator[Gateway]:
    with gateway() as running:
        yield running


@pytest.fixture(autouse=True)
def _quiet_upstreams(served: Gateway) -> None:
    for one in (served.upstream, served.openai, served.anthropic):
        one.reset()


def test_a_public_api_protects_users_limits_and_stores(served: Gateway) -> None:
    stored = [*JSON, ("cache-control", "max-age=60")]
    served.upstream.answer_with(Answer.of(b"{}", headers=stored))
    origin = [("origin", "https://app.example.com")]
    replies = [served.send("public-api", "/a", headers=origin) for _ in range(2)]
    assert [one.status for one in replies] == [200, 200]
    assert len(served.upstream.received) == 1, "the second is stored"
    for one in replies:
        assert one.header("x-content-type-options") == "nosniff"
        assert one.header("access-control-allow-origin") == "https://app.example.com"
        assert "20-in-1s" in (one.header("ratelimit") or "")
        assert one.header("x-request-id")
    assert 429 in {served.send("public-api", "/a").status for _ in range(60)}


@pytest.mark.parametrize(
    ("key", "method", "body", "status"),
    [
        ("ACME", "POST", b'{"item":"a"}', 200),
        ("ACME", "POST", b'{"item":1}', 422),
        ("BOLT", "POST", b'{"item":"a"}', 403),
        ("BOLT", "GET", b"", 200),
        ("", "GET", b"", 401),
    ],
)
def test_a_partner_api_knows_its_clients(served: Gateway, key: str, method: str, body: bytes, status: int) -> None:
    headers = [*JSON, *([("x-api-key", KEYS[key])] if key else []), ("x-tier", "gold")]
    assert served.send("partner-api", "/a", method=method, headers=headers, body=body).status == status
    assert len(served.upstream.received) == (status == 200)
    if status == 200:
        assert served.upstream.last().values("x-client") == [key.lower()]


def ask(served: Gateway, document: dict[str, Any], key: str = "APP") -> Any:
    headers = [*JSON, ("authorization", f"Bearer {KEYS[key]}"), ("x-llm-backend", "upstream")]
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], **document}).encode()
    return served.send("llm-gateway", "/v1/chat/completions", method="POST", headers=headers, body=body)


def test_an_llm_gateway_gives_models_to_their_backends(served: Gateway) -> None:
    served.openai.answer_with(completion("from openai"))
    served.anthropic.answer_with(message({"type": "text", "text": "from anthropic"}))
    for model, text in (("fast", "from openai"), ("claude-x", "from anthropic")):
        reply = ask(served, {"model": model})
        assert reply.status == 200
        assert json.loads(reply.body)["choices"][0]["message"]["content"] == text
        assert json.loads(reply.body)["usage"]["total_tokens"] == 12
    assert body_of(served.openai.last())["model"] == "gpt-4o-mini"
    assert body_of(served.openai.last())["max_tokens"] == 2000
    assert "authorization" not in dict(served.openai.last().headers)
    assert served.anthropic.last().target == "/v1/messages"
    assert served.upstream.received == []
    assert json.loads(ask(served, {"model": "none"}).body)["error"]["code"] == "model_not_found"
    assert ask(served, {"model": "fast"}, "ROBOT").status == 403


def test_an_llm_gateway_streams(served: Gateway) -> None:
    served.openai.answer_with(chunks({"content": "a"}, {"content": "b"}))
    body = ask(served, {"model": "fast", "stream": True}).body
    assert body.endswith(b"data: [DONE]\n\n")
    assert body_of(served.openai.last())["stream_options"] == {"include_usage": True}


def call(tool: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": "x1", "method": "tools/call", "params": {"name": tool}}


@pytest.mark.parametrize(
    ("key", "tool", "status"), [("ROBOT", "get_a", 200), ("ROBOT", "drop", 403), ("ROOT", "drop", 200)]
)
def test_an_mcp_gateway_says_who_may_call_what(served: Gateway, key: str, tool: str, status: int) -> None:
    headers = [*JSON, ("authorization", f"Bearer {KEYS[key]}")]
    served.upstream.answer_with(Answer.of(b'{"jsonrpc":"2.0","id":"x1","result":{}}', headers=JSON))
    reply = served.send("mcp-gateway", "/mcp", method="POST", headers=headers, body=json.dumps(call(tool)).encode())
    assert reply.status == status
    assert json.loads(reply.body)["id"] == "x1"
    if status == 403:
        assert json.loads(reply.body)["error"]["code"] == -32000
