"""Answers of one API as answers of the other, whole and event by event; an object for each answer.

An upstream is read leniently: what it says beyond the shape is left out, and only what no shape is becomes an error.
"""

from __future__ import annotations

import time
from typing import Any

from policy_body import NotJson, event_of, events_of, read_leniently, write_leniently
from policy_llm import DONE, AnswerReader

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_FAILED, _SERVER = 400, 500
_UNREADABLE = "The answer of the model cannot be read."


class Answer:
    """One answer on its way. `ended` tells that nothing more of it goes on. It can be pickled."""

    def __init__(self, status: int, model: str) -> None:
        self._status = status
        self._model = model
        self._reader = AnswerReader()
        self._usage: dict[str, int] = {}
        self._begun = False
        self.ended = False

    def whole(self, data: bytes) -> bytes:
        """Return a whole answer in the other shape."""
        try:
            document = read_leniently(data).value
        except NotJson:
            document = None
        if not isinstance(document, dict):
            return write_leniently(self.error(_UNREADABLE))
        if self._status >= _FAILED or document.get("error"):
            return write_leniently(self.error(_message_of(document)))
        self._note(document)
        made = self.document(document)
        return write_leniently(self.error(_UNREADABLE) if made is None else made)

    def events(self, data: bytes, *, end: bool) -> bytes:
        """Return whole events of a stream in the other shape; joined, they are the same however the stream was cut."""
        out: list[bytes] = []
        for event in events_of(data, first=not self._begun):
            self._begun = True
            if self.ended or event.data is None or not event.data.strip():
                continue
            if event.data.strip() == DONE:
                out += self.done()
                continue
            try:
                document = read_leniently(event.data).value
            except NotJson:
                document = None
            if not isinstance(document, dict) or document.get("type") == "error" or document.get("error"):
                said = _message_of(document) if isinstance(document, dict) else _UNREADABLE
                out.append(self.failed(self.error(said)))
                self.ended = True
                continue
            self._note(document)
            out += self.event(document)
        if end and not self.ended and self.complete:
            out += self.done()
        return b"".join(out)

    @property
    def complete(self) -> bool:
        """Whether the upstream said why it ended: then its last word may be missing."""
        return False

    def _note(self, document: dict[str, Any]) -> None:
        found = self._reader.read(document)
        if found is not None:
            self._usage.update(found.usage)

    def error(self, message: str) -> dict[str, Any]:
        """Return an error in the client's shape."""
        raise NotImplementedError

    def failed(self, error: dict[str, Any]) -> bytes:
        """Return the event of an error."""
        raise NotImplementedError

    def document(self, document: dict[str, Any]) -> dict[str, Any] | None:
        """Return a whole answer in the client's shape; None for what is none."""
        raise NotImplementedError

    def event(self, document: dict[str, Any]) -> list[bytes]:
        """Return what one event is in the client's shape."""
        raise NotImplementedError

    def done(self) -> list[bytes]:
        """Return what ends the stream, when the upstream said that it is over."""
        return []


