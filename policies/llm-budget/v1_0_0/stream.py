"""Reads an answer as it passes, and stops before what has not been paid for; one object for each answer.

A separate module because it holds the state of one stream, and the policy must hold none.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from policy_body import events_of
from policy_llm import DONE, AnswerCount, Reason

Weights = tuple[int, int]
"""What a token of the prompt and one of the answer cost."""


@dataclass(frozen=True, slots=True)
class Paid:
    """What an exchange has of one budget, and what tokens cost there."""

    weights: Weights
    amount: int


class Answer(AnswerCount):
    """What is known of an answer so far. `short` tells that an event waits until more is paid; `ended` that the stream
    ends here; `unreadable` that there is no telling what it used; `begun` that some of it was read."""

    def __init__(self, characters_per_token: float, prompt_tokens: int) -> None:
        super().__init__(characters_per_token)
        self._prompt = prompt_tokens
        self.short = self.ended = self.unreadable = self.begun = False

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt: what the answer says, before that the estimate."""
        return self.usage.get("prompt_tokens", self._prompt)

    def cost(self, weights: Weights) -> int:
        """Return what prompt and answer cost so far."""
        return _cost(weights, (self.prompt_tokens, self.completion_tokens))

    def next_cost(self, weights: Weights) -> int:
        """Return what it has to have to go on."""
        return self.cost(weights)

    def feed(self, whole: bytes, rest: bytes, paid: Sequence[Paid]) -> bytes:
        """Take what is whole, and at the end what is left; return what goes on to the client."""
        raise NotImplementedError

    def unread(self) -> bytes:
        """Take note of what is too large to be read; return the end of a stream that cannot go on like that."""
        self.unreadable = True
        return b""


def _cost(weights: Weights, tokens: tuple[int, int]) -> int:
    return weights[0] * tokens[0] + weights[1] * tokens[1]


def fed(answer: Answer, whole: bytes, rest: bytes, paid: Sequence[Paid]) -> tuple[bytes, Answer]:
    """Return what `answer.feed` does, and the answer as it then is: for where it is a copy."""
    return answer.feed(whole, rest, paid), answer


class _Waiting:
    """Events that are counted and not passed on, with what prompt and answer have come to with each.

    Numbers in a row and one piece of bytes, as there may be very many, which another process gives back.
    """

    def __init__(self) -> None:
        self._raw = b""
        self._ends, self._prompts, self._completions = array("q"), array("q"), array("q")

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, raws: Sequence[bytes], tokens: Sequence[tuple[int, int]]) -> None:
        """Take more events, each with the tokens of prompt and answer up to it."""
        end = len(self._raw)
        self._raw = b"".join((self._raw, *raws))
        for raw, (prompt, completion) in zip(raws, tokens, strict=True):
            end += len(raw)
            self._ends.append(end)
            self._prompts.append(prompt)
            self._completions.append(completion)

    def first(self) -> tuple[int, int]:
        """Return the tokens of prompt and answer up to the first event."""
        return self._prompts[0], self._completions[0]

    def take(self, paid: Sequence[Paid]) -> bytes:
        """Take the first events out that are paid for."""
        count = len(self._ends)
        for one in paid:
            prompt, completion = one.weights
            pairs = zip(self._prompts, self._completions, strict=True)
            costs = (prompt * first + completion * second for first, second in pairs)
            count = next((at for at, cost in enumerate(islice(costs, count)) if cost > one.amount), count)
        if not count:
            return b""
        end = self._ends[count - 1]
        passed, self._raw = self._raw[:end], self._raw[end:]
        self._ends = array("q", (one - end for one in self._ends[count:]))
        del self._prompts[:count], self._completions[:count]
        return passed


class EventAnswer(Answer):
    """An answer as server-sent events; each goes on as soon as it is whole and paid for."""

    def __init__(self, characters_per_token: float, prompt_tokens: int) -> None:
        super().__init__(characters_per_token, prompt_tokens)
        self._waiting = _Waiting()
        self._last: tuple[int, int] | None = None

    def cost(self, weights: Weights) -> int:
        """See `Answer`: up to where it ended, when it did."""
        return super().cost(weights) if self._last is None else _cost(weights, self._last)

    def next_cost(self, weights: Weights) -> int:
        """Return what it costs with the event that waits."""
        return _cost(weights, self._waiting.first()) if self._waiting else self.cost(weights)

    def feed(self, whole: bytes, rest: bytes, paid: Sequence[Paid]) -> bytes:
        """Pass on what is paid for; call it again, with nothing new, when more is.

        In shadow a stream goes on after its end, and is counted on.
        """
        self._last = None
        raws: list[bytes] = []
        tokens: list[tuple[int, int]] = []
        for event in [*events_of(whole, first=not self.begun), *events_of(rest, first=not self.begun and not whole)]:
            if event.data is not None and event.data.strip() not in (b"", DONE):
                self.read(event.data)
            raws.append(event.raw)
            tokens.append((self.prompt_tokens, self.completion_tokens))
        self.begun |= bool(whole)
        self._waiting.add(raws, tokens)
        passed = self._waiting.take(paid)
        self.short = bool(self._waiting)
        return passed

    def stop(self) -> bytes:
        """Return the events that end the stream as its API ends one that became too long."""
        self._last = self._waiting.first() if self._waiting else None
        self.short, self.ended = False, True
        self._waiting = _Waiting()
        return self.end(Reason.LENGTH, "budget_exceeded")

    def unread(self) -> bytes:
        """See `Answer`."""
        self.unreadable = self.ended = True
        return self.end(None, "budget_unreadable")


class JsonAnswer(Answer):
    """An answer as one JSON document: it passes untouched, a copy is read at the end."""

    def feed(self, whole: bytes, rest: bytes, paid: Sequence[Paid]) -> bytes:
        """Read the copy."""
        if rest:
            self.begun = True
            self.read(rest)
            self.told = "completion_tokens" in self.usage
        return rest
