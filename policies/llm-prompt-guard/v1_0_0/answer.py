"""Guards an answer as it passes: events one by one with their text held back, a JSON document as a whole.

A separate module because it holds the state of one answer, and the policy must hold none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from policy_body import Event, LenientReading, NotJson, event_of, events_of, read_leniently, write_leniently
from policy_llm import AnswerReader, Key, Message, Piece, Reading, Reason

from .held_text import HeldText
from .rules import RuleTexts, compiled, redacted

_MOST_TEXTS = 10_000  # that are held back in one answer
_DONE = b"[DONE]"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRules:
    """What answers are held to; the parameters of the policy that are about answers."""

    texts: RuleTexts
    window: int = 200
    label: str | None = None
    passes_unknown: bool = False


class Answer:
    """Takes what is whole of an answer and gives what goes to the client.

    `stopped` tells that it ended by a find, `fault` why it cannot be looked at and ends here; in both cases what `feed`
    returned is the last of it. `unknown` counts what passed without a look, as the operator lets it; `passes` tells
    that all the rest does. The state is small and can be pickled: much to look at is looked at in another process.
    """

    def __init__(self, rules: AnswerRules) -> None:
        self._rules = rules
        self._reader = AnswerReader()
        self.stopped = False
        self.fault = ""
        self.unknown = 0
        self.passes = False

    def feed(self, whole: bytes, rest: bytes, *, end: bool) -> bytes:
        """Return what goes out now, given what is whole and, at the end, what is left."""
        raise NotImplementedError

    def give_up(self, whole: bytes, rest: bytes, fault: str) -> bytes:
        """Return what goes out when what comes after `whole` is too large to be looked at."""
        out = self.feed(whole, b"", end=False)
        if self.over:
            return out
        self._cannot_read(fault)
        self.passes = not self.fault
        closed = self._closed() if self.fault else self._flushed()
        return out + closed + (rest if self.passes and not self.stopped else b"")

    @property
    def over(self) -> bool:
        """Whether the answer ends here."""
        return self.stopped or bool(self.fault)

    def _cannot_read(self, fault: str) -> None:
        if self._rules.passes_unknown:
            self.unknown += 1
        else:
            self.fault = fault

    def _flushed(self) -> bytes:
        """Return what was held back and may go."""
        return b""

    def _closed(self) -> bytes:
        """Return what ends the answer before its own end."""
        return b""


def fed(answer: Answer, whole: bytes, rest: bytes, end: bool) -> tuple[bytes, Answer]:
    """Return what `answer.feed` does, and the answer as it then is: for where it is a copy."""
    return answer.feed(whole, rest, end=end), answer


class EventAnswer(Answer):
    """An answer as server-sent events."""

    def __init__(self, rules: AnswerRules) -> None:
        super().__init__(rules)
        self._texts: dict[Key, HeldText] = {}
        self._begun = False

    def feed(self, whole: bytes, rest: bytes, *, end: bool) -> bytes:
        """Pass events on with the text that may go."""
        out: list[bytes] = []
        for event in events_of(whole, first=not self._begun):
            out.append(self._event(event))
            if self.over:
                return b"".join((*out, self._closed()))
        self._begun |= bool(whole)
        if end:
            out += [self._last(event) for event in events_of(rest, first=not self._begun)]
            out.append(b"" if self.over else self._flushed())
        return b"".join((*out, self._closed() if self.over else b""))

    def _last(self, rest: Event) -> bytes:
        """Return an event without its empty line at the end of a stream, with that line when others may follow."""
        whole = rest.completed()
        out = self._event(whole)
        return rest.raw if out == whole.raw and not self._texts else out

    def _event(self, event: Event) -> bytes:
        data = event.data
        if data is None or not data.strip():
            return event.raw
        if data.strip() == _DONE:
            flushed = self._flushed()
            return flushed if self.stopped else flushed + event.raw
        try:
            read = read_leniently(data)
        except NotJson:
            self._cannot_read("event_not_json")
            return b"" if self.fault else event.raw
        reading = self._reader.read(read.value)
        if reading is None:
            self._cannot_read("answer_unknown")
            return b"" if self.fault else event.raw
        return self._known(event, read, reading)

    def _known(self, event: Event, read: LenientReading, reading: Reading) -> bytes:
        changed = not read.exact or bool(reading.repeats)
        reading.empty_repeats()
        last = {piece.key: piece for piece in reading.pieces if not piece.whole}
        before = self._ended(reading, set(last))
        passed: list[tuple[Key, str]] = []
        for piece in reading.pieces:
            if self.stopped:
                break
            given = piece.text
            out = self._text_of(piece, end=piece is last.get(piece.key) and _ends(reading, piece.key))
            if not piece.whole:
                passed.append((piece.key, out))
            if out != given:
                piece.replace(out)
                changed = True
        if self.stopped:
            return before + b"".join(_framed(self._reader.more(key, text)) for key, text in passed if text)
        if len(self._texts) > _MOST_TEXTS:
            self.fault = "answer_too_large"
            return before
        return before + (event.with_data(write_leniently(read.value)) if changed else event.raw)

    def _text_of(self, piece: Piece, *, end: bool) -> str:
        """Return what of a piece may go."""
        rules = self._rules
        if piece.whole:
            text = HeldText(rules.texts, rules.window, rules.label)
            out = text.feed(piece.text, end=True)
        else:
            if piece.key not in self._texts:
                self._texts[piece.key] = HeldText(rules.texts, rules.window, rules.label)
            text = self._texts[piece.key]
            out = text.feed(piece.text, end=end)
            if end:
                del self._texts[piece.key]
        self.stopped |= text.stopped
        return out

    def _ended(self, reading: Reading, fed: set[Key]) -> bytes:
        """Return events with the texts that end with a document that has no more of them."""
        keys = [key for key in self._texts if key not in fed and _ends(reading, key)] if reading.ends else []
        return b"".join(map(self._rest_of, keys))

    def _flushed(self) -> bytes:
        """Return an event for each text that is still held back."""
        return b"".join(map(self._rest_of, list(self._texts)))

    def _rest_of(self, key: Key) -> bytes:
        text = self._texts.pop(key)
        rest = text.feed("", end=True)
        self.stopped |= text.stopped
        return _framed(self._reader.more(key, rest)) if rest else b""

    def _closed(self) -> bytes:
        """Return what ends the stream here, in the API's own way: what was held back and is clean, then its end."""
        flushed = self._flushed()
        ends = b"".join(map(_framed, self._reader.end(Reason.DENIED)))
        sentinel = self._reader.sentinel
        return flushed + ends + (event_of(sentinel) if sentinel else b"")


