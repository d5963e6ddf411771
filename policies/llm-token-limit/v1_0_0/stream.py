"""Reads an answer as it passes, counts, and ends a stream that went on too long; one object for each answer.

A separate module because it holds the state of one stream, and the policy must hold none.
"""

from __future__ import annotations

from policy_body import Event, events_of
from policy_llm import DONE, AnswerCount, Reason


class Answer(AnswerCount):
    """What is known of an answer so far. `ended` says why it ends here, else nothing; `passes` that no more is read."""

    def __init__(self, characters_per_token: float, most: int | None, *, refuses_unknown: bool = False) -> None:
        super().__init__(characters_per_token)
        self._most = most
        self._refuses_unknown = refuses_unknown
        self.ended = ""
        self.passes = False

    def feed(self, whole: bytes, rest: bytes, *, end: bool) -> bytes:
        """Take what is whole, and at the end what is left; return what goes on to the client."""
        raise NotImplementedError

    def give_up(self, whole: bytes, rest: bytes) -> bytes:
        """Return what goes on when what comes after `whole` is too large to be read."""
        raise NotImplementedError

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
        if data is None or data.strip() in (b"", DONE):
            return False
        self.read(data)
        self.ended = self._reason_to_end()
        return bool(self.ended)

    def _end(self) -> bytes:
        return self.end(Reason.LENGTH if self.ended == "token_limit" else None, self.ended)


class JsonAnswer(Answer):
    """An answer as one JSON document: it passes untouched, a copy is read at the end."""

    def __init__(self, characters_per_token: float) -> None:
        super().__init__(characters_per_token, None)

    def feed(self, whole: bytes, rest: bytes, *, end: bool) -> bytes:
        """Read the copy."""
        if rest:
            self.read(rest)
        return rest

    def give_up(self, whole: bytes, rest: bytes) -> bytes:
        """Read nothing."""
        self.unknown += 1
        self.passes = True
        return rest
