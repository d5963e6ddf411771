"""Counts what language models take and how long, by OpenTelemetry's semantic conventions for generative AI.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/ names metrics, buckets and attributes.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Any

from policy_body import (
    BodyBuffer,
    EventBuffer,
    NotJson,
    dump,
    events_of,
    is_compressed,
    matches_media,
    media_type_of,
    parse,
)
from policy_engine.sdk import Chunk, Counter, Histogram, Parameters, Policy, Request, RequestMutation, Response
from policy_llm import DONE, AnswerCount, Asked, Unclear, asked, asks_for_usage

_log = logging.getLogger("policy.llm-usage")
_LARGEST = 1 << 20  # bytes of an event, or of a JSON answer that is read
_EVENTS = "text/event-stream"
_JSON = ("application/json", "application/*+json", "text/json")
_IDENTITY = RequestMutation(set_headers={"accept-encoding": "identity"})
_OTHER = "other"
_NO_ERROR = "none"
_FAILED = 400

# Buckets as the conventions advise.
_TOKENS = tuple(4.0**power for power in range(14))
_SECONDS = tuple(0.01 * 2**power for power in range(14))
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_EACH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)

_PROVIDER = {"gen_ai_operation_name": None, "gen_ai_provider_name": None, "gen_ai_request_model": None}


@dataclass(frozen=True, slots=True)
class _Read:
    """What a request asks for, and its body when that changed."""

    asked: Asked
    body: bytes | None = None


@dataclass(slots=True)
class _Exchange:
    """One request on its way: when it began, what it asks for and what is known of its answer."""

    began: float
    asked: Asked
    error: str = ""
    first: float | None = None
    count: AnswerCount | None = None
    buffer: EventBuffer | BodyBuffer | None = None
    begun: bool = False
    over: bool = False
    origin: str = ""


@dataclass(slots=True)
class _Kept:
    exchange: _Exchange | None = None
    began: float = field(default_factory=time.monotonic)


class LlmUsage(Policy):
    """Changes nothing but, where it may, the wish for usage in a request; a copy of what passes is read."""

    gen_ai_client_token_usage = Histogram(
        "Tokens of prompts (input) and answers (output), as the upstream reports them.",
        labels={**_PROVIDER, "gen_ai_token_type": ("input", "output")},
        buckets=_TOKENS,
    )
    gen_ai_client_operation_duration = Histogram(
        "Seconds from the request to the end of its answer.", labels={**_PROVIDER, "error_type": None}, buckets=_SECONDS
    )
    gen_ai_server_time_to_first_token = Histogram(
        "Seconds from the request to the first event of a stream.", labels=_PROVIDER, buckets=_FIRST
    )
    gen_ai_server_time_per_output_token = Histogram(
        "Seconds for each token of a stream after the first.", labels=_PROVIDER, buckets=_EACH
    )
    unreported = Counter("Answers of models that said nothing about usage, or could not be read.")

    def __init__(self, parameters: Parameters) -> None:
        self._provider = parameters.get("provider")
        models = parameters.get("models")
        self._models = None if models is None else re.compile("|".join(map(translate, models)))
        self._asks_usage = parameters.get("ask_for_usage", True)

    def on_request_headers(self, request: Request) -> RequestMutation:
        """Ask for an answer that can be read as it passes."""
        self.state(request, _Kept)
        return _IDENTITY

    def on_request_body(self, request: Request) -> RequestMutation | Awaitable[RequestMutation | None] | None:
        """See what is asked for."""
        if not request.body:
            return None
        return self.offload_large(self._read, request.body, request.path, then=lambda read: self._asked(request, read))

    def on_response_headers(self, request: Request, response: Response) -> None:
        """See whether the answer can be read, and whether it is an error."""
        exchange = self.state(request, _Kept).exchange
        if exchange is None or exchange.origin == "upstream":
            return
        exchange.origin = response.origin
        exchange.error = str(response.status) if response.status >= _FAILED else ""
        kind = media_type_of(response.headers)
        if exchange.origin != "upstream" or is_compressed(response.headers):
            return
        if kind == _EVENTS:
            exchange.buffer = EventBuffer(_LARGEST)
        elif matches_media(kind, _JSON):
            exchange.buffer = BodyBuffer(_LARGEST)
        exchange.count = None if exchange.buffer is None else AnswerCount(1)

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> Awaitable[None] | None:
        """Read a copy."""
        exchange = self.state(request, _Kept).exchange
        if exchange is None or exchange.origin != "upstream":
            return None
        exchange.over = chunk.end
        data, first = self._whole(exchange, chunk), not exchange.begun
        if not data or exchange.count is None:
            self._ended(request, exchange, end=chunk.end)
            return None
        exchange.begun = True
        function = _counted_events if isinstance(exchange.buffer, EventBuffer) else _counted_body
        return self.offload_large(
            function, exchange.count, data, first, then=lambda new: self._counted(request, exchange, new, end=chunk.end)
        )

    def on_stream_end(self, request: Request) -> None:
        """Take note of what ended before its answer did."""
        exchange = self.state(request, _Kept).exchange
        if exchange is not None:
            if not exchange.over and not exchange.error:
                exchange.error = "cancelled"
            self._finish(request, exchange)

    def _read(self, body: bytes, path: str) -> _Read | None:
        """Read a request; None for what is none to a model."""
        try:
            document = parse(body)
            if not isinstance(document, dict):
                return None
            wanted = asked(document, path)
        except (NotJson, Unclear):
            return None
        if not wanted.operation:
            return None
        changed = self._asks_usage and asks_for_usage(document)
        return _Read(wanted, dump(document) if changed else None)

    def _asked(self, request: Request, read: _Read | None) -> RequestMutation | None:
        if read is None:
            return None
        kept = self.state(request, _Kept)
        kept.exchange = _Exchange(kept.began, read.asked)
        request.metadata["gen_ai"] = self._attributes(kept.exchange)
        return RequestMutation(body=read.body, dynamic_metadata={"policy.llm_usage": request.metadata["gen_ai"]})

    @staticmethod
    def _whole(exchange: _Exchange, chunk: Chunk) -> bytes:
        """Return what is whole of an answer with this chunk; nothing more once it is too large to be read."""
        buffer = exchange.buffer
        if buffer is None:
            return b""
        whole = buffer.feed(chunk.data)
        if buffer.too_large:
            buffer.finish()
            exchange.buffer = None
            return b""
        if exchange.first is None and whole:
            exchange.first = time.monotonic()
        return whole + (buffer.finish() if chunk.end else b"")

    def _counted(self, request: Request, exchange: _Exchange, count: AnswerCount, *, end: bool) -> None:
        exchange.count = count
        self._ended(request, exchange, end=end)

    def _ended(self, request: Request, exchange: _Exchange, *, end: bool) -> None:
        if end:
            self._finish(request, exchange)

    def _finish(self, request: Request, exchange: _Exchange) -> None:
        """Count the exchange, once."""
        self.state(request, _Kept).exchange = None
        now = time.monotonic()
        attributes = request.metadata["gen_ai"] = self._attributes(exchange)
        labels = {
            "gen_ai_operation_name": exchange.asked.operation,
            "gen_ai_provider_name": attributes.get("gen_ai.provider.name", _OTHER),
            "gen_ai_request_model": self._shown(exchange),
        }
        seconds = now - exchange.began
        self.gen_ai_client_operation_duration.observe(seconds, **labels, error_type=exchange.error or _NO_ERROR)
        count = exchange.count
        usage = count.usage if count is not None else {}
        for kind, name in (("input", "prompt_tokens"), ("output", "completion_tokens")):
            if name in usage:
                self.gen_ai_client_token_usage.observe(usage[name], **labels, gen_ai_token_type=kind)
        if not usage and not exchange.error:
            self.unreported.inc()
        if exchange.first is not None and not exchange.error:
            self.gen_ai_server_time_to_first_token.observe(exchange.first - exchange.began, **labels)
            written = usage.get("completion_tokens", 0)
            if written > 1:
                each = (now - exchange.first) / (written - 1)
                self.gen_ai_server_time_per_output_token.observe(each, **labels)
        fields = {**attributes, "gen_ai.client.operation.duration": round(seconds, 6)}
        extra = {"event": "gen_ai", "request_id": request.id or None, "route": request.route, "fields": fields}
        _log.info("an operation of a model", extra=extra)

    def _shown(self, exchange: _Exchange) -> str:
        """Return the model for a label: what a client makes up must not fill the series."""
        model = exchange.asked.model
        if self._models is not None:
            return model if self._models.match(model) else _OTHER
        succeeded = exchange.origin == "upstream" and exchange.error in ("", "cancelled")
        return model if model and succeeded else _OTHER

    def _attributes(self, exchange: _Exchange) -> dict[str, Any]:
        """Return the attributes of the conventions, as far as they are known."""
        wanted, count = exchange.asked, exchange.count
        head, usage = (None, {}) if count is None else (count.head, count.usage)
        found: dict[str, Any] = {
            "gen_ai.operation.name": wanted.operation,
            "gen_ai.provider.name": self._provider or (head.provider if head is not None else ""),
            "gen_ai.request.model": wanted.model,
            "gen_ai.request.max_tokens": wanted.most,
            "gen_ai.response.id": head.identity if head is not None else "",
            "gen_ai.response.model": head.model if head is not None else "",
            "gen_ai.response.finish_reasons": list(head.reasons) if head is not None else [],
            "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
            "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
            "error.type": exchange.error,
        }
        return {name: value for name, value in found.items() if value not in ("", None, [])}


def _counted_events(count: AnswerCount, data: bytes, first: bool) -> AnswerCount:
    for event in events_of(data, first=first):
        if event.data is not None and event.data.strip() not in (b"", DONE):
            count.read(event.data)
    return count


def _counted_body(count: AnswerCount, data: bytes, first: bool) -> AnswerCount:
    count.read(data)
    return count
