"""Reads an answer as it passes, counts, and ends a stream that went on too long; one object for each answer.

A separate module because it holds the state of one stream, and the policy must hold none.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from policy_body import Event, NotJson, event_of, events_of, read_leniently, write_leniently
from policy_llm import AnswerReader, Key, Reason

from .tokens import tokens_of

_MOST_TEXTS = 10_000  # that are told apart in one answer
_DONE = b"[DONE]"


class Answer:
    """What is known of an answer so far.

    `ended` says why it ends here, else nothing; `unknown` counts what was not of a known shape; `passes` tells that no
    more is read. The state is small and can be pickled: much to read is read in another process.
    """

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
        self.passes = False

    @property
    def estimate(self) -> int:
        """Tokens of the answer by its characters."""
        return tokens_of(self.characters, self._per_token)

    def feed(self, whole: bytes, rest: bytes, *, end: bool) -> bytes:
        """Take what is whole, and at the end what is left; return what goes on to the client."""
        raise NotImplementedError

    def give_up(self, whole: bytes, rest: bytes) -> bytes:
        """Return what goes on when what comes after `whole` is too large to be read."""
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


def fed(answer: Answer, whole: bytes, rest: bytes, end: bool) -> tuple[bytes, Answer]:
    """Return what `answer.feed` does, and the answer as it then is: for where it is a copy."""
    return answer.feed(whole, rest, end=end), answer


class EventAnswer(Answer):
    """An answer as server-sent events; each goes on as soon as it is whole."""

    def __init__(self, characters_per_token: float, most: int | None, *, refuses_unknown: bool = False) -> None:
        super().__init__(characters_per_token, most, refuses_unknown=refuses_unknown)
        self._begun = False

    def feed(self, whole: bytes, rest: bytes, *, end: bool) -> bytes:
        """Pass whole events on; the one that goes over the limit is replaced by the end of the stream."""
        passed: list[bytes] = []
        for event in [*events_of(whole, first=not self._begun), *events_of(rest, first=not self._begun and not whole)]:
            if self._goes_over(event):
                return b"".join((*passed, self._end()))
            passed.append(event.raw)
        self._begun |= bool(whole)
        return b"".join(passed)

    def give_up(self, whole: bytes, rest: bytes) -> bytes:
        """End the stream where there is a limit that could be got round, else pass the rest on."""
        passed = self.feed(whole, b"", end=False)
        if self.ended:
            return passed
        self.unknown += 1
        if self._most is None and not self._refuses_unknown:
            self.passes = True
            return passed + rest
        self.ended = "event_too_large"
        return passed + self._end()

    def _goes_over(self, event: Event) -> bool:
        data = event.data
        if data is None or data.strip() in (b"", _DONE):
            return False
        self._read(data)
        self.ended = self._reason_to_end()
        return bool(self.ended)

    def _end(self) -> bytes:
        """Return the events that say `length` in the API's own way, an error where that is not known or not so."""
        messages = self._reader.end(Reason.LENGTH) if self.ended == "token_limit" else []
        if messages:
            ends = [event_of(write_leniently(one.document), name=one.event) for one in messages]
            sentinel = self._reader.sentinel
            return b"".join((*ends, event_of(sentinel) if sentinel else b""))
        error = {"error": {"message": "The answer cannot be read.", "code": self.ended}}
        return event_of(write_leniently(error)) + event_of(_DONE)


class JsonAnswer(Answer):
    """An answer as one JSON document: it passes untouched, a copy is read at the end."""

    def __init__(self, characters_per_token: float) -> None:
        super().__init__(characters_per_token, None)

    def feed(self, whole: bytes, rest: bytes, *, end: bool) -> bytes:
        """Read the copy."""
        if rest:
            self._read(rest)
        return rest

    def give_up(self, whole: bytes, rest: bytes) -> bytes:
        """Read nothing."""
        self.unknown += 1
        self.passes = True
        return rest
