"""The LLM gateway and the MCP gateway of docs/gateways.md, used by the client libraries `openai`, `anthropic` and `mcp`.

They are needed by nothing else, so the lock may lack them: `pip install openai anthropic mcp`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import mcp
import openai
import pytest
from mcp.client.streamable_http import streamable_http_client

from integration.gateway_stack import (
    EVENTS,
    JSON,
    KEYS,
    Gateway,
    body_of,
    chunks,
    completion,
    gateway,
    message,
    message_events,
)
from integration.harness.exchange import Answer, Received

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
USER: list[Any] = [{"role": "user", "content": "hi"}]
TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]


@pytest.fixture(scope="module")
def served() -> Iterator[Gateway]:
    with gateway() as running:
        yield running


@pytest.fixture(autouse=True)
def _quiet_upstreams(served: Gateway) -> None:
    for one in (served.upstream, served.openai, served.anthropic):
        one.reset()


@pytest.fixture
def chat(served: Gateway) -> Any:
    headers = {"host": "llm-gateway"}
    return openai.OpenAI(api_key=KEYS["APP"], base_url=f"{served.url}/v1", default_headers=headers, max_retries=0)


@pytest.fixture
def claude(served: Gateway) -> Any:
    headers = {"host": "llm-gateway-anthropic"}
    return anthropic.Anthropic(api_key=KEYS["APP"], base_url=served.url, default_headers=headers, max_retries=0)


# -- openai ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["fast", "claude-x"])
def test_openai_gets_a_whole_answer_of_either_provider(served: Gateway, chat: Any, model: str) -> None:
    served.openai.answer_with(completion("sun"))
    served.anthropic.answer_with(message({"type": "text", "text": "sun"}))
    made = chat.chat.completions.create(model=model, messages=USER)
    assert (made.choices[0].message.content, made.choices[0].finish_reason) == ("sun", "stop")
    assert made.usage.total_tokens == 12


@pytest.mark.parametrize("model", ["fast", "claude-x"])
def test_openai_gets_a_stream_of_either_provider(served: Gateway, chat: Any, model: str) -> None:
    served.openai.answer_with(chunks({"role": "assistant", "content": ""}, {"content": "su"}, {"content": "n"}))
    text = {"type": "text", "text": ""}
    served.anthropic.answer_with(message_events((text, {"type": "text_delta", "text": "sun"})))
    options = {"include_usage": True}
    found = list(chat.chat.completions.create(model=model, messages=USER, stream=True, stream_options=options))
    said = [one.choices[0] for one in found if one.choices]
    assert "".join(one.delta.content or "" for one in said) == "sun"
    assert said[-1].finish_reason == "stop"
    assert found[-1].usage.total_tokens == 12


@pytest.mark.parametrize("stream", [False, True])
def test_openai_calls_tools_of_a_model_of_anthropic(served: Gateway, chat: Any, stream: bool) -> None:
    use = {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}
    delta = {"type": "input_json_delta", "partial_json": '{"city":"Bonn"}'}
    whole = message({**use, "input": {"city": "Bonn"}}, stop="tool_use")
    served.anthropic.answer_with(message_events((use, delta), stop="tool_use") if stream else whole)
    if stream:
        with chat.chat.completions.stream(model="claude-x", messages=USER, tools=TOOLS) as running:
            made = running.get_final_completion()
    else:
        made = chat.chat.completions.create(model="claude-x", messages=USER, tools=TOOLS)
    (call,) = made.choices[0].message.tool_calls
    assert (call.id, call.function.name, json.loads(call.function.arguments)) == ("t1", "weather", {"city": "Bonn"})
    assert body_of(served.anthropic.last())["tools"] == [{"name": "weather", "input_schema": SCHEMA}]
    answered = [*USER, made.choices[0].message.to_dict(), {"role": "tool", "tool_call_id": "t1", "content": "sun"}]
    served.anthropic.answer_with(message({"type": "text", "text": "It is sunny."}))
    last = chat.chat.completions.create(model="claude-x", messages=answered, tools=TOOLS)
    assert last.choices[0].message.content == "It is sunny."
    result = body_of(served.anthropic.last())["messages"][-1]["content"][0]
    assert (result["type"], result["tool_use_id"]) == ("tool_result", "t1")


def test_openai_understands_what_is_refused(served: Gateway, chat: Any) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        chat.chat.completions.create(model="none", messages=USER)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.PermissionDeniedError):
        chat.with_options(api_key="wrong").chat.completions.create(model="fast", messages=USER)


# -- anthropic ---------------------------------------------------------------------------------------------------------


def test_anthropic_gets_a_whole_answer_of_a_model_of_openai(served: Gateway, claude: Any) -> None:
    served.upstream.answer_with(completion("sun"))
    made = claude.messages.create(model="m", max_tokens=50, system="Be kind.", messages=USER)
    assert ([one.text for one in made.content], made.stop_reason) == (["sun"], "end_turn")
    assert (made.usage.input_tokens, made.usage.output_tokens) == (5, 7)
    got = served.upstream.last()
    assert got.target == "/v1/chat/completions"
    assert body_of(got)["messages"] == [{"role": "system", "content": "Be kind."}, *USER]


def test_anthropic_streams_and_calls_tools_of_a_model_of_openai(served: Gateway, claude: Any) -> None:
    call = {"index": 0, "id": "t1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": '{"city":"Bonn"}'}}
    deltas = ({"content": "Let me see."}, {"tool_calls": [call]}, {"tool_calls": [more]})
    served.upstream.answer_with(chunks(*deltas, finish="tool_calls"))
    tools = [{"name": "weather", "input_schema": SCHEMA}]
    with claude.messages.stream(model="m", max_tokens=50, messages=USER, tools=tools) as running:
        made = running.get_final_message()
    text, use = made.content
    assert (text.text, use.name, use.input, made.stop_reason) == (
        "Let me see.",
        "weather",
        {"city": "Bonn"},
        "tool_use",
    )
    assert made.usage.output_tokens == 7


def test_anthropic_understands_what_is_refused(served: Gateway, claude: Any) -> None:
    with pytest.raises(anthropic.PermissionDeniedError):
        claude.with_options(api_key="wrong").messages.create(model="m", max_tokens=5, messages=USER)
    body = b'{"error":{"message":"slow down"}}'
    served.upstream.answer_with(Answer.of(body, status=429, headers=JSON))
    with pytest.raises(anthropic.RateLimitError) as limited:
        claude.messages.create(model="m", max_tokens=5, messages=USER)
    assert "slow down" in str(limited.value)


# -- mcp ---------------------------------------------------------------------------------------------------------------


def server(*, streams: bool) -> Any:
    """Return how an MCP server with three tools answers."""

    def answer(received: Received) -> Answer:
        if received.method != "POST":
            return Answer.of(b"", status=405)
        asked = body_of(received)
        if "id" not in asked:
            return Answer.of(b"", status=202)
        result = _result(asked)
        document = {"jsonrpc": "2.0", "id": asked["id"], **result}
        if not streams:
            return Answer.of(json.dumps(document), headers=JSON)
        return Answer(headers=EVENTS, chunks=[f"event: message\ndata: {json.dumps(document)}\n\n".encode()])

    return answer


def _result(asked: dict[str, Any]) -> dict[str, Any]:
    if asked["method"] == "initialize":
        version = asked["params"]["protocolVersion"]
        told = {"capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}}
        return {"result": {"protocolVersion": version, **told}}
    if asked["method"] == "tools/list":
        return {"result": {"tools": [{"name": one, "inputSchema": SCHEMA} for one in ("get_a", "drop", "search")]}}
    if asked["method"] == "tools/call":
        return {"result": {"content": [{"type": "text", "text": "done " + asked["params"]["name"]}]}}
    return {"error": {"code": -32601, "message": "Method not found"}}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(("key", "tools"), [("ROBOT", ["get_a", "search"]), ("ROOT", ["get_a", "drop", "search"])])
def test_mcp_sees_and_calls_the_tools_of_the_client(served: Gateway, streams: bool, key: str, tools: list[str]) -> None:
    served.upstream.answer_with(server(streams=streams))

    async def use() -> tuple[list[str], str, str]:
        headers = {"host": "mcp-gateway", "authorization": f"Bearer {KEYS[key]}"}
        async with (
            httpx2.AsyncClient(headers=headers) as http,
            streamable_http_client(f"{served.url}/mcp", http_client=http) as streams_,
            mcp.ClientSession(streams_[0], streams_[1]) as session,
        ):
            await session.initialize()
            listed = [one.name for one in (await session.list_tools()).tools]
            called: Any = await session.call_tool("get_a", {})
            try:
                dropped: Any = await session.call_tool("drop", {})
            except mcp.MCPError as error:
                return listed, called.content[0].text, str(error)
            return listed, called.content[0].text, dropped.content[0].text

    listed, called, dropped = asyncio.run(use())
    assert (listed, called) == (tools, "done get_a")
    assert dropped == ("done drop" if key == "ROOT" else "This tool may not be called.")
    calls = [body_of(one)["params"]["name"] for one in served.upstream.received if b"tools/call" in one.body]
    assert calls == (["get_a", "drop"] if key == "ROOT" else ["get_a"])


# -- the budget, which the clients of both routes share: last, as nothing is left ---------------------------------------


def _expensive() -> Answer:
    usage = {"prompt_tokens": 150_000, "completion_tokens": 7, "total_tokens": 150_007}
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    document = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return Answer.of(json.dumps(document), headers=JSON)


def test_a_budget_that_is_used_up_is_understood_by_both_clients(served: Gateway, chat: Any, claude: Any) -> None:
    served.openai.answer_with(_expensive())
    for _ in range(2):
        chat.chat.completions.create(model="fast", messages=USER)
    with pytest.raises(openai.RateLimitError) as used_up:
        chat.chat.completions.create(model="fast", messages=USER)
    assert used_up.value.code == "budget_exceeded"
    with pytest.raises(anthropic.RateLimitError, match="used up"):
        claude.messages.create(model="m", max_tokens=5, messages=USER)
