"""Answers of Anthropic's Messages API (https://docs.anthropic.com/en/api/messages-streaming)."""

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
    others,
    texts,
)

_EVENTS = frozenset(
    {"message_start", "message_delta", "message_stop", "content_block_start", "content_block_delta"}
    | {"content_block_stop", "ping"}
)
_KNOWN = frozenset({"type", "index", "usage", "message", "delta", "content_block"})
_KINDS = {"text": "text_delta", "thinking": "thinking_delta", "partial_json": "input_json_delta"}
_STOP = {Reason.DENIED: "refusal", Reason.LENGTH: "max_tokens"}
_IN_MESSAGE = frozenset({"id", "type", "role", "model", "content", "usage", "stop_reason", "stop_sequence"})


class Anthropic(Dialect):
    """Keys are (0, index of the block, member of its deltas)."""

    def __init__(self) -> None:
        self._open: dict[int, None] = {}
        self._output_tokens = 0

    @staticmethod
    def knows(document: dict[str, Any]) -> bool:
        """Tell it by the type."""
        kind = document.get("type")
        return isinstance(kind, str) and (kind in _EVENTS or kind == "message") and "choices" not in document

    def read(self, document: dict[str, Any]) -> Reading:
        """Read an event or a whole message."""
        kind = document["type"]
        if kind == "message":
            return Reading(list(_message(document)), usage=_usage(document.get("usage")))
        found = Reading(usage={**_usage(member(document.get("message"), "usage")), **_usage(document.get("usage"))})
        self._output_tokens = found.usage.get("completion_tokens", self._output_tokens)
        index = number(document.get("index"))
        delta, block, message = (document.get(name) for name in ("delta", "content_block", "message"))
        if isinstance(message, dict):
            found.pieces += _message(message)
        if isinstance(block, dict):
            self._open[index] = None
            found.pieces += _block(document, "content_block", index, whole=False)
        if kind == "content_block_delta" and isinstance(delta, dict):
            self._open[index] = None
            found.pieces += _block(document, "delta", index, whole=False)
        elif kind == "message_delta" and is_said(member(delta, "stop_reason")):
            found.ends.append(())
        if kind == "content_block_stop":
            self._open.pop(index, None)
            found.ends.append((0, index))
        elif kind == "message_stop":
            found.ends.append(())
        found.pieces += others(document, _KNOWN, (0, "document"))
        return found

    def more(self, key: Key, text: str) -> Message:
        """Return a delta of that block."""
        _, index, name, *_ = key
        delta = {"type": _KINDS.get(name, f"{name}_delta"), name: text}
        return _event("content_block_delta", index=index, delta=delta)

    def end(self, reason: Reason) -> list[Message]:
        """Return the ends of the open blocks and of the message."""
        delta = {"stop_reason": _STOP[reason], "stop_sequence": None}
        return [
            *(_event("content_block_stop", index=index) for index in self._open),
            _event("message_delta", delta=delta, usage={"output_tokens": self._output_tokens}),
            _event("message_stop"),
        ]

    def mark(self, document: dict[str, Any], key: Key, reason: Reason) -> None:
        """Say why the message stops."""
        document["stop_reason"] = _STOP[reason]


def _event(kind: str, **members: Any) -> Message:
    return Message({"type": kind, **members}, kind)


def _message(message: dict[str, Any]) -> Iterator[Piece]:
    content = message.get("content")
    if isinstance(content, list):
        for index in range(len(content)):
            yield from _block(content, index, index, whole=True)
    elif "content" in message:
        yield from texts(message, "content", (0, "content"), whole=True)
    yield from others(message, _IN_MESSAGE, (0, "message"))


def _block(holder: Any, name: str | int, index: int, *, whole: bool) -> Iterator[Piece]:
    """Yield the texts of a block or of a delta: those that deltas go on with by their name, all others as they are."""
    block = holder[name]
    if not isinstance(block, dict):
        yield from texts(holder, name, (0, index), whole=True)
        return
    going_on = [one for one in _KINDS if isinstance(block.get(one), str)]
    yield from (Piece((0, index, one), block, one, whole) for one in going_on)
    yield from others(block, frozenset(going_on), (0, index))


def _usage(value: Any) -> dict[str, int]:
    """Return the counts; what was read from or written to the prompt cache is part of the prompt."""
    prompt = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    return counts(
        prompt_tokens=count(*(member(value, name) for name in prompt)),
        completion_tokens=count(member(value, "output_tokens")),
    )
