"""Denies or redacts prompts, and stops or redacts answers, by patterns and words."""

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

from .answer import Answer, EventAnswer, JsonAnswer, Unreadable
from .prompt import Place, places
from .rules import Rules, normal, redacted

_log = logging.getLogger("policy.llm-prompt-guard")
_KINDS: dict[str, type[Answer]] = {"text/event-stream": EventAnswer, "application/json": JsonAnswer}
_IDENTITY = RequestMutation(set_headers={"accept-encoding": "identity"})


class LlmPromptGuard(Policy):
    """403 for a denied prompt; a denied answer ends with `finish_reason: content_filter`."""

    def __init__(self, parameters: Parameters) -> None:
        prompt, answer = parameters.get("prompt", {}), parameters.get("answer", {})
        if not prompt and not answer:
            raise ParameterError("rules for prompt or answer are expected")
        self._roles = frozenset(prompt.get("roles", ("user", "tool", "function")))
        self._prompt_rules = _rules(prompt, "/prompt/")
        self._longest = prompt.get("max_characters")
        self._redacts = prompt.get("action", "deny") == "redact"
        self._label = parameters.get("label", "[redacted]")
        self._answer_rules = _rules(answer, "/answer/")
        self._window = answer.get("window", 200)
        self._answer_label = self._label if answer.get("action", "stop") == "redact" else None
        self.idle_phases = (() if prompt else ("request_body",)) + (
            () if answer else ("request_headers", "response_body")
        )
        self._answers: dict[int, Answer | None] = {}  # by id(request), until the end of the stream

    def on_request_headers(self, request: Request) -> RequestMutation:
        """Ask for an answer that can be read as it passes."""
        return _IDENTITY

    def on_request_body(self, request: Request) -> RequestMutation | ImmediateResponse | None:
        """Look at every text of the prompt."""
        if not request.body:
            return None
        try:
            document = parse(request.body)
        except NotJson as error:
            return problem(400, "Bad Request", f"The body is not valid JSON: {error}.", reason="llm_body_not_json")
        if not isinstance(document, dict):
            return problem(400, "Bad Request", "The body is not a JSON object.", reason="llm_body_not_json")
        found = list(places(document, self._roles))
        if self._longest is not None and sum(len(place.text) for place in found) > self._longest:
            detail = f"The prompt is longer than {self._longest} characters."
            return problem(403, "Forbidden", detail, reason="llm_prompt_too_long")
        denied = [place for place in found if self._is_denied(place)]
        if not denied:
            return None
        self._report(request, "llm_prompt_denied", len(denied))
        if not self._redacts:
            return problem(403, "Forbidden", "The prompt is not allowed.", reason="llm_prompt_denied")
        return RequestMutation(body=dump(document))

    def on_response_body(self, request: Request, response: Response) -> ResponseMutation | ImmediateResponse | None:
        """Look at a whole answer, which the engine has decoded."""
        answer = self._answer(response)
        if answer is None or not response.body:
            return None
        try:
            out = answer.feed(response.body, end=True)
        except Unreadable as reason:
            self._report(request, str(reason), 0)
            return problem(502, "Bad Gateway", "The answer cannot be checked.", reason=f"llm_{reason}")
        if answer.stopped:
            self._report(request, "llm_answer_denied", 1)
        return None if out == response.body else ResponseMutation(body=out)

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> ChunkMutation | None:
        """Look at the answer as it passes; one that cannot be read ends here."""
        key = id(request)
        try:
            if key not in self._answers:
                if is_compressed(response.headers):
                    raise Unreadable("answer_compressed")
                self._answers[key] = self._answer(response)
            answer = self._answers[key]
            if answer is None:
                return None
            out = answer.feed(chunk.data, end=chunk.end)
        except Unreadable as reason:
            self._answers[key] = None
            self._report(request, str(reason), 0)
            return ChunkMutation(b"", end=True)
        if answer.stopped:
            self._report(request, "llm_answer_denied", 1)
        return ChunkMutation(out, end=answer.stopped)

    def on_stream_end(self, request: Request) -> None:
        """Drop what is held back."""
        self._answers.pop(id(request), None)

    def _answer(self, response: Response) -> Answer | None:
        media_type = media_type_of(response.headers)
        kind = _KINDS.get(media_type)
        if kind is None:
            return None
        return kind(self._answer_rules, self._window, self._answer_label)

    def _is_denied(self, place: Place) -> bool:
        """Tell whether a text is denied; redact it in place when that is what to do."""
        text = normal(place.text)
        spans = self._prompt_rules.spans(text)
        if spans and self._redacts:
            place.replace(redacted(text, spans, self._label))
        return bool(spans)

    def _report(self, request: Request, event: str, count: int) -> None:
        request.metadata["llm_prompt_guard"] = {"event": event, "texts": count}
        facts: dict[str, Any] = {"reason": event, "texts": count}
        extra = {"event": event, "request_id": request.id or None, "route": request.route, "fields": facts}
        _log.warning("a prompt or answer is not allowed", extra=extra)


def _rules(side: Any, where: str) -> Rules:
    patterns, words = side.get("deny_patterns", ()), side.get("deny_words", ())
    return Rules(patterns, words, side.get("allow_patterns", ()), where)
