"""Route keys with stars: what they match, which of them is the most specific, and which cannot be told apart.

A separate module because reader, compiler, kernel and `validate --explain` have to mean the same by a pattern.

`*` stands for any text, also none, slashes included. Of the patterns that match a key the most specific wins: the one
with the most literal characters, then the one with the fewest stars. Two patterns that are alike in both and match one
key would be a matter of luck; `ties` finds them when a configuration is loaded. No regular expression is involved: a
pattern looks at each part of a key once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

STAR = "*"
MAX_STARS = 16


@dataclass(frozen=True, slots=True)
class RoutePattern:
    """A route key with stars; `parts` are the literal texts before, between and after them. Without one: itself."""

    text: str
    parts: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> RoutePattern:
        """Return the pattern that `text` stands for."""
        return cls(text, tuple(text.split(STAR)))

    @property
    def literal(self) -> int:
        """How many characters of it are literal."""
        return len(self.text) - self.stars

    @property
    def stars(self) -> int:
        """How many stars it has."""
        return len(self.parts) - 1

    @property
    def rank(self) -> tuple[int, int]:
        """Grows with how specific it is."""
        return self.literal, -self.stars

    def matches(self, key: str) -> bool:
        """Return whether `key` is one that it stands for."""
        if len(self.parts) == 1:
            return key == self.text
        first, last = self.parts[0], self.parts[-1]
        at, end = len(first), len(key) - len(last)
        if at > end or not key.startswith(first) or not key.endswith(last):
            return False
        # The leftmost place of each part leaves the most for those after it, so that nothing is tried twice.
        for part in self.parts[1:-1]:
            found = key.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True


def is_pattern(route_key: str) -> bool:
    """Return whether a route key of a configuration stands for others than itself."""
    return STAR in route_key


class RoutePatterns:
    """Patterns by how they begin and end, so that finding one does not look at all of them."""

    __slots__ = ("_lengths", "_tree")

    def __init__(self, texts: Iterable[str]) -> None:
        tree: dict[str, dict[str, list[RoutePattern]]] = {}
        for text in texts:
            pattern = RoutePattern.of(text)
            tree.setdefault(pattern.parts[0], {}).setdefault(pattern.parts[-1], []).append(pattern)
        for ends in tree.values():
            for patterns in ends.values():
                patterns.sort(key=lambda one: one.rank, reverse=True)
        self._tree = {begin: (sorted({len(end) for end in ends}, reverse=True), ends) for begin, ends in tree.items()}
        self._lengths = sorted({len(begin) for begin in tree}, reverse=True)

    def find(self, key: str) -> str | None:
        """Return the most specific pattern that matches `key`, None when none does."""
        best: RoutePattern | None = None
        for patterns in self._alike(key):
            for one in patterns:
                if best is not None and one.rank <= best.rank:
                    break
                if one.matches(key):
                    best = one
                    break
        return best.text if best is not None else None

    def matching(self, key: str) -> list[RoutePattern]:
        """Return all patterns that match `key`, the most specific first."""
        found = [one for patterns in self._alike(key) for one in patterns if one.matches(key)]
        return sorted(found, key=lambda one: one.rank, reverse=True)

    def _alike(self, key: str) -> Iterator[list[RoutePattern]]:
        """Yield the patterns that begin and end as `key` does, those of one beginning and end together."""
        for length in self._lengths:
            if length > len(key):
                continue
            lengths, ends = self._tree.get(key[:length], ((), {}))
            for size in lengths:
                patterns = ends.get(key[len(key) - size :]) if size <= len(key) else None
                if patterns is not None:
                    yield patterns


def ties(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of different patterns that are equally specific and match one key; not all of a pattern's, but one.

    Stars take up whatever stands between, so that two patterns match one key when the beginning of one begins with
    that of the other, and likewise their ends.
    """
    classes: dict[tuple[int, int], list[RoutePattern]] = defaultdict(list)
    for text in dict.fromkeys(texts):
        pattern = RoutePattern.of(text)
        classes[pattern.rank].append(pattern)
    found = [pair for patterns in classes.values() if len(patterns) > 1 for pair in _ties_of_rank(patterns)]
    return list({frozenset(pair): pair for pair in found}.values())


def _ties_of_rank(patterns: list[RoutePattern]) -> Iterator[tuple[str, str]]:
    begins: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for one in patterns:
        begins[one.parts[0]].append((one.parts[-1][::-1], one.text))
    groups = {begin: _Ends(sorted(ends)) for begin, ends in begins.items()}
    lengths = sorted({len(begin) for begin in groups})
    for one in patterns:
        begin, end = one.parts[0], one.parts[-1][::-1]
        near = (groups.get(begin[:length]) for length in lengths if length <= len(begin))
        other = next((found for group in near if group is not None and (found := group.alike(end, one.text))), None)
        if other is not None:
            yield other, one.text


class _Ends:
    """The ends of patterns that begin alike, turned round and sorted."""

    __slots__ = ("_lengths", "_places", "_sorted")

    def __init__(self, ends: list[tuple[str, str]]) -> None:
        self._sorted = ends
        self._places: dict[str, list[str]] = defaultdict(list)
        for end, text in ends:
            self._places[end].append(text)
        self._lengths = sorted({len(end) for end, _ in ends})

    def alike(self, end: str, but: str) -> str | None:
        """Return a pattern other than `but` whose end begins with `end`, both turned round, or the other way."""
        at = bisect_left(self._sorted, (end, ""))
        for found, text in self._sorted[at : at + 2]:
            if text != but and found.startswith(end):
                return text
        for length in self._lengths:
            if length >= len(end):
                break
            for text in self._places.get(end[:length], ())[:2]:
                if text != but:
                    return text
        return None
