"""Keeps prompts and answers of language models within bounds, and says how many tokens they took."""

from __future__ import annotations

import logging
from typing import Any

from policy_body import is_compressed, media_type_of, problem
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

from .stream import Answer, EventAnswer, JsonAnswer
from .tokens import Bounds, Measured, measure

_log = logging.getLogger("policy.llm-token-limit")
_NAMESPACE = "policy.llm_token_limit"
_IDENTITY = RequestMutation(set_headers={"accept-encoding": "identity"})


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
        self._answers: dict[int, Answer | None] = {}  # by id(request), until the end of the stream

    def on_request_headers(self, request: Request) -> RequestMutation:
        """Ask for an answer that can be read as it passes."""
        return _IDENTITY

    def on_request_body(self, request: Request) -> RequestMutation | ImmediateResponse | None:
        """Estimate the prompt, cap what is asked for."""
        if not request.body:
            return None
        return self._judged(request, measure(self._bounds, request.body))

    def on_response_body(self, request: Request, response: Response) -> ResponseMutation | None:
        """Read a whole answer, and cut one of events that is too long."""
        body = response.body or b""
        answer = self._answer(response)
        if answer is None or not body:
            return None
        self._answers[id(request)] = answer
        new = answer.feed(body, end=True)
        usage = self._publish(request, answer)
        return ResponseMutation(body=None if new == body else new, dynamic_metadata={_NAMESPACE: usage})

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> ChunkMutation | None:
        """Read an answer as it passes; nothing but the part of an event that is not whole is held back."""
        key = id(request)
        if key not in self._answers:
            self._answers[key] = None if is_compressed(response.headers) else self._answer(response)
            if self._stream_limit is not None and is_compressed(response.headers):
                _log.warning("a compressed stream cannot be counted and is ended", extra={"event": "llm_unreadable"})
                return ChunkMutation(b"", end=True)
        answer = self._answers[key]
        if answer is None:
            return None
        new = answer.feed(chunk.data, end=chunk.end)
        if answer.ended or chunk.end:
            self._publish(request, answer)
        return None if new == chunk.data and not answer.ended else ChunkMutation(new, end=bool(answer.ended))

    def on_stream_end(self, request: Request) -> None:
        """Write the line about the usage."""
        answer = self._answers.pop(id(request), None)
        if answer is None:
            return
        if isinstance(answer, JsonAnswer):
            answer.read()  # again, as no chunk was marked as the last when trailers followed
        usage = self._publish(request, answer)
        extra = {"event": "llm_usage", "request_id": request.id or None, "route": request.route, "fields": usage}
        _log.info("tokens of an answer", extra=extra)

    def _judged(self, request: Request, measured: Measured) -> RequestMutation | ImmediateResponse | None:
        if measured.fault:
            return self._not_json(measured.fault)
        request.metadata["llm_usage"] = {"prompt_tokens_estimate": measured.estimate}
        if self._prompt_limit is not None and measured.estimate > self._prompt_limit:
            return self._too_long(measured.estimate)
        return RequestMutation(
            body=measured.body,
            dynamic_metadata={_NAMESPACE: {"prompt_tokens_estimate": measured.estimate}},
        )

    def _answer(self, response: Response) -> Answer | None:
        media_type = media_type_of(response.headers)
        per_token = self._bounds.characters_per_token
        if media_type == "text/event-stream":
            return EventAnswer(per_token, self._stream_limit, refuses_unknown=self._refuses_unknown)
        return JsonAnswer(per_token) if media_type == "application/json" else None

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
