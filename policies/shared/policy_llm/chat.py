"""Answers of OpenAI's chat completions and completions (https://platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

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
    nested,
    number,
    objects,
    others,
    texts,
)

_HEAD = ("id", "object", "created", "model")
_KNOWN = frozenset({*_HEAD, "choices", "usage", "system_fingerprint", "service_tier", "provider"})
_SPOKEN = ("delta", "message", "text")
_KNOWN_IN_CHOICE = frozenset({*_SPOKEN, "index", "finish_reason", "logprobs"})
_FINISH = {Reason.DENIED: "content_filter", Reason.LENGTH: "length"}


class Chat(Dialect):
    """Keys are (index of the choice, then the way below `delta`, `message`, or `text`)."""

    sentinel = b"[DONE]"

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._texts: dict[int, bool] = {}  # by index: whether the choice is a plain text

    @staticmethod
    def knows(document: dict[str, Any]) -> bool:
        """Tell it by `choices`, or by what the object says that it is."""
        kind = document.get("object")
        named = isinstance(kind, str) and kind.startswith(("chat.completion", "text_completion"))
        return isinstance(document.get("choices"), list) or named

    def read(self, document: dict[str, Any]) -> Reading:
        """Read all choices."""
        found = Reading(usage=usage(document.get("usage")))
        choices = objects(document.get("choices"))
        if choices:
            self._head = {name: document[name] for name in _HEAD if name in document}
        for choice in choices:
            index = number(choice.get("index"))
            self._texts[index] = "text" in choice
            for name in _SPOKEN:
                if name in choice:
                    found.pieces += self._spoken(choice, name, index)
            found.pieces += others(choice, _KNOWN_IN_CHOICE, (index, "choice"))
            if is_said(choice.get("finish_reason")):
                found.ends.append((index,))
            if choice.get("logprobs"):
                found.repeats.append((choice, "logprobs"))
        found.pieces += others(document, _KNOWN, ("document",))
        return found

    def more(self, key: Key, text: str) -> Message:
        """Return a piece for one choice."""
        index, *way = key
        said = {"text": text} if way == ["text"] else {"delta": nested(tuple(way), text)}
        return Message({**self._head, "choices": [{"index": index, **said, "finish_reason": None}]})

    def end(self, reason: Reason) -> list[Message]:
        """Return one end for every choice."""
        ends = [
            {"index": index, **({"text": ""} if plain else {"delta": {}}), "finish_reason": _FINISH[reason]}
            for index, plain in sorted(self._texts.items())
        ]
        return [Message({**self._head, "choices": ends})] if ends else []

    def mark(self, document: dict[str, Any], key: Key, reason: Reason) -> None:
        """Say so in the choice."""
        for choice in objects(document.get("choices")):
            if number(choice.get("index")) == key[0] or key[0] == "document":
                choice["finish_reason"] = _FINISH[reason]

    @staticmethod
    def _spoken(choice: dict[str, Any], name: str, index: int) -> list[Piece]:
        if name == "text":
            return list(texts(choice, name, (index, name), whole=False))
        whole = name == "message"
        return (
            list(texts(choice, name, (index,), whole=whole))
            if isinstance(choice[name], dict)
            else (list(texts(choice, name, (index, "content"), whole=whole)))
        )


def usage(value: Any) -> dict[str, int]:
    """Return the counts of a `usage` member, in the names of chat completions, whichever of OpenAI's APIs wrote it."""
    prompt, completion = (
        count(value[name]) if isinstance(value, dict) and name in value else count(member(value, other))
        for name, other in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
    )
    return counts(prompt_tokens=prompt, completion_tokens=completion, total_tokens=count(member(value, "total_tokens")))
