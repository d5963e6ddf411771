"""Masks text, whole or as it streams; the same text gives the same result however it is cut.

A separate module because this promise is the hard part: text is masked in segments whose borders depend on the text
alone, never on chunks. A segment ends at a line end; a line longer than the window is cut where no match is torn.
What is kept back between pieces is text, so that a piece can be masked in another process.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence

from policy_patterns import searchable

from .detectors import BUILT_IN, MARK, SHORTEST, Detector

Style = Callable[[str, str], str]
LONGEST_MATCH = 1024
"""Characters. A longer match of a custom pattern is found whole only when its line fits into one window."""
WINDOW = 8192
"""Characters of one line that are looked at together."""


class Masker:
    """What to find and how it looks afterwards; holds no state of a message."""

    def __init__(self, detectors: Sequence[tuple[str, Detector]], style: Style) -> None:
        # A custom pattern may find anything: nothing is too short for it, and nothing is without a mark.
        self._detectors = [
            (name, SHORTEST[name] if BUILT_IN.get(name) is detector else 0, detector) for name, detector in detectors
        ]
        self._style = style

    def mask(self, text: str) -> str:
        """Return the whole of `text` masked."""
        return self.piece("", text, end=True)[0]

    def piece(self, held: str, text: str, *, end: bool) -> tuple[str, str]:
        """Return what can be said now that `text` follows what was `held`, and what is held from now on.

        That is at most a line, of a long line at most a window, and nothing at the end.
        """
        rest = held + text
        if not end and len(rest) < WINDOW and "\n" not in text:
            return "", rest
        out = []
        at = 0
        while True:
            line_end = rest.find("\n", at, at + WINDOW) + 1
            if line_end:
                out.append(self._whole(rest[at:line_end]))
                at = line_end
            elif len(rest) - at >= WINDOW:
                masked, used = self._part(rest[at : at + WINDOW])
                out.append(masked)
                at += used
            else:
                break
        if end:
            out.append(self._whole(rest[at:]))
            at = len(rest)
        return "".join(out), rest[at:]

    def _whole(self, text: str) -> str:
        return self.replaced(text, self.spans(text))

    def _part(self, window: str) -> tuple[str, int]:
        """Mask the first part of a window and return it with its length before masking."""
        cut = WINDOW - LONGEST_MATCH
        spans = []
        for span in self.spans(window):
            if span[0] >= cut:
                break
            spans.append(span)
            cut = max(cut, span[1])
        return self.replaced(window[:cut], spans), cut

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """Return what is to be masked in order, without overlaps: what begins first, and of those the longest, wins."""
        plain = searchable(text)
        size = len(text) if MARK.search(text) else 0
        found = [
            (start, -end, name)
            for name, shortest, detector in self._detectors
            if size >= shortest
            for start, end in detector(plain)
        ]
        found.sort()
        kept: list[tuple[int, int, str]] = []
        done = 0
        for start, negative_end, name in found:
            if start >= done:
                done = -negative_end
                kept.append((start, done, name))
            elif -negative_end > done:
                # Overlapping finds are masked together: none of either may show.
                first, _, kind = kept[-1]
                done = -negative_end
                kept[-1] = (first, done, kind)
        return kept

    def replaced(self, text: str, spans: Sequence[tuple[int, int, str]]) -> str:
        """Return `text` with the spans masked."""
        parts: list[str] = []
        at = 0
        for start, end, name in spans:
            parts += (text[at:start], self._style(name, text[start:end]))
            at = end
        parts.append(text[at:])
        return "".join(parts)


def full(label: str) -> Style:
    """Return the style that leaves nothing: every find becomes `label`, `{kind}` in it is the kind of find."""
    return lambda name, _: label.replace("{kind}", name)


def keep_last(count: int) -> Style:
    """Return the style that leaves the last letters or digits, when at least as many again are hidden."""

    def style(_: str, text: str) -> str:
        plain = "".join(char for char in text if char.isalnum())
        return f"***{plain[-count:]}" if len(plain) >= 2 * count else "***"

    return style


def hashed(salt: str) -> Style:
    """Return the style that puts a keyed hash (HMAC-SHA-256, 64 bits shown): equal data give equal hashes."""
    key = salt.encode()

    def style(name: str, text: str) -> str:
        plain = text.lower() if name == "email" else "".join(char for char in text if char.isalnum() or char in ".:")
        digest = hmac.new(key, f"{name}\0{plain.lower()}".encode("utf-8", "surrogateescape"), hashlib.sha256)
        return f"{name}_{digest.hexdigest()[:16]}"

    return style
