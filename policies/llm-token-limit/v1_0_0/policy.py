"""Keeps prompts and answers of language models within bounds, and says how many tokens they took."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from policy_body import BodyBuffer, EventBuffer, is_compressed, is_denial, matches_media, media_type_of, problem
from policy_engine.sdk import (
    Chunk,
    ChunkMutation,
    ImmediateResponse,
    ParameterError,
    Parameters,
    Policy,
    Request,
    RequestMutation,
    Response,
    ResponseMutation,
)

from .stream import Answer, EventAnswer, JsonAnswer, fed
from .tokens import Bounds, Measured, measure

_log = logging.getLogger("policy.llm-token-limit")
_NAMESPACE = "policy.llm_token_limit"
_LARGEST = 1 << 20  # bytes of an event, or of a JSON answer whose usage is read
_JSON = ("application/json", "application/*+json", "text/json")
_First = TypeVar("_First")
_Last = TypeVar("_Last")
_ForRequest = RequestMutation | ImmediateResponse | None
_ForChunk = ChunkMutation | None
_IDENTITY = RequestMutation(set_headers={"accept-encoding": "identity"})


@dataclass(slots=True)
class _Stream:
    """An answer on its way: what is not whole of it yet, and what reads what is."""

    answer: Answer
    buffer: EventBuffer | BodyBuffer

    def taken(self, fed: tuple[bytes, Answer]) -> bytes:
        """Take the answer over as it came back from where it was fed; return what goes on."""
        out, self.answer = fed
        return out


@dataclass(slots=True)
class _Answer:
    """The answer to one request: whether it has begun, and what reads it; None for what nobody reads."""

    begun: bool = False
    stream: _Stream | None = None


async def _then(earlier: Awaitable[_First], last: Callable[[_First], _Last]) -> _Last:
    return last(await earlier)


class LlmTokenLimit(Policy):
    """Refuses prompts that are too long, caps what may be asked for, ends streams that go on for too long."""

    def __init__(self, parameters: Parameters) -> None:
        self._prompt_limit = parameters.get("max_prompt_tokens")
        self._stream_limit = parameters.get("max_stream_tokens")
        self._bounds = Bounds(
            cap=parameters.get("max_completion_tokens"),
            cap_field=parameters.get("cap_field", "max_tokens"),
            asks_usage=parameters.get("ask_for_usage", False),
            characters_per_token=parameters.get("characters_per_token", 4),
            image_tokens=parameters.get("image_tokens", 1000),
        )
        self._refuses = parameters.get("not_json", "refuse") == "refuse"
        self._refuses_unknown = parameters.get("unknown_shape", "pass") == "deny"
        cap = self._bounds.cap
        if cap is not None and self._stream_limit is not None and self._stream_limit < cap:
            raise ParameterError("a stream may not be shorter than max_completion_tokens", "/max_stream_tokens")

    def on_request_headers(self, request: Request) -> RequestMutation:
        """Ask for an answer that can be read as it passes."""
        return _IDENTITY

    def on_request_body(self, request: Request) -> _ForRequest | Awaitable[_ForRequest]:
        """Estimate the prompt, cap what is asked for."""
        if not request.body:
            return None
        measured = self.offload_large(measure, self._bounds, request.body)
        if isinstance(measured, Measured):
            return self._judged(request, measured)
        return _then(measured, lambda one: self._judged(request, one))

    def on_response_body(
        self, request: Request, response: Response
    ) -> ResponseMutation | Awaitable[ResponseMutation | None] | None:
        """Read a whole answer, and cut one of events that is too long."""
        stream = self._stream(response) if response.body and not is_denial(response) else None
        if stream is None:
            return None
        body = response.body or b""
        self.state(request, _Answer).stream = stream
        new = self._fed(stream, body, end=True)
        if isinstance(new, bytes):
            return self._answered(request, stream, body, new)
        return _then(new, lambda out: self._answered(request, stream, body, out))

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> _ForChunk | Awaitable[_ForChunk]:
        """Read an answer as it passes; nothing but the part of an event that is not whole is held back."""
        answer = self.state(request, _Answer)
        if not answer.begun:
            answer.begun = True
            answer.stream = None if is_compressed(response.headers) else self._stream(response)
            if self._stream_limit is not None and is_compressed(response.headers):
                _log.warning("a compressed stream cannot be counted and is ended", extra={"event": "llm_unreadable"})
                return ChunkMutation(b"", end=True)
        stream = answer.stream
        if stream is None or stream.answer.passes:
            return None
        new = self._fed(stream, chunk.data, end=chunk.end)
        if isinstance(new, bytes):
            return self._passed(request, stream, chunk, new)
        return _then(new, lambda out: self._passed(request, stream, chunk, out))

    def on_stream_end(self, request: Request) -> None:
        """Write the line about the usage."""
        stream = self.state(request, _Answer).stream
        if stream is None:
            return
        usage = self._publish(request, stream.answer)
        extra = {"event": "llm_usage", "request_id": request.id or None, "route": request.route, "fields": usage}
        _log.info("tokens of an answer", extra=extra)

    def _fed(self, stream: _Stream, data: bytes, *, end: bool) -> bytes | Awaitable[bytes]:
        """Return what goes on of `data` now, or later when there is much to read."""
        whole = stream.buffer.feed(data)
        too_large = stream.buffer.too_large
        rest = stream.buffer.finish() if end or too_large else b""
        if too_large:
            return stream.answer.give_up(whole, rest)
        result = self.offload_large(fed, stream.answer, whole, rest, end)
        if isinstance(result, tuple):
            return result[0]
        return _then(result, stream.taken)

    def _answered(self, request: Request, stream: _Stream, body: bytes, new: bytes) -> ResponseMutation:
        usage = self._publish(request, stream.answer)
        return ResponseMutation(body=None if new == body else new, dynamic_metadata={_NAMESPACE: usage})

    def _passed(self, request: Request, stream: _Stream, chunk: Chunk, new: bytes) -> _ForChunk:
        ended = bool(stream.answer.ended)
        if ended or chunk.end:
            self._publish(request, stream.answer)
        if isinstance(stream.answer, JsonAnswer):
            return None  # what was read is a copy
        return None if new == chunk.data and not ended else ChunkMutation(new, end=ended)

    def _judged(self, request: Request, measured: Measured) -> _ForRequest:
        if measured.fault:
            return self._not_json(measured.fault)
        request.metadata["llm_usage"] = {"prompt_tokens_estimate": measured.estimate}
        if self._prompt_limit is not None and measured.estimate > self._prompt_limit:
            return self._too_long(measured.estimate)
        return RequestMutation(
            body=measured.body,
            dynamic_metadata={_NAMESPACE: {"prompt_tokens_estimate": measured.estimate}},
        )

    def _stream(self, response: Response) -> _Stream | None:
        media_type = media_type_of(response.headers)
        per_token = self._bounds.characters_per_token
        if media_type == "text/event-stream":
            answer = EventAnswer(per_token, self._stream_limit, refuses_unknown=self._refuses_unknown)
            return _Stream(answer, EventBuffer(_LARGEST))
        return _Stream(JsonAnswer(per_token), BodyBuffer(_LARGEST)) if matches_media(media_type, _JSON) else None

    def _publish(self, request: Request, answer: Answer) -> dict[str, Any]:
        usage: dict[str, Any] = dict(request.metadata.get("llm_usage", {}))
        usage["completion_tokens_estimate"] = answer.estimate
        usage.update(answer.usage)
        if answer.unknown:
            usage["unknown"] = answer.unknown
        if answer.ended:
            usage["ended"] = answer.ended
        request.metadata["llm_usage"] = usage
        return usage

    def _not_json(self, detail: str) -> ImmediateResponse | None:
        return problem(400, "Bad Request", detail, reason="llm_body_not_json") if self._refuses else None

    def _too_long(self, estimate: int) -> ImmediateResponse:
        detail = f"The prompt has about {estimate} tokens; at most {self._prompt_limit} are allowed."
        error = {"message": detail, "type": "invalid_request_error", "code": "context_length_exceeded"}
        return problem(413, "Content Too Large", detail, reason="llm_prompt_too_long", more={"error": error})
