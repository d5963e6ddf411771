"""Speaks one API with the client and the other with the model: chat completions and Anthropic's messages."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass

from policy_body import (
    BodyBuffer,
    EventBuffer,
    NotJson,
    dump,
    is_compressed,
    media_type_of,
    parse,
    problem,
)
from policy_engine.sdk import (
    Chunk,
    ChunkMutation,
    ImmediateResponse,
    Parameters,
    Policy,
    Request,
    RequestMutation,
    Response,
    ResponseMutation,
)
from policy_llm import Unclear, asked

from .answers import Answer, ToAnthropic, ToOpenAI, translated_events, translated_whole
from .requests import Untranslatable, to_anthropic, to_openai

_LARGEST = 16 << 20  # bytes of an answer, or of an event
_PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
_OTHER = {"anthropic": "openai", "openai": "anthropic"}
_ENDINGS = {"anthropic": "/messages", "openai": "/chat/completions"}
_EVENTS = "text/event-stream"
_IDENTITY = RequestMutation(set_headers={"accept-encoding": "identity"})
_TOO_LARGE = "The answer of the model is too large."

_ForRequest = RequestMutation | ImmediateResponse | None
_ForChunk = ChunkMutation | None


@dataclass(frozen=True, slots=True)
class _Read:
    """A request in the other API, or what is wrong with it."""

    fault: str = ""
    body: bytes = b""
    model: str = ""
    tells_usage: bool = False


@dataclass(slots=True)
class _Kept:
    """What is kept for a request that was translated: its answer on the way."""

    model: str = ""
    tells_usage: bool = False
    answer: Answer | None = None
    buffer: EventBuffer | BodyBuffer | None = None


class LlmTranslate(Policy):
    """400 for what the other API has no word for, 404 for another path than the one of the client's API."""

    def __init__(self, parameters: Parameters) -> None:
        self._upstream = parameters["upstream"]
        self._path = parameters.get("path") or _PATHS[self._upstream]
        self._ending = _ENDINGS[_OTHER[self._upstream]]
        self._drops = parameters.get("unsupported", "refuse") == "drop"
        self._max_tokens = parameters.get("max_tokens", 4096)
        self._cap_field = parameters.get("cap_field", "max_tokens")
        version = parameters.get("anthropic_version", "2023-06-01")
        self._set = {"anthropic-version": version} if self._upstream == "anthropic" else {}
        self._removed = () if self._set else ("anthropic-version", "anthropic-beta")

    def on_request_headers(self, request: Request) -> RequestMutation:
        """Ask for an answer that can be read as it passes."""
        return _IDENTITY

    def on_request_body(self, request: Request) -> _ForRequest | Awaitable[_ForRequest]:
        """Translate the request."""
        if not request.path.endswith(self._ending):
            detail = f"Only {_PATHS[_OTHER[self._upstream]]} is served here."
            return problem(404, "Not Found", detail, reason="llm_translate_path")
        return self.offload_large(
            self._read, request.body or b"", request.path, then=lambda read: self._translated(request, read)
        )

    def on_response_headers(self, request: Request, response: Response) -> ImmediateResponse | ResponseMutation | None:
        """See what kind of answer comes."""
        kept = self.state(request, _Kept)
        if kept.model == "" or response.origin != "upstream":
            return None
        if is_compressed(response.headers):
            return ImmediateResponse(502, details="llm_translate_answer_compressed")
        is_events = media_type_of(response.headers) == _EVENTS
        if self._upstream == "anthropic":
            kept.answer = ToOpenAI(response.status, kept.model, tells_usage=kept.tells_usage)
        else:
            kept.answer = ToAnthropic(response.status, kept.model)
        kept.buffer = EventBuffer(_LARGEST) if is_events else BodyBuffer(_LARGEST)
        return None if is_events else ResponseMutation(set_headers={"content-type": "application/json"})

    def on_response_chunk(self, request: Request, response: Response, chunk: Chunk) -> _ForChunk | Awaitable[_ForChunk]:
        """Translate the answer."""
        kept = self.state(request, _Kept)
        answer, buffer = kept.answer, kept.buffer
        if answer is None or buffer is None or response.origin != "upstream":
            return None
        whole = buffer.feed(chunk.data)
        is_events = isinstance(buffer, EventBuffer)
        if buffer.too_large:
            buffer.finish()
            return ChunkMutation(self._too_large(answer, is_events=is_events), end=True)
        data = whole + (buffer.finish() if chunk.end else b"")
        if not data and not (chunk.end and is_events):
            return ChunkMutation(b"") if chunk.data else None
        function = translated_events if is_events else translated_whole
        return self.offload_large(function, answer, data, chunk.end, then=lambda found: self._passed(kept, found))

    @staticmethod
    def _too_large(answer: Answer, *, is_events: bool) -> bytes:
        error = answer.error(_TOO_LARGE)
        return answer.failed(error) if is_events else dump(error)

    @staticmethod
    def _passed(kept: _Kept, found: tuple[bytes, Answer]) -> ChunkMutation:
        new, kept.answer = found
        return ChunkMutation(new)

    def _read(self, body: bytes, path: str) -> _Read:
        """Translate a request; a pure function of its arguments and the parameters, so that a helper can do it."""
        try:
            document = parse(body)
            if not isinstance(document, dict):
                return _Read("The body is not a JSON object.")
            model = asked(document, path).model
            if not model:
                return _Read("The request names no model.")
            if self._upstream == "anthropic":
                made = to_anthropic(document, max_tokens=self._max_tokens, drops=self._drops)
            else:
                made = to_openai(document, cap_field=self._cap_field, drops=self._drops)
        except NotJson as error:
            return _Read(f"The body is not valid JSON: {error}.")
        except (Unclear, Untranslatable) as error:
            return _Read(f"The request cannot be translated: {error}.")
        options = document.get("stream_options")
        tells_usage = isinstance(options, dict) and options.get("include_usage") is True
        return _Read("", dump(made), model, tells_usage)

    def _translated(self, request: Request, read: _Read) -> RequestMutation | ImmediateResponse:
        if read.fault:
            error = {"message": read.fault, "type": "invalid_request_error"}
            return problem(400, "Bad Request", read.fault, reason="llm_translate_request", more={"error": error})
        kept = self.state(request, _Kept)
        kept.model, kept.tells_usage = read.model, read.tells_usage
        query = request.query_string
        return RequestMutation(
            body=read.body,
            path=self._path + (f"?{query}" if query else ""),
            set_headers={**self._set, "content-type": "application/json"},
            remove_headers=self._removed,
        )
