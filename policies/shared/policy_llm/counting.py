"""How long an answer is so far, by its texts and by what it says itself; for streams and whole answers alike.

Apart from `answers` because a count has a state that grows with what was read, and some policies have other uses for
texts. The state is small and can be pickled: much to read is read in another process.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from policy_body import NotJson, event_of, read_leniently, write_leniently
from policy_llm.answers import AnswerReader
from policy_llm.estimates import tokens_of
from policy_llm.heads import Head
from policy_llm.reading import Key, Reason

DONE = b"[DONE]"
_MOST_TEXTS = 10_000  # that are told apart in one answer


class AnswerCount:
    """The tokens of one answer. `usage` is what it says itself, in the names of chat completions; `unknown` counts what
    was of no known shape; `head` is what it says of itself beside its texts.

    `told` tells that the usage is of the whole answer: it came with an end of it, or after one.
    """

    def __init__(self, characters_per_token: float) -> None:
        self._per_token = characters_per_token
        self._reader = AnswerReader()
        self._lengths: Counter[Key] = Counter()
        self._over = False
        self.head = Head()
        self.characters = 0
        self.usage: dict[str, int] = {}
        self.unknown = 0
        self.told = False

    @property
    def estimate(self) -> int:
        """Tokens of the answer by its characters."""
        return tokens_of(self.characters, self._per_token)

    @property
    def completion_tokens(self) -> int:
        """Tokens of the answer: what it says of the whole, before that the larger of the estimate and what it says."""
        said = self.usage.get("completion_tokens", 0)
        return said if self.told else max(self.estimate, said)

    def read(self, data: bytes) -> None:
        """Count what a document says. One that cannot be read, or that no known API wrote, counts with all its text."""
        try:
            document = read_leniently(data).value
        except NotJson:
            self._count_unknown(data.decode("utf-8", "replace"))
            return
        for one in document if isinstance(document, list) else [document]:
            self.head.take(one)
            found = self._reader.read(one)
            if found is None:
                self._count_unknown(one)
                continue
            self.usage.update(found.usage)
            self._over = self._over or bool(found.ends)
            self.told = self.told or (self._over and "completion_tokens" in found.usage)
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

    def end(self, reason: Reason | None, code: str) -> bytes:
        """Return the events that end the stream here, in the API's own way; an error with `code` where that is not
        known, or when there is no reason that APIs have a word for."""
        messages = self._reader.end(reason) if reason is not None else []
        if messages:
            ends = [event_of(write_leniently(one.document), name=one.event) for one in messages]
            sentinel = self._reader.sentinel
            return b"".join((*ends, event_of(sentinel) if sentinel else b""))
        error = {"error": {"message": "The answer cannot be read.", "code": code}}
        return event_of(write_leniently(error)) + event_of(DONE)