class ToOpenAI(Answer):
    """Anthropic's messages as chat completions."""

    def __init__(self, status: int, model: str, *, tells_usage: bool = False) -> None:
        super().__init__(status, model)
        self._tells_usage = tells_usage
        self._head: dict[str, Any] = {}
        self._tools: dict[Any, int] = {}

    def error(self, message: str) -> dict[str, Any]:
        """See `Answer`."""
        kind = "server_error" if self._status >= _SERVER else "invalid_request_error"
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}

    def failed(self, error: dict[str, Any]) -> bytes:
        """See `Answer`."""
        return event_of(write_leniently(error))

    def document(self, document: dict[str, Any]) -> dict[str, Any] | None:
        """See `Answer`."""
        content = document.get("content")
        if document.get("type") != "message" or not isinstance(content, list):
            return None
        texts, calls = [], []
        for block in content:
            kind = block.get("type") if isinstance(block, dict) else None
            if kind == "text":
                texts.append(str(block.get("text", "")))
            elif kind == "tool_use":
                arguments = write_leniently(block.get("input") or {}).decode()
                function = {"name": block.get("name"), "arguments": arguments}
                calls.append({"id": block.get("id"), "type": "function", "function": function})
        message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None, "refusal": None}
        if calls:
            message["tool_calls"] = calls
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": _finish(document.get("stop_reason")),
        }
        self._learn(document)
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": self._openai_usage()}

    def event(self, document: dict[str, Any]) -> list[bytes]:
        """See `Answer`."""
        kind = document.get("type")
        if kind == "message_start":
            message = document.get("message")
            self._learn(message if isinstance(message, dict) else {})
            return [self._chunk({"role": "assistant", "content": ""})]
        if kind == "content_block_start":
            return self._started(document)
        if kind == "content_block_delta":
            return self._delta(document)
        if kind == "message_delta":
            delta = document.get("delta")
            reason = delta.get("stop_reason") if isinstance(delta, dict) else None
            return [self._chunk({}, _finish(reason))]
        if kind == "message_stop":
            last = [event_of(DONE)]
            if self._tells_usage:
                last.insert(0, self._event({"choices": [], "usage": self._openai_usage()}))
            self.ended = True
            return last
        return []

    def _started(self, document: dict[str, Any]) -> list[bytes]:
        block = document.get("content_block")
        kind = block.get("type") if isinstance(block, dict) else None
        if isinstance(block, dict) and kind == "tool_use":
            at = self._tools[document.get("index")] = len(self._tools)
            given = block.get("input")
            arguments = write_leniently(given).decode() if given else ""
            function = {"name": block.get("name"), "arguments": arguments}
            call = {"index": at, "id": block.get("id"), "type": "function", "function": function}
            return [self._chunk({"tool_calls": [call]})]
        text = block.get("text") if isinstance(block, dict) and kind == "text" else None
        return [self._chunk({"content": text})] if isinstance(text, str) and text else []

    def _delta(self, document: dict[str, Any]) -> list[bytes]:
        delta = document.get("delta")
        if not isinstance(delta, dict):
            return []
        if delta.get("type") == "text_delta":
            return [self._chunk({"content": delta.get("text", "")})]
        if delta.get("type") == "input_json_delta":
            call = {
                "index": self._tools.get(document.get("index"), 0),
                "function": {"arguments": delta.get("partial_json", "")},
            }
            return [self._chunk({"tool_calls": [call]})]
        return []

    def _learn(self, message: dict[str, Any]) -> None:
        identity = message.get("id")
        model = message.get("model")
        self._head = {
            "id": identity if isinstance(identity, str) else "chatcmpl",
            "created": int(time.time()),
            "model": model if isinstance(model, str) else self._model,
        }

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        return self._event({"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]})

    def _event(self, members: dict[str, Any]) -> bytes:
        if not self._head:
            self._learn({})
        return event_of(write_leniently({**self._head, "object": "chat.completion.chunk", **members}))

    def _openai_usage(self) -> dict[str, int]:
        prompt, completion = (self._usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens"))
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class ToAnthropic(Answer):
    """Chat completions as Anthropic's messages; of several choices the first."""

    def __init__(self, status: int, model: str) -> None:
        super().__init__(status, model)
        self._started = False
        self._open: tuple[str, Any] | None = None
        self._blocks = 0
        self._reason: str | None = None

    def error(self, message: str) -> dict[str, Any]:
        """See `Answer`."""
        kind = _KINDS.get(self._status, "api_error" if self._status >= _SERVER else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}}

    def failed(self, error: dict[str, Any]) -> bytes:
        """See `Answer`."""
        error["error"]["type"] = "api_error"
        return event_of(write_leniently(error), name="error")

    def document(self, document: dict[str, Any]) -> dict[str, Any] | None:
        """See `Answer`."""
        choice = _first_choice(document)
        message = choice.get("message")
        if not isinstance(message, dict):
            return None
        content: list[dict[str, Any]] = []
        text = _said(message)
        if text:
            content.append({"type": "text", "text": text})
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                given = _object(function.get("arguments"))
                content.append({"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": given})
        return {
            **self._message(document),
            "content": content,
            "stop_reason": _stop(choice.get("finish_reason")),
            "usage": self._anthropic_usage(),
        }

    def event(self, document: dict[str, Any]) -> list[bytes]:
        """See `Answer`."""
        out: list[bytes] = []
        if not self._started:
            self._started = True
            message = {**self._message(document), "content": [], "stop_reason": None, "usage": self._anthropic_usage()}
            out.append(_named("message_start", message=message))
        choice = _first_choice(document)
        delta = choice.get("delta")
        if isinstance(delta, dict):
            text = _said(delta)
            if text:
                out += self._turn_to(("text", 0), {"type": "text", "text": ""})
                out.append(self._more({"type": "text_delta", "text": text}))
            calls = delta.get("tool_calls")
            for call in calls if isinstance(calls, list) else []:
                out += self._call(call)
        if isinstance(choice.get("finish_reason"), str) and choice["finish_reason"]:
            self._reason = choice["finish_reason"]
        return out

    @property
    def complete(self) -> bool:
        """See `Answer`."""
        return self._reason is not None

    def done(self) -> list[bytes]:
        """See `Answer`."""
        self.ended = True
        if not self._started:
            return []
        delta = {"stop_reason": _stop(self._reason), "stop_sequence": None}
        usage = self._anthropic_usage()
        return [*self._close(), _named("message_delta", delta=delta, usage=usage), _named("message_stop")]

    def _call(self, call: Any) -> list[bytes]:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            return []
        out: list[bytes] = []
        key = ("tool", call.get("index", 0))
        if self._open != key:
            block = {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": {}}
            out += self._turn_to(key, block)
        arguments = function.get("arguments")
        if isinstance(arguments, str) and arguments:
            out.append(self._more({"type": "input_json_delta", "partial_json": arguments}))
        return out

    def _turn_to(self, key: tuple[str, Any], block: dict[str, Any]) -> list[bytes]:
        """Return the events that close the open block and open this one, nothing when it is open."""
        if self._open == key:
            return []
        closed = self._close()
        self._open = key
        return [*closed, _named("content_block_start", index=self._blocks, content_block=block)]

    def _close(self) -> list[bytes]:
        if self._open is None:
            return []
        self._open = None
        self._blocks += 1
        return [_named("content_block_stop", index=self._blocks - 1)]

    def _more(self, delta: dict[str, Any]) -> bytes:
        return _named("content_block_delta", index=self._blocks, delta=delta)

    def _message(self, document: dict[str, Any]) -> dict[str, Any]:
        identity, model = document.get("id"), document.get("model")
        return {
            "id": identity if isinstance(identity, str) else "msg",
            "type": "message",
            "role": "assistant",
            "model": model if isinstance(model, str) else self._model,
            "stop_sequence": None,
        }

    def _anthropic_usage(self) -> dict[str, int]:
        prompt, completion = (self._usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens"))
        return {"input_tokens": prompt, "output_tokens": completion}


def translated_events(answer: Answer, data: bytes, end: bool) -> tuple[bytes, Answer]:
    """Return what `answer.events` does, and the answer as it then is: for where it is a copy."""
    return answer.events(data, end=end), answer


def translated_whole(answer: Answer, data: bytes, end: bool) -> tuple[bytes, Answer]:
    """Return what `answer.whole` does, in the form of `translated_events`."""
    return answer.whole(data), answer


def _named(kind: str, **members: Any) -> bytes:
    return event_of(write_leniently({"type": kind, **members}), name=kind)


def _finish(reason: Any) -> str:
    return _FINISH.get(reason, "stop") if isinstance(reason, str) else "stop"


def _stop(reason: Any) -> str:
    return _STOP.get(reason, "end_turn") if isinstance(reason, str) else "end_turn"


def _first_choice(document: dict[str, Any]) -> dict[str, Any]:
    choices = document.get("choices")
    found = [one for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
    return next((one for one in found if one.get("index", 0) == 0), {})


def _said(message: dict[str, Any]) -> str:
    return "".join(value for name in ("content", "refusal") if isinstance(value := message.get(name), str))


def _object(text: Any) -> dict[str, Any]:
    """Return arguments that a model wrote; none when it wrote something else than an object."""
    try:
        found = read_leniently(text.encode()).value if isinstance(text, str) and text else {}
    except (NotJson, UnicodeEncodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _message_of(document: dict[str, Any]) -> str:
    error = document.get("error")
    found = error.get("message") if isinstance(error, dict) else error
    found = found if isinstance(found, str) else document.get("detail", document.get("message"))
    return found if isinstance(found, str) else _UNREADABLE
