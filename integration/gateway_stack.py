"""The chains of docs/gateways.md behind Envoy, as they stand there, before upstreams that say what a test wants."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from docs.pages import WORKSPACE, blocks
from integration.harness import client
from integration.harness.chain_file import ChainFile
from integration.harness.client import Reply
from integration.harness.engine import EngineProcess
from integration.harness.envoy import Envoy, EnvoyProcess
from integration.harness.envoy_config import Bootstrap, Route
from integration.harness.exchange import Answer, HeaderList, Received
from integration.harness.upstream import Upstream

PAGE = WORKSPACE / "docs/gateways.md"
JSON = [("content-type", "application/json")]
EVENTS = [("content-type", "text/event-stream")]
STREAMED = {"request_header_mode": "SEND", "response_header_mode": "SEND", "response_body_mode": "STREAMED"}
KEYS = {name: f"{name.lower()}-key-0123456789" for name in ("ACME", "BOLT", "APP", "ROBOT", "ROOT")}
"""The keys of the page's clients, by what their variables begin with."""

BY_BACKEND = frozenset({"llm-gateway"})
"""Routes whose cluster is named by `x-llm-backend`."""


def chains_of_the_page() -> dict[str, Any]:
    """Return the chain files of the page as one."""
    files = [yaml.safe_load(block.text) for block in blocks(PAGE) if block.language == "yaml"]
    return {"version": "v1", "routes": [route for file in files for route in file["routes"]]}


@dataclass(frozen=True, slots=True)
class Gateway:
    """Envoy with a route for each chain, at the host KEY, and the upstreams behind it."""

    envoy: Envoy
    upstream: Upstream
    openai: Upstream
    anthropic: Upstream

    @property
    def url(self) -> str:
        """Where Envoy listens; the host of a request says which chain is meant."""
        return f"http://127.0.0.1:{self.envoy.port}"

    def send(self, key: str, target: str, *, method: str = "GET", headers: HeaderList = (), body: bytes = b"") -> Reply:
        """Send a request through Envoy to the chain of this key."""
        return client.send(self.envoy.port, method, target, headers=[("host", key), *headers], body=body)


@contextlib.contextmanager
def gateway() -> Iterator[Gateway]:
    """Run all of it."""
    with contextlib.ExitStack() as stack:
        # Not pytest's directory: the path of a Unix socket must be short (108 bytes, unix(7)).
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gw-", dir="/tmp")))
        upstream, openai, anthropic = (stack.enter_context(Upstream()) for _ in range(3))
        document = chains_of_the_page()
        file = ChainFile(directory / "chains.yaml")
        file.write(document)
        hashes = {f"{name}_KEY_SHA256": hashlib.sha256(key.encode()).hexdigest() for name, key in KEYS.items()}
        policies = WORKSPACE / "policies"
        engine = stack.enter_context(EngineProcess(directory, chains=file.path, policies=policies, env=hashes))
        engine.ready()
        routes = [_route(route["route_key"]) for route in document["routes"]]
        clusters = {"openai": openai.port, "anthropic": anthropic.port}
        bootstrap = Bootstrap(routes=routes, engine=engine.address, upstream_port=upstream.port, upstreams=clusters)
        envoy = stack.enter_context(EnvoyProcess(bootstrap, directory)).ready()
        yield Gateway(envoy, upstream, openai, anthropic)
        samples = engine.admin.samples("policy_engine_handler_errors_total")
        assert sum(samples.values()) == 0, engine.log()


def _route(key: str) -> Route:
    overrides = {"processing_mode": STREAMED}
    header = "x-llm-backend" if key in BY_BACKEND else ""
    return Route(prefix="/", domain=key, name=key, overrides=overrides, cluster_header=header)


def body_of(received: Received) -> Any:
    """Return the JSON that an upstream got."""
    return json.loads(bytes(received.body))


def completion(text: str, model: str = "gpt-4o-mini") -> Answer:
    """Return an answer of chat completions."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    document = {"id": "c1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
    return Answer.of(json.dumps({**document, "usage": usage}), headers=JSON)


def chunks(*deltas: dict[str, Any], finish: str = "stop") -> Answer:
    """Return a stream of chat completions."""
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}
    said: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    said.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    said.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}})
    events = [b"data: " + json.dumps({**head, **one}).encode() + b"\n\n" for one in said]
    return Answer(headers=EVENTS, chunks=[*events, b"data: [DONE]\n\n"], chunk_delay_s=0.01)


def message(*content: dict[str, Any], stop: str = "end_turn") -> Answer:
    """Return an answer of Anthropic's messages."""
    head = {"id": "m1", "type": "message", "role": "assistant", "model": "claude-haiku-4", "stop_sequence": None}
    usage = {"input_tokens": 5, "output_tokens": 7}
    return Answer.of(json.dumps({**head, "content": content, "stop_reason": stop, "usage": usage}), headers=JSON)


def message_events(*blocks_: tuple[dict[str, Any], dict[str, Any]], stop: str = "end_turn") -> Answer:
    """Return a stream of messages: of each block what it begins with, and one delta."""
    head = {"id": "m1", "type": "message", "role": "assistant", "model": "claude-haiku-4", "content": []}
    usage = {"input_tokens": 5, "output_tokens": 1}
    said: list[dict[str, Any]] = [{"type": "message_start", "message": {**head, "stop_reason": None, "usage": usage}}]
    for index, (block, delta) in enumerate(blocks_):
        said += [
            {"type": "content_block_start", "index": index, "content_block": block},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    said.append({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 7}})
    said.append({"type": "message_stop"})
    events = [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in said]
    return Answer(headers=EVENTS, chunks=events, chunk_delay_s=0.01)