class JsonAnswer(Answer):
    """An answer as one JSON document, which is looked at when it is whole."""

    def feed(self, whole: bytes, rest: bytes, *, end: bool) -> bytes:
        """Return nothing until the end, then the document."""
        if not rest:
            return b""
        try:
            read = read_leniently(rest)
        except NotJson:
            self._cannot_read("answer_not_json")
            return b"" if self.fault else rest
        documents = read.value if isinstance(read.value, list) else [read.value]
        readings = [self._reader.read(one) for one in documents]
        known = [one for one in readings if one is not None]
        if len(known) < len(readings):
            self._cannot_read("answer_unknown")
            if self.fault:
                return b""
        changed = self._guard(documents, readings)
        if changed:
            for reading in known:
                reading.empty_repeats()
        return rest if read.exact and not changed else write_leniently(read.value)

    def _guard(self, documents: list[Any], readings: list[Reading | None]) -> bool:
        """Look at each text as a whole, over all the pieces that it has; tell whether any changed."""
        texts: dict[Key, list[tuple[Piece, Any]]] = {}
        for number, (document, reading) in enumerate(zip(documents, readings, strict=True)):
            for at, piece in enumerate(reading.pieces if reading is not None else ()):
                own = (*piece.key, number, at) if piece.whole else piece.key
                texts.setdefault(own, []).append((piece, document))
        stopped: set[Key] = set()
        changed = False
        for pieces in texts.values():
            choice = pieces[0][0].key[:2]
            found = _guarded(self._rules, [piece.text for piece, _ in pieces])
            if choice in stopped:  # what comes after the find, in a text of its own
                found = [""] * len(pieces)
            elif found is not None and self._rules.label is None:
                stopped.add(choice)
                self.stopped = True
                for document in [document for _, document in pieces]:
                    self._reader.mark(document, pieces[0][0].key, Reason.DENIED)
            for (piece, _), text in zip(pieces, found or (), strict=found is not None):
                piece.replace(text)
                changed = True
        return changed


def _guarded(rules: AnswerRules, pieces: list[str]) -> list[str] | None:
    """Return the pieces of one text without what is denied in it; None when nothing is."""
    text = "".join(pieces)
    spans = compiled(rules.texts).spans(text)
    if not spans:
        return None
    if rules.label is None:
        spans, label = [(spans[0][0], len(text))], ""
    else:
        label = rules.label
    out: list[str] = []
    at = 0
    for piece in pieces:
        end = at + len(piece)
        inside = [(max(start, at), min(last, end)) for start, last in spans if start < end and last > at]
        new = redacted(piece, [(start - at, last - at) for start, last in inside], label)
        if inside and any(start < at < last for start, last in spans):
            new = new.removeprefix(label)  # it stands in the piece before
        out.append(new)
        at = end
    return out


def _ends(reading: Reading, key: Key) -> bool:
    return any(key[: len(prefix)] == prefix for prefix in reading.ends)


def _framed(message: Message) -> bytes:
    return event_of(write_leniently(message.document), name=message.event)
