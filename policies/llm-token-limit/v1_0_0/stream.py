"""Reads an answer as it passes, counts, and ends a stream that went on too long; one object for each answer.

A separate module because it holds the state of one stream, and the policy must hold none.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from policy_body import Event, EventSplitter, NotJson, event_of, read_leniently, write_leniently
from policy_llm import AnswerReader, Key, Reason

from .tokens import tokens_of

_LARGEST = 1 << 20  # bytes of an event, or of a JSON answer whose usage is read
_MOST_TEXTS = 10_000  # that are told apart in one answer
_DONE = b"[DONE]"


class Answer:
    """What is known of an answer so far."""

    def __init__(self, characters_per_token: float, most: int | None, *, refuses_unknown: bool = False) -> None:
        self._per_token = characters_per_token
        self._most = most
        self._refuses_unknown = refuses_unknown
        self._reader = AnswerReader()
        self._lengths: Counter[Key] = Counter()
        self.characters = 0
        self.usage: dict[str, int] = {}
        self.unknown = 0
        self.ended = ""

    @property
    def estimate(self) -> int:
        """Tokens of the answer by its characters."""
        return tokens_of(self.characters, self._per_token)

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Take a piece and return what goes on to the client."""
        raise NotImplementedError

    def _read(self, data: bytes) -> None:
        """Count what a document says. One that cannot be read, or that no known API wrote, counts with all its text."""
        try:
            document = read_leniently(data).value
        except NotJson:
            self._count_unknown(data.decode("utf-8", "replace"))
            return
        for one in document if isinstance(document, list) else [document]:
            found = self._reader.read(one)
            if found is None:
                self._count_unknown(one)
                continue
            self.usage.update(found.usage)
            for piece in found.pieces:
                self._count(piece.key, len(piece.text), whole=piece.whole)

    def _count(self, key: Key, size: int, *, whole: bool) -> None:
        """Add to a text, or hear how long it is as a whole, which may be what was counted piece by piece."""
        if key not in self._lengths and len(self._lengths) >= _MOST_TEXTS:
            key, whole = (), False
        before = self._lengths[key]
        after = max(before, size) if whole else before + size
        self._lengths[key] = after
        self.characters += after - before

    def _count_unknown(self, value: Any) -> None:
        self.unknown += 1
        stack = [value]
        while stack:
            one = stack.pop()
            if isinstance(one, str):
                self.characters += len(one)
            elif isinstance(one, dict | list):
                stack.extend(one.values() if isinstance(one, dict) else one)

    def _reason_to_end(self) -> str:
        if self.unknown and self._refuses_unknown:
            return "unknown_shape"
        return "token_limit" if self._too_long() else ""

    def _too_long(self) -> bool:
        if self._most is None:
            return False
        return max(self.estimate, self.usage.get("completion_tokens", 0)) > self._most


class EventAnswer(Answer):
    """An answer as server-sent events; each goes on as soon as it is whole."""

    def __init__(self, characters_per_token: float, most: int | None, *, refuses_unknown: bool = False) -> None:
        super().__init__(characters_per_token, most, refuses_unknown=refuses_unknown)
        self._events = EventSplitter(_LARGEST)
        self._passes = False  # as nothing more can be read

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Pass whole events on; the one that goes over the limit is replaced by the end of the stream."""
        if self.ended:
            return b""
        if self._passes:
            return data
        passed: list[bytes] = []
        events = self._events.feed(data)
        if self._events.too_large:
            self.unknown += 1
            self._passes = self._most is None and not self._refuses_unknown
        rest = self._events.finish() if end or self._passes else None
        for event in events:
            if self._goes_over(event):
                return b"".join((*passed, self._end()))
            passed.append(event.raw)
        if self._events.too_large and not self._passes:
            self.ended = "event_too_large"
            return b"".join((*passed, self._end()))
        if rest is not None:
            if not self._passes and self._goes_over(rest):
                return b"".join((*passed, self._end()))
            passed.append(rest.raw)
        return b"".join(passed)

    def _goes_over(self, event: Event) -> bool:
        data = event.data
        if data is None or data.strip() in (b"", _DONE):
            return False
        self._read(data)
        self.ended = self._reason_to_end()
        return bool(self.ended)

    def _end(self) -> bytes:
        """Return the events that say `length` in the API's own way, or an error where it is not known or was the cause."""
        messages = self._reader.end(Reason.LENGTH) if self.ended == "token_limit" else []
        if messages:
            ends = [event_of(write_leniently(one.document), name=one.event) for one in messages]
            sentinel = self._reader.sentinel
            return b"".join((*ends, event_of(sentinel) if sentinel else b""))
        error = {"error": {"message": "The answer cannot be read.", "code": self.ended}}
        return event_of(write_leniently(error)) + event_of(_DONE)


class JsonAnswer(Answer):
    """An answer as one JSON document: it passes untouched, a bounded copy is read at the end."""

    def __init__(self, characters_per_token: float) -> None:
        super().__init__(characters_per_token, None)
        self._copy: bytearray | None = bytearray()

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Return `data` itself."""
        if self._copy is not None:
            self._copy += data
            if len(self._copy) > _LARGEST:
                self._copy = None
                self.unknown += 1
        if end:
            self.read()
        return data

    def read(self) -> None:
        """Read what has passed, once."""
        copy, self._copy = self._copy, None
        if copy:
            self._read(bytes(copy))
