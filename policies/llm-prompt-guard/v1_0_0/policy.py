"""Denies or redacts prompts, and stops or redacts answers, by patterns and words."""

from __future__ import annotations

import logging
from typing import Any

from policy_body import is_compressed, matches_media, media_type_of, problem
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
from policy_llm import ROLES

from .answer import Answer, AnswerRules, EventAnswer, JsonAnswer, UnreadableAnswer
from .prompt import PromptRules, Verdict, judge
from .rules import RuleTexts, compiled

_log = logging.getLogger("policy.llm-prompt-guard")
_IDENTITY = RequestMutation(set_headers={"accept-encoding": "identity"})
_JSON = ("application/json", "application/*+json", "text/json")
_UNREADABLE = (
    "application/x-ndjson",
    "application/jsonl",
    "application/jsonlines",
    "application/json-seq",
    "application/octet-stream",
    "application/vnd.amazon.eventstream",
)
"""Media types of answers of models that are not read."""


class LlmPromptGuard(Policy):
    """403 for a denied prompt; a denied answer ends the way its API says that content was filtered."""

    def __init__(self, parameters: Parameters) -> None:
        prompt, answer = parameters.get("prompt", {}), parameters.get("answer", {})
        if not prompt and not answer:
            raise ParameterError("rules for prompt or answer are expected")
        label = parameters.get("label", "[redacted]")
        self._prompt_rules = PromptRules(
            texts=RuleTexts.of(prompt, "/prompt/"),
            roles=frozenset(prompt.get("roles", ROLES)),
            longest=prompt.get("max_characters"),
            redacts=prompt.get("action", "deny") == "redact",
            label=label,
            passes_unknown=prompt.get("unknown_shape", "deny") == "pass",
        )
        self._answer_rules = AnswerRules(
            texts=RuleTexts.of(answer, "/answer/"),
            window=answer.get("window", 200),
            label=label if answer.get("action", "stop") == "redact" else None,
            passes_unknown=answer.get("unknown_shape", "deny") == "pass",
        )
        for texts in (self._prompt_rules.texts, self._answer_rules.texts):
            compiled(texts)  # what is wrong with them is told now
        self.idle_phases = (() if prompt else ("request_body",)) + (
            () if answer else ("request_headers", "response_body")
        )
        self._answers: dict[int, Answer | None] = {}  # by id(request), until the end of the stream

    def on_request_headers(self, request: Request) -> RequestMutation:
        """Ask for an answer that can be read as it passes."""
        return _IDENTITY

    def on_request_body(self, request: Request) -> RequestMutation | ImmediateResponse | None:
        """Look at all that the model will read."""
        if not request.body:
            return None
        return self._judged(request, judge(self._prompt_rules, request.body))

    def on_response_body(self, request: Request, response: Response) -> ResponseMutation | ImmediateResponse | None:
        """Look at a whole answer, which the engine has decoded."""
        if not response.body:
            return None
        answer = self._answer(response)
        if answer is None:
            return None
        out = answer.feed(response.body, end=True)
        self._tell(request, answer)
        if answer.fault:
            return problem(502, "Bad Gateway", "The answer cannot be checked.", reason=f"llm_{answer.fault}")
        return None if out == response.body else ResponseMutation(body=out)

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> ChunkMutation | None:
        """Look at the answer as it passes; one that cannot be read ends here."""
        key = id(request)
        if key not in self._answers:
            if not chunk.data:
                return None
            compressed = is_compressed(response.headers)
            self._answers[key] = (
                UnreadableAnswer(self._answer_rules, "answer_compressed") if compressed else self._answer(response)
            )
        answer = self._answers[key]
        if answer is None:
            return None
        out = answer.feed(chunk.data, end=chunk.end)
        over = answer.stopped or bool(answer.fault)
        if over or chunk.end:
            self._tell(request, answer)
        return None if out == chunk.data and not over else ChunkMutation(out, end=over)

    def on_stream_end(self, request: Request) -> None:
        """Drop what is held back."""
        self._answers.pop(id(request), None)

    def _judged(self, request: Request, verdict: Verdict) -> RequestMutation | ImmediateResponse | None:
        if verdict.unknown:
            self._report(request, "llm_prompt_unknown", verdict.denied)
        if verdict.denied:
            self._report(request, "llm_prompt_denied", verdict.denied)
        if verdict.reason == "llm_body_not_json":
            return problem(400, "Bad Request", verdict.detail, reason=verdict.reason)
        if verdict.reason:
            return problem(403, "Forbidden", verdict.detail, reason=verdict.reason)
        return None if verdict.body is None else RequestMutation(body=verdict.body)

    def _answer(self, response: Response) -> Answer | None:
        """Return what looks at this answer; None for one of a media type that models do not answer with."""
        media_type = media_type_of(response.headers)
        if media_type == "text/event-stream":
            return EventAnswer(self._answer_rules)
        if matches_media(media_type, _JSON):
            return JsonAnswer(self._answer_rules)
        if not media_type or media_type in _UNREADABLE or "," in media_type:
            return UnreadableAnswer(self._answer_rules, "answer_unknown")
        return None

    def _tell(self, request: Request, answer: Answer) -> None:
        if answer.stopped:
            self._report(request, "llm_answer_denied", 1)
        elif answer.fault:
            self._report(request, answer.fault, 0)
        elif answer.unknown:
            self._report(request, "llm_answer_unknown", answer.unknown)

    def _report(self, request: Request, event: str, count: int) -> None:
        request.metadata["llm_prompt_guard"] = {"event": event, "texts": count}
        facts: dict[str, Any] = {"reason": event, "texts": count}
        extra = {"event": event, "request_id": request.id or None, "route": request.route, "fields": facts}
        _log.warning("a prompt or answer is not allowed, or could not be looked at", extra=extra)
