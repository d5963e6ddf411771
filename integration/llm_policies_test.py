"""Policies for language models and tools through Envoy: what is charged, stopped, filtered and rewritten on the wire."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.harness import client
from integration.harness.chain_file import ChainFile, Document, chain, chains, policy
from integration.harness.engine import EngineProcess
from integration.harness.envoy import EnvoyProcess
from integration.harness.envoy_config import Bootstrap, Route
from integration.harness.exchange import Answer
from integration.harness.upstream import Upstream
from integration.runtime_stack import EVENTUALLY_S, Runtime, started
from policy_redis.testing import RedisServer, redis_server

POLICIES = Path(__file__).parent.parent / "policies"
JSON = [("content-type", "application/json")]
EVENTS = [("content-type", "text/event-stream")]
DONE = b"data: [DONE]\n\n"
EIGHT = 8
STREAMED = {"request_header_mode": "SEND", "response_header_mode": "SEND", "response_body_mode": "STREAMED"}


def budget(amount: int, redis: RedisServer | None = None, **more: Any) -> Document:
    """Return an entry of llm-budget for clients by `x-client`: completion tokens, each character one."""
    of_client = {"name": "c", "amount": amount, "window": "month", "unit": "completion_tokens"}
    parameters = {
        "budgets": [{**of_client, "key": 'request.headers["x-client"]', **more.pop("of_budget", {})}],
        "characters_per_token": 1,
        "stream_reserve": 10,
        "answer_reserve": 50,
    }
    if redis is not None:
        parameters["redis"] = {"url": redis.url, "timeout": "5s"}
    return policy("llm-budget", "v1.0.0", parameters, timeout="20s", **more)


TOOL_RULES = [
    {"name": "writers", "action": "allow", "tools": ["put_*"], "when": 'request.headers["x-role"] == "writer"'},
    {"name": "readers", "action": "allow", "tools": ["get_*"]},
]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def runtime(transport: str, redis: RedisServer) -> Iterator[Runtime]:
    chains = {
        "budget": [budget(40, redis)],
        "budget-here": [budget(40, of_budget={"name": "here"})],
        "budget-shadow": [budget(40, of_budget={"name": "shadow"}, mode="shadow")],
        "chat": [policy("llm-translate", "v1.0.0", {"upstream": "anthropic"}, timeout="20s")],
        "usage": [policy("llm-usage", "v1.0.0", timeout="20s")],
        "tools": [policy("mcp-authorize", "v1.0.0", {"rules": TOOL_RULES}, timeout="20s")],
        "tools-shadow": [policy("mcp-authorize", "v1.0.0", {"rules": TOOL_RULES}, timeout="20s", mode="shadow")],
    }
    overrides = {name: {"processing_mode": STREAMED} for name in chains}
    with started(chains, transport=transport, overrides=overrides, policies=POLICIES) as runtime:
        yield runtime
        assert runtime.value("policy_engine_handler_errors_total") == 0
        assert runtime.value("policy_engine_protocol_errors_total") == 0


@pytest.fixture(autouse=True)
def _quiet_upstream(runtime: Runtime) -> None:
    runtime.upstream.reset()


def event(text: str, finish: str | None = None, **more: Any) -> bytes:
    document = {"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **more}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def ask(client: str, **members: Any) -> dict[str, Any]:
    document = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **members}
    return {"method": "POST", "headers": [*JSON, ("x-client", client)], "body": json.dumps(document).encode()}


# -- llm-budget --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", ["budget", "budget-here"])
def test_a_stream_is_stopped_where_the_budget_ends_and_the_next_request_is_refused(
    runtime: Runtime, chain: str
) -> None:
    chunks = [event("a" * 15), event("b" * 15), event("c" * 15), event("never"), DONE]
    runtime.upstream.answer_with(Answer(headers=EVENTS, chunks=chunks, chunk_delay_s=0.02))
    body = runtime.send(f"/{chain}/", **ask("stops", stream=True)).body
    assert body.startswith(chunks[0] + chunks[1])
    last, done, rest = body.removeprefix(chunks[0] + chunks[1]).split(b"\n\n")
    assert json.loads(last.removeprefix(b"data: "))["choices"][0]["finish_reason"] == "length"
    assert (done, rest) == (b"data: [DONE]", b"")
    got = runtime.upstream.last()
    assert json.loads(bytes(got.body))["stream_options"] == {"include_usage": True}
    assert got.values("accept-encoding") == ["identity"]
    refused = runtime.send(f"/{chain}/", **ask("stops", stream=True))
    assert (refused.status, json.loads(refused.body)["error"]["code"]) == (429, "budget_exceeded")
    assert int(refused.header("retry-after") or 0) > 0
    assert runtime.send(f"/{chain}/", **ask("another", stream=True)).status == 200


def test_a_whole_answer_is_charged_by_its_usage(runtime: Runtime) -> None:
    body = json.dumps({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 30}}).encode()
    runtime.upstream.answer_with(Answer.of(body, headers=JSON))
    statuses = [runtime.send("/budget/", **ask("whole", max_tokens=40)).status for _ in range(2)]
    assert statuses == [200, 429]
    assert runtime.send("/budget/", **ask("whole", max_tokens=10)).status == 200


def test_streams_at_the_same_time_share_what_there_is(runtime: Runtime) -> None:
    chunks = [event("aaaaa") for _ in range(6)]
    runtime.upstream.answer_with(Answer(headers=EVENTS, chunks=chunks, chunk_delay_s=0.02))
    bodies: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: bodies.append(runtime.send("/budget/", **ask("many", stream=True)).body))
        for _ in range(EIGHT)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 35 <= 5 * sum(one.count(b"aaaaa") for one in bodies) <= 40


def test_a_client_that_leaves_is_charged_for_what_was_written(runtime: Runtime) -> None:
    slow = Answer(headers=EVENTS, chunks=[event("a" * 12)] * 50, chunk_delay_s=0.5)
    runtime.upstream.answer_with(slow)
    asked = ask("leaves", stream=True)
    head = f"POST /budget/ HTTP/1.1\r\nhost: a\r\nx-client: leaves\r\ncontent-length: {len(asked['body'])}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", runtime.envoy.port), 10) as connection:
        connection.sendall(head.encode() + asked["body"])
        received = b""
        while b"aaaa" not in received:
            received += connection.recv(65536)
    body = json.dumps({"choices": [], "usage": {"completion_tokens": 0}}).encode()
    runtime.upstream.answer_with(Answer.of(body, headers=JSON))
    until = time.monotonic() + EVENTUALLY_S
    # 12 or 24 of 40 are gone, and no more once the stream is over: what is left can be asked for.
    while runtime.send("/budget/", **ask("leaves", max_tokens=16)).status != 200:
        assert time.monotonic() < until, "what the stream held was not given back"
        time.sleep(0.05)
    assert runtime.send("/budget/", **ask("leaves", max_tokens=29)).status == 429


def test_an_upstream_that_fails_costs_nothing(runtime: Runtime) -> None:
    runtime.upstream.answer_with(Answer.of(b'{"error":{"message":"overloaded"}}', status=503, headers=JSON))
    assert [runtime.send("/budget/", **ask("fails", max_tokens=30)).status for _ in range(3)] == [503] * 3


def test_in_shadow_nothing_is_stopped_and_all_is_counted(runtime: Runtime) -> None:
    chunks = [event("a" * 30), event("b" * 30), event("", "stop"), DONE]
    runtime.upstream.answer_with(Answer(headers=EVENTS, chunks=chunks, chunk_delay_s=0.02))
    for _ in range(2):
        assert runtime.send("/budget-shadow/", **ask("shadow", stream=True)).body == b"".join(chunks)
    wanted = runtime.value("policy_engine_policy_shadow_total", wanted="answer")
    assert wanted == 1, "the second would have been refused"


# -- mcp-authorize -----------------------------------------------------------------------------------------------------


def call(tool: str, number: object = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": tool}}


def post(runtime: Runtime, document: Any, role: str = "reader", chain: str = "tools") -> Any:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    pieces = [body[at : at + 40] for at in range(0, len(body), 40)]
    return runtime.send(f"/{chain}/", method="POST", headers=[*JSON, ("x-role", role)], body=pieces)


def tools(*names: str) -> bytes:
    listed = [{"name": name, "description": "x" * 300} for name in names]
    return json.dumps({"jsonrpc": "2.0", "id": "a", "result": {"tools": listed}}).encode()


def test_calls_are_refused_and_nothing_of_them_reaches_the_server(runtime: Runtime) -> None:
    assert post(runtime, call("get_a")).status == 200
    assert post(runtime, call("put_a"), "writer").status == 200
    assert len(runtime.upstream.received) == 2
    for document in (
        call("put_a"),
        [call("get_a"), call("put_a", "b")],
        b'{"jsonrpc":"2.0","method":"tools/call"}',
        b"x",
    ):
        assert post(runtime, document).status in (400, 403)
    twice = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_a","name":"put_a"}}'
    assert post(runtime, twice).status == 400
    assert len(runtime.upstream.received) == 2


@pytest.mark.parametrize("kind", ["json", "events"])
def test_lists_of_tools_have_what_may_be_called(runtime: Runtime, kind: str) -> None:
    whole = tools("get_a", "put_a", "drop", "get_b")
    data = whole if kind == "json" else b"event: message\ndata: " + whole + b"\n\n"
    chunks = [data[at : at + 100] for at in range(0, len(data), 100)]
    runtime.upstream.answer_with(Answer(headers=JSON if kind == "json" else EVENTS, chunks=chunks, chunk_delay_s=0.005))
    asked = {"jsonrpc": "2.0", "id": "a", "method": "tools/list"}
    for role, names in (("reader", ["get_a", "get_b"]), ("writer", ["get_a", "put_a", "get_b"])):
        body = post(runtime, asked, role).body.removeprefix(b"event: message\ndata: ")
        assert [one["name"] for one in json.loads(body)["result"]["tools"]] == names
    seen = runtime.send("/tools/", headers=[("accept", "text/event-stream")]).body
    assert b"put_a" not in seen, "a stream that the client opened for the server's messages"
    assert post(runtime, asked, chain="tools-shadow").body == data


def test_an_event_of_the_server_arrives_before_the_next_is_sent(runtime: Runtime) -> None:
    first, second = (b"data: " + tools(name) + b"\n\n" for name in ("get_a", "get_b"))
    runtime.upstream.answer_with(Answer(headers=EVENTS, chunks=[first, second], chunk_delay_s=1.5))
    with socket.create_connection(("127.0.0.1", runtime.envoy.port), 10) as connection:
        connection.sendall(b"GET /tools/ HTTP/1.1\r\nhost: a\r\n\r\n")
        received = b""
        while b"get_a" not in received:
            received += connection.recv(65536)
        assert b"get_b" not in received


# -- llm-usage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [True, False])
def test_tokens_and_durations_are_counted_and_the_answer_is_the_upstreams(runtime: Runtime, streams: bool) -> None:
    usage: dict[str, Any] = {"usage": {"prompt_tokens": 7, "completion_tokens": 25}}
    chunks = [event("a"), event("b", "stop"), event("", **usage), DONE]
    answer = Answer(headers=EVENTS, chunks=chunks, chunk_delay_s=0.02)
    if not streams:
        chunks = [json.dumps({"choices": [], **usage}).encode()]
        answer = Answer.of(chunks[0], headers=JSON)
    runtime.upstream.answer_with(answer)
    prefix, model = "policy_llm_usage_gen_ai", f"m-{streams}"
    assert runtime.send("/usage/", **ask("x", stream=streams, model=model)).body == b"".join(chunks)
    named = {"gen_ai_request_model": model, "gen_ai_provider_name": "openai", "gen_ai_operation_name": "chat"}
    for kind, count in (("input", 7), ("output", 25)):
        assert runtime.value(f"{prefix}_client_token_usage_sum", **named, gen_ai_token_type=kind) == count
    assert runtime.value(f"{prefix}_client_operation_duration_count", **named, error_type="none") == 1
    assert runtime.value(f"{prefix}_server_time_to_first_token_count", **named) == streams


# -- llm-router --------------------------------------------------------------------------------------------------------

MODELS = [
    {"model": "fast", "targets": [{"backend": "a", "model": "m-a"}], "fallbacks": [{"backend": "b", "model": "m-b"}]},
    {"model": "own", "targets": [{"backend": "b"}]},
]


def test_a_model_goes_to_its_backend_and_to_the_next_while_that_fails() -> None:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp")))
        first, second = stack.enter_context(Upstream()), stack.enter_context(Upstream())
        file = ChainFile(directory / "chains.yaml")
        file.write(chains(chain("models", policy("llm-router", "v1.0.0", {"routes": MODELS, "cooldown": "2s"}))))
        engine = stack.enter_context(EngineProcess(directory, chains=file.path, policies=POLICIES))
        engine.ready()
        routes = [Route(prefix="/", name="models", cluster_header="x-llm-backend")]
        upstreams = {"a": first.port, "b": second.port}
        bootstrap = Bootstrap(routes=routes, engine=engine.address, upstream_port=first.port, upstreams=upstreams)
        envoy = stack.enter_context(EnvoyProcess(bootstrap, directory)).ready()

        def send(model: str) -> int:
            forged = [*JSON, ("host", "a"), ("x-llm-backend", "b" if model == "fast" else "a")]
            body: bytes = ask("x", model=model)["body"]
            return client.send(envoy.port, "POST", "/v1/chat/completions", headers=forged, body=body).status

        first.answer_with(Answer.of(b"{}", status=503, headers=JSON))
        assert [send(model) for model in ("own", "fast", "fast", "none")] == [200, 503, 200, 404]
        assert [json.loads(bytes(one.body))["model"] for one in second.received] == ["own", "m-b"]
        assert [json.loads(bytes(one.body))["model"] for one in first.received] == ["m-a"]
        assert second.last().values("x-llm-backend") == ["b"]
        first.answer_with(Answer.of(b"{}", headers=JSON))
        until = time.monotonic() + EVENTUALLY_S
        while len(first.received) < 2:
            assert time.monotonic() < until, "the first backend was not asked again"
            assert send("fast") == 200
            time.sleep(0.2)


# -- llm-translate -----------------------------------------------------------------------------------------------------


def named(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


def test_a_client_of_chat_completions_talks_to_messages(runtime: Runtime) -> None:
    message = {"id": "m1", "type": "message", "role": "assistant", "model": "claude", "content": []}
    text = {"index": 0, "delta": {"type": "text_delta", "text": "sun"}}
    chunks = [
        named("message_start", message={**message, "usage": {"input_tokens": 3, "output_tokens": 1}}),
        named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        named("content_block_delta", **text),
        named("content_block_stop", index=0),
        named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 5}),
        named("message_stop"),
    ]
    runtime.upstream.answer_with(Answer(headers=EVENTS, chunks=chunks, chunk_delay_s=0.02))
    reply = runtime.send("/chat/v1/chat/completions?a=b", **ask("x", stream=True))
    lines = [line.removeprefix(b"data: ") for line in reply.body.split(b"\n\n")]
    assert lines[-2:] == [b"[DONE]", b""]
    deltas = [json.loads(line)["choices"][0] for line in lines[:-2]]
    assert "".join(one["delta"].get("content") or "" for one in deltas) == "sun"
    assert deltas[-1]["finish_reason"] == "stop"
    got = runtime.upstream.last()
    assert (got.target, got.values("anthropic-version")) == ("/v1/messages?a=b", ["2023-06-01"])
    assert json.loads(bytes(got.body))["max_tokens"] == 4096
    whole = {**message, "content": [{"type": "text", "text": "sun"}], "stop_reason": "max_tokens", "usage": {}}
    runtime.upstream.answer_with(Answer.of(json.dumps(whole), headers=JSON))
    reply = runtime.send("/chat/v1/chat/completions", **ask("x"))
    (choice,) = json.loads(reply.body)["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("sun", "length")
    assert runtime.send("/chat/v1/chat/completions", **ask("x", logprobs=True)).status == 400
    runtime.upstream.answer_with(Answer.of(b'{"type":"error","error":{"message":"busy"}}', status=529, headers=JSON))
    reply = runtime.send("/chat/v1/chat/completions", **ask("x"))
    assert (reply.status, json.loads(reply.body)["error"]["message"]) == (529, "busy")
