"""Answers of OpenAI's Responses API (https://platform.openai.com/docs/api-reference/responses-streaming)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from policy_llm.chat import usage
from policy_llm.reading import Dialect, Key, Message, Piece, Reading, Reason, member, number, objects, others, texts

_IDS = ("item_id", "output_index", "content_index", "summary_index")
_KNOWN = frozenset(
    {*_IDS, "type", "sequence_number", "delta", "part", "item", "response", "logprobs", "obfuscation", "event_id"}
)
_DONE = frozenset({"text", "refusal", "arguments", "input", "code", "transcript"})
_BASES = {
    "output_text": "response.output_text",
    "refusal": "response.refusal",
    "reasoning_text": "response.reasoning_text",
    "summary_text": "response.reasoning_summary_text",
}
_OVER = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
_BYTES = ("response.audio", "response.output_audio", "response.image_generation_call")
_HEAD = ("id", "object", "created_at", "model", "parallel_tool_calls", "tool_choice", "tools")
_DETAIL = {Reason.DENIED: "content_filter", Reason.LENGTH: "max_output_tokens"}


class Responses(Dialect):
    """Keys are (0, index of the output, kind of the text, index of the part in it)."""

    def __init__(self) -> None:
        self._ids: dict[Key, dict[str, Any]] = {}
        self._response: dict[str, Any] = {}
        self._sequence: int | None = None

    @staticmethod
    def knows(document: dict[str, Any]) -> bool:
        """Tell events by their type, whole answers by what the object says that it is, or its output."""
        kind = document.get("type")
        if isinstance(kind, str) and kind.startswith("response."):
            return True
        whole = document.get("object") == "response" or isinstance(document.get("output"), list)
        return whole and "choices" not in document

    def read(self, document: dict[str, Any]) -> Reading:
        """Read an event or a whole answer."""
        kind = document.get("type")
        if not isinstance(kind, str) or not kind.startswith("response."):
            return Reading(list(_output(document)), usage=usage(document.get("usage")), repeats=_logprobs(document))
        found = Reading(repeats=_logprobs(document))
        self._sequence = document.get("sequence_number", self._sequence)
        index = number(document.get("output_index"))
        response = document.get("response")
        if isinstance(response, dict):
            self._response = {name: response[name] for name in _HEAD if name in response}
            found.usage = usage(response.get("usage"))
            found.pieces += _output(response)
        if kind in _OVER:
            found.ends.append(())
        if kind.startswith(_BYTES) and "transcript" not in kind:
            return found
        base, _, stage = kind.rpartition(".")
        key = (0, index, base, number(document.get("content_index", document.get("summary_index"))))
        if isinstance(document.get("delta"), str):
            found.pieces.append(Piece(key, document, "delta"))
            self._ids[key] = {name: document[name] for name in _IDS if name in document}
        elif "delta" in document:
            found.pieces += texts(document, "delta", key, whole=True)
        known = _KNOWN
        if stage == "done":
            known |= _DONE
            found.pieces += [Piece(key, document, name, whole=True) for name in document if _is_text(document, name)]
            found.ends.append(key if "part" not in document and "item" not in document else (0, index))
        if "part" in document:
            found.pieces += _part(document, "part", index, key[-1])
        if "item" in document:
            found.pieces += _item(document, "item", index)
        found.pieces += others(document, known, (0, index, base))
        return found

    def more(self, key: Key, text: str) -> Message:
        """Return a delta of that text."""
        kind = f"{key[2]}.delta"
        return Message(self._numbered({"type": kind, **self._ids.get(key, {}), "delta": text}), kind)

    def end(self, reason: Reason) -> list[Message]:
        """Return the event that says that the response is incomplete."""
        response = {"object": "response", **self._response, "status": "incomplete", "output": []}
        response["incomplete_details"] = {"reason": _DETAIL[reason]}
        kind = "response.incomplete"
        return [Message(self._numbered({"type": kind, "response": response}), kind)]

    def mark(self, document: dict[str, Any], key: Key, reason: Reason) -> None:
        """Say that the response is incomplete."""
        document["status"] = "incomplete"
        document["incomplete_details"] = {"reason": _DETAIL[reason]}

    def _numbered(self, document: dict[str, Any]) -> dict[str, Any]:
        return document if self._sequence is None else {**document, "sequence_number": self._sequence}


def _output(response: dict[str, Any]) -> Iterator[Piece]:
    output = response.get("output")
    for index in range(len(output) if isinstance(output, list) else 0):
        yield from _item(output, index, index)
    for name in ("output_text", "error"):
        if name in response:
            yield from texts(response, name, (0, name), whole=True)


def _item(holder: Any, name: str | int, index: int) -> Iterator[Piece]:
    """Yield the texts of one output: the parts of a message as their deltas are known, and all else there is."""
    item = holder[name]
    if not isinstance(item, dict):
        yield from texts(holder, name, (0, index), whole=True)
        return
    parts = [where for where in ("content", "summary") if isinstance(item.get(where), list)]
    for where in parts:
        for at in range(len(item[where])):
            yield from _part(item[where], at, index, at)
    taken = {*parts, *(("result",) if item.get("type") == "image_generation_call" else ())}
    yield from others(item, frozenset(taken), (0, index))


def _part(holder: Any, name: str | int, index: int, at: int) -> Iterator[Piece]:
    part = holder[name]
    if not isinstance(part, dict):
        yield from texts(holder, name, (0, index, "part", at), whole=True)
        return
    base = _BASES.get(str(part.get("type")), "part")
    said = [one for one in ("text", "refusal") if isinstance(part.get(one), str)]
    yield from (Piece((0, index, base, at), part, one, whole=True) for one in said)
    yield from others(part, frozenset({*said, "logprobs"}), (0, index, base, at))


def _logprobs(document: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Return where an event, or a part of an answer, repeats its text token by token."""
    response = document.get("response", document)
    items = [*objects(member(response, "output")), *objects([document.get("item")])]
    parts = [part for item in items for part in objects(item.get("content"))]
    holders = [document, *objects([document.get("part")]), *parts]
    return [(holder, "logprobs") for holder in holders if holder.get("logprobs")]


def _is_text(document: dict[str, Any], name: str) -> bool:
    return name in _DONE and isinstance(document[name], str)
