"""Denies or redacts prompts, and stops or redacts answers, by patterns and words."""

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
from policy_llm import ROLES

from .answer import Answer, AnswerRules, EventAnswer, JsonAnswer, fed
from .prompt import PromptRules, Verdict, judge
from .rules import RuleTexts, compiled

_log = logging.getLogger("policy.llm-prompt-guard")
_IDENTITY = RequestMutation(set_headers={"accept-encoding": "identity"})
_LARGEST = 1 << 20  # bytes of an event or of a JSON answer
_First = TypeVar("_First")
_Last = TypeVar("_Last")
_ForRequest = RequestMutation | ImmediateResponse | None
_ForResponse = ResponseMutation | ImmediateResponse | None
_ForChunk = ChunkMutation | None
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


@dataclass(slots=True)
class _Stream:
    """An answer on its way: what is not whole of it yet, and what looks at what is. `fault` is for too much of it."""

    answer: Answer
    buffer: EventBuffer | BodyBuffer
    fault: str

    def taken(self, fed: tuple[bytes, Answer]) -> bytes:
        """Take the answer over as it came back from where it was fed; return what goes out."""
        out, self.answer = fed
        return out


@dataclass(slots=True)
class _Answer:
    """The answer to one request: whether it has begun, and what looks at it; None for what nobody looks at."""

    begun: bool = False
    stream: _Stream | None = None


async def _then(earlier: Awaitable[_First], last: Callable[[_First], _Last]) -> _Last:
    return last(await earlier)


class LlmPromptGuard(Policy):
    """403 for a denied prompt; a denied answer ends the way its API says that content was filtered."""

    offload_above = 4 * 1024

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

    def on_request_headers(self, request: Request) -> RequestMutation:
        """Ask for an answer that can be read as it passes."""
        return _IDENTITY

    def on_request_body(self, request: Request) -> _ForRequest | Awaitable[_ForRequest]:
        """Look at all that the model will read."""
        if not request.body:
            return None
        verdict = self.offload_large(judge, self._prompt_rules, request.body)
        if isinstance(verdict, Verdict):
            return self._judged(request, verdict)
        return _then(verdict, lambda one: self._judged(request, one))

    def on_response_body(self, request: Request, response: Response) -> _ForResponse | Awaitable[_ForResponse]:
        """Look at a whole answer, which the engine has decoded."""
        stream = self._stream(response) if response.body and not is_denial(response) else None
        if stream is None:
            return None
        body = response.body or b""
        changed = self._fed(stream, body, end=True)
        if isinstance(changed, bytes):
            return self._answered(request, stream, body, changed)
        return _then(changed, lambda out: self._answered(request, stream, body, out))

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> _ForChunk | Awaitable[_ForChunk]:
        """Look at the answer as it passes; one that cannot be read ends here."""
        answer = self.state(request, _Answer)
        if not answer.begun:
            if not chunk.data:
                return None
            answer.begun, answer.stream = True, self._stream(response, compressed=is_compressed(response.headers))
        stream = answer.stream
        if stream is None or stream.answer.passes:
            return None
        changed = self._fed(stream, chunk.data, end=chunk.end)
        if isinstance(changed, bytes):
            return self._passed(request, stream, chunk, changed)
        return _then(changed, lambda out: self._passed(request, stream, chunk, out))

    def _judged(self, request: Request, verdict: Verdict) -> _ForRequest:
        if verdict.unknown:
            self._report(request, "llm_prompt_unknown", verdict.denied)
        if verdict.denied:
            self._report(request, "llm_prompt_denied", verdict.denied)
        if verdict.reason == "llm_body_not_json":
            return problem(400, "Bad Request", verdict.detail, reason=verdict.reason)
        if verdict.reason:
            return problem(403, "Forbidden", verdict.detail, reason=verdict.reason)
        return None if verdict.body is None else RequestMutation(body=verdict.body)

    def _stream(self, response: Response, *, compressed: bool = False) -> _Stream | None:
        """Return what looks at this answer; None for one of a media type that models do not answer with."""
        rules, media_type = self._answer_rules, media_type_of(response.headers)
        if media_type == "text/event-stream" and not compressed:
            return _Stream(EventAnswer(rules), EventBuffer(_LARGEST), "event_too_large")
        if matches_media(media_type, _JSON) and not compressed:
            return _Stream(JsonAnswer(rules), BodyBuffer(_LARGEST), "answer_too_large")
        if compressed or not media_type or media_type in _UNREADABLE or "," in media_type:
            fault = "answer_compressed" if compressed else "answer_unknown"
            return _Stream(JsonAnswer(rules), BodyBuffer(-1), fault)
        return None

    def _fed(self, stream: _Stream, data: bytes, *, end: bool) -> bytes | Awaitable[bytes]:
        """Return what goes out of `data` now, or later when there is much to look at."""
        whole = stream.buffer.feed(data)
        too_large = stream.buffer.too_large
        rest = stream.buffer.finish() if end or too_large else b""
        if too_large:
            return stream.answer.give_up(whole, rest, stream.fault)
        result = self.offload_large(fed, stream.answer, whole, rest, end)
        if isinstance(result, tuple):
            return result[0]
        return _then(result, stream.taken)

    def _answered(self, request: Request, stream: _Stream, body: bytes, out: bytes) -> _ForResponse:
        self._tell(request, stream.answer)
        if stream.answer.fault:
            reason = f"llm_{stream.answer.fault}"
            return problem(502, "Bad Gateway", "The answer cannot be checked.", reason=reason)
        return None if out == body else ResponseMutation(body=out)

    def _passed(self, request: Request, stream: _Stream, chunk: Chunk, out: bytes) -> _ForChunk:
        over = stream.answer.over
        if over or chunk.end or stream.answer.passes:
            self._tell(request, stream.answer)
        return None if out == chunk.data and not over else ChunkMutation(out, end=over)

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
