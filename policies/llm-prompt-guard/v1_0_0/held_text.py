"""Text of a stream that is held back by a window, so that a find across events is seen before any of it goes.

A separate module because it holds the state of one text and knows nothing of events.
"""

from __future__ import annotations

from typing import Any

from policy_patterns import Folded

from .rules import RuleTexts, Span, compiled, redacted

_MOST_UNSEEN = 16
"""So many times the window are held back at most, however much of it shows nothing."""

_TAIL = 64  # characters in which the last one that shows anything is looked for


class HeldText:
    """One text: what is held back, and what may go. It can be pickled: the rules go as texts."""

    __slots__ = ("_before", "_held", "_label", "_rules", "_texts", "_window", "stopped")

    def __init__(self, texts: RuleTexts, window: int, label: str | None) -> None:
        self._texts = texts
        self._rules = compiled(texts)
        self._window = window
        self._label = label
        self._before = ""  # the last character that went out, as it may be part of a word
        self._held = ""
        self.stopped = False

    def feed(self, text: str, *, end: bool) -> str:
        """Return what goes out now; `stopped` tells that a find ended the text (when there is no label)."""
        self._held += text
        cut = len(self._held) if end else self._behind_window()
        spans, exempt = self._look()
        if not end:
            # What made a find none must stay in sight of it.
            cut = min([cut, *(start for start, last in exempt if start < cut < last and last - start <= self._window)])
        # A find is decided when the window lies behind its start: until then it may grow, or turn out to be none.
        chosen = [span for span in spans if span[0] < cut]
        if self._label is None and chosen:
            self.stopped = True
            out, self._held = self._held[: chosen[0][0]], ""
            return out
        cut = max(cut, chosen[-1][1]) if chosen else cut
        out = redacted(self._held[:cut], chosen, self._label or "")
        self._before = Folded(self._held[max(0, cut - _TAIL) : cut]).text[-1:] or self._before
        self._held = self._held[cut:]
        return out

    def __getstate__(self) -> tuple[Any, ...]:
        return self._texts, self._window, self._label, self._before, self._held, self.stopped

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._texts, self._window, self._label, self._before, self._held, self.stopped = state
        self._rules = compiled(self._texts)

    def _behind_window(self) -> int:
        """Return how much lies behind the window, which counts only what shows."""
        size = len(self._held)
        folded = Folded(self._held)
        shown = len(folded.text)
        if shown <= self._window:
            cut = 0
        elif shown == size and not folded.changed:
            cut = size - self._window
        else:
            cut = folded.origin(shown - self._window, shown)[0]
        return max(cut, size - _MOST_UNSEEN * self._window)

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
