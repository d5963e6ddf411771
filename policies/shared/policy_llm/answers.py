"""Which API wrote an answer, and the one way in for policies: from bytes of a document to its texts, ends and usage."""

from __future__ import annotations

from typing import Any

from policy_llm.anthropic import Anthropic
from policy_llm.chat import Chat
from policy_llm.gemini import Gemini
from policy_llm.reading import Dialect, Key, Message, Piece, Reading, Reason
from policy_llm.responses import Responses

_DIALECTS: tuple[type[Dialect], ...] = (Chat, Responses, Anthropic, Gemini)
_IN_ERRORS = frozenset(
    {"error", "type", "code", "message", "param", "status", "object", "request_id", "detail", "sequence_number"}
)
_PLAIN_OBJECTS = frozenset({"model", "embedding"})


class AnswerReader:
    """Reads the documents of one answer: the events of a stream, or the one (Gemini: the many) of a whole one.

    Keys that it gives begin with the dialect, so that `more` and `mark` find the way back.
    """

    def __init__(self) -> None:
        self._dialects: dict[type[Dialect], Dialect] = {}

    def read(self, document: Any) -> Reading | None:
        """Return what a document says; None when it has the shape of no API that is known."""
        if not isinstance(document, dict):
            return None if _has_text(document) else Reading()
        for kind in _DIALECTS:
            if kind.knows(document):
                break
        else:
            if _is_error(document):
                return Reading(ends=[()])  # nothing comes after it
            return Reading() if _is_without_answer(document) else None
        found = self._dialects.setdefault(kind, kind()).read(document)
        found.pieces = [Piece((kind, *one.key), one.holder, one.name, one.whole) for one in found.pieces]
        found.ends = [(kind, *key) for key in found.ends]
        return found

    def more(self, key: Key, text: str) -> Message:
        """Return a document of a stream that carries more of the text of `key`."""
        return self._dialects[key[0]].more(key[1:], text)

    def end(self, reason: Reason) -> list[Message]:
        """Return the documents that end a stream here, none when nothing was read."""
        return [message for dialect in self._dialects.values() for message in dialect.end(reason)]

    @property
    def sentinel(self) -> bytes:
        """Data of the event that a stream of this kind ends with, empty when it has none."""
        return next((dialect.sentinel for dialect in self._dialects.values() if dialect.sentinel), b"")

    def mark(self, document: dict[str, Any], key: Key, reason: Reason) -> None:
        """Note in a whole answer that the text of `key` ends early."""
        self._dialects[key[0]].mark(document, key[1:], reason)


def _is_error(document: dict[str, Any]) -> bool:
    is_one = bool(document.get("error")) or document.get("type") == "error"
    return is_one and _IN_ERRORS.issuperset(document)


def _is_without_answer(document: dict[str, Any]) -> bool:
    """Tell whether an object holds none of a model's words: a list of models or embeddings, numbers only."""
    listed = document.get("data")
    if document.get("object") == "list" and isinstance(listed, list):
        return all(isinstance(one, dict) and one.get("object") in _PLAIN_OBJECTS for one in listed)
    return document.get("object") == "model" or not _has_text(document)


def _has_text(document: Any) -> bool:
    stack = [document]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            return True
        if isinstance(value, dict | list):
            stack.extend(value.values() if isinstance(value, dict) else value)
    return False
