"""Answers of Gemini's generateContent (https://ai.google.dev/api/generate-content); each piece of a stream is one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from policy_llm.reading import (
    Dialect,
    Key,
    Message,
    Piece,
    Reading,
    Reason,
    count,
    counts,
    is_said,
    member,
    number,
    objects,
    others,
    texts,
)

_KNOWN = frozenset({"candidates", "usageMetadata", "modelVersion", "responseId", "createTime"})
_IN_CANDIDATE = frozenset(
    {"content", "finishReason", "index", "tokenCount", "logprobsResult", "avgLogprobs", "safetyRatings"}
)
_HEAD = ("modelVersion", "responseId")
_FINISH = {Reason.DENIED: "SAFETY", Reason.LENGTH: "MAX_TOKENS"}


class Gemini(Dialect):
    """Keys are (index of the candidate, `text` or `thought`)."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._indexes: dict[int, None] = {}

    @staticmethod
    def knows(document: dict[str, Any]) -> bool:
        """Tell it by its members."""
        return (
            isinstance(document.get("candidates"), list) or "usageMetadata" in document or "promptFeedback" in document
        )

    def read(self, document: dict[str, Any]) -> Reading:
        """Read all candidates."""
        found = Reading(usage=_usage(document.get("usageMetadata")))
        self._head = {name: document[name] for name in _HEAD if name in document} or self._head
        for candidate in objects(document.get("candidates")):
            index = number(candidate.get("index"))
            self._indexes[index] = None
            found.pieces += _content(candidate, index)
            found.pieces += others(candidate, _IN_CANDIDATE, (index, "candidate"))
            if is_said(candidate.get("finishReason")) and candidate["finishReason"] != "FINISH_REASON_UNSPECIFIED":
                found.ends.append((index,))
            if candidate.get("logprobsResult"):
                found.repeats.append((candidate, "logprobsResult"))
        found.pieces += others(document, _KNOWN, ("document",))
        return found

    def more(self, key: Key, text: str) -> Message:
        """Return a piece for one candidate."""
        part = {"text": text, **({"thought": True} if key[1] == "thought" else {})}
        content = {"parts": [part], "role": "model"}
        return Message({"candidates": [{"content": content, "index": key[0]}], **self._head})

    def end(self, reason: Reason) -> list[Message]:
        """Return one end for every candidate."""
        ends = [{"finishReason": _FINISH[reason], "index": index} for index in sorted(self._indexes)]
        return [Message({"candidates": ends, **self._head})] if ends else []

    def mark(self, document: dict[str, Any], key: Key, reason: Reason) -> None:
        """Say so in the candidate."""
        for candidate in objects(document.get("candidates")):
            if number(candidate.get("index")) == key[0] or key[0] == "document":
                candidate["finishReason"] = _FINISH[reason]


def _content(candidate: dict[str, Any], index: int) -> Iterator[Piece]:
    content = candidate.get("content")
    parts = member(content, "parts")
    if not isinstance(content, dict) or not isinstance(parts, list):
        if "content" in candidate:
            yield from texts(candidate, "content", (index, "content"), whole=True)
        return
    for at, part in enumerate(parts):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            yield Piece((index, "thought" if part.get("thought") is True else "text"), part, "text")
            yield from others(part, frozenset({"text", "thought"}), (index, at))
        else:
            yield from texts(parts, at, (index, at), whole=True)
    yield from others(content, frozenset({"parts", "role"}), (index, "content"))


def _usage(value: Any) -> dict[str, int]:
    """Return the counts; thoughts are part of what the model wrote, results of tools part of the prompt."""
    return counts(
        prompt_tokens=count(member(value, "promptTokenCount"), member(value, "toolUsePromptTokenCount")),
        completion_tokens=count(member(value, "candidatesTokenCount"), member(value, "thoughtsTokenCount")),
        total_tokens=count(member(value, "totalTokenCount")),
    )
