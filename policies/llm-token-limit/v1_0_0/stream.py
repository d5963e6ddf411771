"""Reads an answer as it passes, counts, and ends a stream that went on too long; one object for each answer.

A separate module because it holds the state of one stream, and the policy must hold none.
"""

from __future__ import annotations

import json
from typing import Any

from policy_body import EventSplitter, EventTooLarge, NotJson, data_of, dump, event_of, parse

from .tokens import answer_characters, choices, usage_of

_LARGEST = 1 << 20  # bytes of an event, or of a JSON answer whose usage is read
_DONE = event_of(b"[DONE]")


class Answer:
    """What is known of an answer so far."""

    def __init__(self, characters_per_token: float, most: int | None) -> None:
        self._per_token = characters_per_token
        self._most = most
        self.characters = 0
        self.usage: dict[str, int] | None = None
        self.ended = ""

    @property
    def estimate(self) -> int:
        """Tokens of the answer by its characters."""
        return int(self.characters / self._per_token + 0.999999)

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Take a piece and return what goes on to the client."""
        raise NotImplementedError

    def _too_long(self) -> bool:
        if self._most is None:
            return False
        reported = (self.usage or {}).get("completion_tokens", 0)
        return max(self.estimate, reported) > self._most


class EventAnswer(Answer):
    """An answer as server-sent events; each goes on as soon as it is whole."""

    def __init__(self, characters_per_token: float, most: int | None) -> None:
        super().__init__(characters_per_token, most)
        self._events = EventSplitter(_LARGEST)
        self._last: dict[str, Any] = {}
        self._indexes: dict[int, bool] = {}

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Pass whole events on; the one that goes over the limit is replaced by the end of the stream."""
        if self.ended:
            return b""
        passed: list[bytes] = []
        try:
            events = self._events.feed(data)
        except EventTooLarge:
            self.ended = "event_too_large"
            return event_of(dump({"error": {"message": "The answer cannot be read.", "code": self.ended}})) + _DONE
        for event in events:
            self._read(event)
            if self._too_long():
                self.ended = "token_limit"
                return b"".join((*passed, self._last_event(), _DONE))
            passed.append(event)
        if end:
            passed.append(self._events.finish())
        return b"".join(passed)

    def _read(self, event: bytes) -> None:
        data = data_of(event)
        try:
            document = parse(data) if data else None
        except NotJson:
            return  # [DONE], or an event that is not of this kind
        if not isinstance(document, dict):
            return
        self.usage = usage_of(document) or self.usage
        self.characters += answer_characters(document)
        found = choices(document)
        if found:
            self._last = document
        for choice in found:
            index = choice.get("index")
            self._indexes[index if isinstance(index, int) else 0] = "text" in choice

    def _last_event(self) -> bytes:
        """Return an event that says `finish_reason: length` for every choice, with what the events had in common."""
        kept = {name: self._last[name] for name in ("id", "object", "created", "model") if name in self._last}
        ends = [
            {"index": index, **({"text": ""} if is_text else {"delta": {}}), "finish_reason": "length"}
            for index, is_text in sorted(self._indexes.items())
        ]
        return event_of(json.dumps({**kept, "choices": ends}).encode())


class JsonAnswer(Answer):
    """An answer as one JSON document: it passes untouched, a bounded copy is read at the end."""

    def __init__(self, characters_per_token: float, most: int | None) -> None:
        super().__init__(characters_per_token, most)
        self._copy: bytearray | None = bytearray()

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Return `data` itself."""
        if self._copy is not None:
            self._copy += data
            if len(self._copy) > _LARGEST:
                self._copy = None
        if end:
            self.read()
        return data

    def read(self) -> None:
        """Read what has passed, once."""
        copy, self._copy = self._copy, None
        try:
            document = parse(bytes(copy)) if copy else None
        except NotJson:
            return
        if isinstance(document, dict):
            self.usage = usage_of(document)
            self.characters = answer_characters(document)
