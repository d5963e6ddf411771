"""Keeps prompts and answers of language models within bounds, and says how many tokens they took."""

from __future__ import annotations

import logging
from typing import Any

from policy_body import NotJson, dump, is_compressed, media_type_of, parse, problem
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
from .tokens import prompt_size

_log = logging.getLogger("policy.llm-token-limit")
_NAMESPACE = "policy.llm_token_limit"
_CAPPED = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_IDENTITY = RequestMutation(set_headers={"accept-encoding": "identity"})


class LlmTokenLimit(Policy):
    """Refuses prompts that are too long, caps what may be asked for, ends streams that go on for too long."""

    def __init__(self, parameters: Parameters) -> None:
        self._prompt_limit = parameters.get("max_prompt_tokens")
        self._cap = parameters.get("max_completion_tokens")
        self._stream_limit = parameters.get("max_stream_tokens")
        self._per_token = parameters.get("characters_per_token", 4)
        self._image_tokens = parameters.get("image_tokens", 1000)
        self._field = parameters.get("cap_field", "max_tokens")
        self._asks_usage = parameters.get("ask_for_usage", False)
        self._refuses = parameters.get("not_json", "refuse") == "refuse"
        if self._cap is not None and self._stream_limit is not None and self._stream_limit < self._cap:
            raise ParameterError("a stream may not be shorter than max_completion_tokens", "/max_stream_tokens")
        self._answers: dict[int, Answer | None] = {}  # by id(request), until the end of the stream

    def on_request_headers(self, request: Request) -> RequestMutation:
        """Ask for an answer that can be read as it passes."""
        return _IDENTITY

    def on_request_body(self, request: Request) -> RequestMutation | ImmediateResponse | None:
        """Estimate the prompt, cap what is asked for."""
        if not request.body:
            return None
        try:
            document = parse(request.body)
        except NotJson as error:
            return self._not_json(f"The body is not valid JSON: {error}.")
        if not isinstance(document, dict):
            return self._not_json("The body is not a JSON object.")
        characters, tokens = prompt_size(document, self._image_tokens)
        estimate = tokens + int(characters / self._per_token + 0.999999)
        request.metadata["llm_usage"] = {"prompt_tokens_estimate": estimate}
        if self._prompt_limit is not None and estimate > self._prompt_limit:
            return self._too_long(estimate)
        return RequestMutation(
            body=dump(document) if self._capped(document) else None,
            dynamic_metadata={_NAMESPACE: {"prompt_tokens_estimate": estimate}},
        )

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

    def _answer(self, response: Response) -> Answer | None:
        media_type = media_type_of(response.headers)
        if media_type == "text/event-stream":
            return EventAnswer(self._per_token, self._stream_limit)
        return JsonAnswer(self._per_token, None) if media_type == "application/json" else None

    def _publish(self, request: Request, answer: Answer) -> dict[str, Any]:
        usage: dict[str, Any] = dict(request.metadata.get("llm_usage", {}))
        usage["completion_tokens_estimate"] = answer.estimate
        usage.update(answer.usage or {})
        if answer.ended:
            usage["ended"] = answer.ended
        request.metadata["llm_usage"] = usage
        return usage

    def _capped(self, document: dict[str, Any]) -> bool:
        """Cap the members that say how long the answer may be; tell whether anything changed."""
        changed = False
        if self._cap is not None:
            names = [name for name in _CAPPED if document.get(name) is not None] or [self._field]
            for name in names:
                asked = document.get(name)
                if not isinstance(asked, int) or isinstance(asked, bool) or not 0 <= asked <= self._cap:
                    document[name] = self._cap
                    changed = True
        if self._asks_usage and document.get("stream") is True:
            options = document.get("stream_options")
            wanted = {**(options if isinstance(options, dict) else {}), "include_usage": True}
            changed |= wanted != options
            document["stream_options"] = wanted
        return changed

    def _not_json(self, detail: str) -> ImmediateResponse | None:
        return problem(400, "Bad Request", detail, reason="llm_body_not_json") if self._refuses else None

    def _too_long(self, estimate: int) -> ImmediateResponse:
        detail = f"The prompt has about {estimate} tokens; at most {self._prompt_limit} are allowed."
        error = {"message": detail, "type": "invalid_request_error", "code": "context_length_exceeded"}
        return problem(413, "Content Too Large", detail, reason="llm_prompt_too_long", more={"error": error})
