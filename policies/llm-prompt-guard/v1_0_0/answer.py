"""Guards an answer as it passes: text is held back by a window, so a find across events is seen before it goes.

A separate module because it holds the state of one stream.
"""

from __future__ import annotations

import json
from typing import Any

from policy_body import EventSplitter, EventTooLarge, NotJson, data_of, dump, event_of, parse

from .rules import Rules, Span, redacted

_LARGEST = 1 << 20  # bytes of an event or of a JSON answer
_DONE = event_of(b"[DONE]")


class Unreadable(Exception):
    """The answer cannot be looked at."""


class Text:
    """The text of one choice: what is held back, and what may go."""

    __slots__ = ("_before", "_held", "_label", "_rules", "_window", "stopped")

    def __init__(self, rules: Rules, window: int, label: str | None) -> None:
        self._rules = rules
        self._window = window
        self._label = label
        self._before = ""  # the last character that went out, as it may be part of a word
        self._held = ""
        self.stopped = False

    def feed(self, text: str, *, end: bool) -> str:
        """Return what goes out now; `stopped` tells that a find ended the text (when there is no label)."""
        self._held += text
        size = len(self._held)
        cut = size if end else max(0, size - self._window)
        spans, exempt = self._look()
        if not end:
            # What made a find none must stay in sight of it.
            cut = min([cut, *(start for start, last in exempt if start < cut < last and last - start <= self._window)])
        # A find is decided when the window lies behind its start: until then it may grow, or turn out to be none.
        chosen = [span for span in spans if span[0] < cut]
        if self._label is None and chosen:
            self.stopped = True
            return self._held[: chosen[0][0]]
        cut = max(cut, chosen[-1][1]) if chosen else cut
        out = redacted(self._held[:cut], chosen, self._label or "")
        self._before = self._held[cut - 1 : cut] if cut else self._before
        self._held = self._held[cut:]
        return out

    def _look(self) -> tuple[list[Span], list[Span]]:
        shift = len(self._before)
        denied, exempt = self._rules.look(self._before + self._held)
        if any(start < shift for start, _ in denied):
            # It begins in what was decided before: no find, but it may cover one that begins here.
            shift = 0
            denied, exempt = self._rules.look(self._held)
        return _shifted(denied, shift), _shifted(exempt, shift)


def _shifted(spans: list[Span], shift: int) -> list[Span]:
    return [(max(0, start - shift), last - shift) for start, last in spans if last > shift]


class Answer:
    """Takes the pieces of an answer and gives what goes to the client; `stopped` tells that it ended by a find."""

    def __init__(self, rules: Rules, window: int, label: str | None) -> None:
        self._rules = rules
        self._window = window
        self._label = label
        self.stopped = False

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Return what goes out now; raises Unreadable."""
        raise NotImplementedError


class EventAnswer(Answer):
    """An answer as server-sent events."""

    def __init__(self, rules: Rules, window: int, label: str | None) -> None:
        super().__init__(rules, window, label)
        self._events = EventSplitter(_LARGEST)
        self._texts: dict[tuple[int, str], Text] = {}
        self._last: dict[str, Any] = {}

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Pass events on with the text that may go."""
        out: list[bytes] = []
        try:
            events = self._events.feed(data)
        except EventTooLarge:
            raise Unreadable("event_too_large") from None
        rest = self._events.finish() if end else b""
        for event in (*events, rest) if rest else events:
            out.append(self._event(event))
            if self.stopped:
                return b"".join((*out, self._ends("content_filter"), _DONE))
        if end:
            out.append(self._flushed())
        return b"".join(out)

    def _event(self, event: bytes) -> bytes:
        data = data_of(event)
        if data is None:
            return event
        if data.strip() == b"[DONE]":
            return self._flushed() + (b"" if self.stopped else event)
        try:
            document = parse(data)
        except NotJson:
            raise Unreadable("event_not_json") from None
        choices = document.get("choices") if isinstance(document, dict) else None
        if not isinstance(choices, list) or not choices:
            return event
        self._last = document
        for choice in choices:
            if isinstance(choice, dict):
                self._choice(choice)
        return event_of(dump(document), like=event)

    def _choice(self, choice: dict[str, Any]) -> None:
        index = choice.get("index")
        number = index if isinstance(index, int) else 0
        end = choice.get("finish_reason") is not None
        delta = choice.get("delta")
        for holder, name in ((delta, "content"), (choice, "text")):
            if not isinstance(holder, dict):
                continue
            given = holder.get(name)
            known = (number, name) in self._texts
            if not isinstance(given, str) and not (end and known):
                continue
            text = self._text(number, name)
            out = text.feed(given if isinstance(given, str) else "", end=end)
            if isinstance(given, str) or out:
                holder[name] = out
            if text.stopped:
                self.stopped = True
                choice["finish_reason"] = None

    def _text(self, number: int, name: str) -> Text:
        key = (number, name)
        if key not in self._texts:
            self._texts[key] = Text(self._rules, self._window, self._label)
        return self._texts[key]

    def _flushed(self) -> bytes:
        """Return an event for each text that is still held back."""
        out = []
        for (number, name), text in self._texts.items():
            rest = text.feed("", end=True)
            self.stopped |= text.stopped
            if rest:
                out.append(self._made(number, name, rest, None))
        return b"".join(out)

    def _ends(self, reason: str) -> bytes:
        return b"".join(self._made(number, name, "", reason) for number, name in self._texts)

    def _made(self, number: int, name: str, text: str, reason: str | None) -> bytes:
        kept = {key: self._last[key] for key in ("id", "object", "created", "model") if key in self._last}
        said: dict[str, Any] = {"text": text} if name == "text" else {"delta": {"content": text} if text else {}}
        choice = {"index": number, **said, "finish_reason": reason}
        return event_of(json.dumps({**kept, "choices": [choice]}).encode())


class JsonAnswer(Answer):
    """An answer as one JSON document, which is held back until it is whole."""

    def __init__(self, rules: Rules, window: int, label: str | None) -> None:
        super().__init__(rules, window, label)
        self._held = bytearray()

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Return nothing until the end, then the document."""
        self._held += data
        if len(self._held) > _LARGEST:
            raise Unreadable("answer_too_large")
        if not end or not self._held:
            return b""
        raw = bytes(self._held)
        try:
            document = parse(raw)
        except NotJson:
            raise Unreadable("answer_not_json") from None
        choices = document.get("choices") if isinstance(document, dict) else None
        changed = [self._choice(one) for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
        return dump(document) if any(changed) else raw

    def _choice(self, choice: dict[str, Any]) -> bool:
        changed = False
        for holder, name in ((choice.get("message"), "content"), (choice, "text")):
            if isinstance(holder, dict) and isinstance(holder.get(name), str):
                text = Text(self._rules, self._window, self._label)
                out = text.feed(holder[name], end=True)
                changed |= out != holder[name] or text.stopped
                holder[name] = out
                if text.stopped:
                    choice["finish_reason"] = "content_filter"
                    self.stopped = True
        return changed
