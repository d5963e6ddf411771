"""Names that look like one that is not there, at a cost that does not grow with how many there are.

A separate module because it is asked while requests wait: `difflib` over 3,000 names takes 70 ms.
"""

from __future__ import annotations

import difflib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import islice

_NEIGHBOURS = 8
_LONGEST = 128
_MOST_NAMES = 50_000
_MOST_KEPT = 256


class NearestNames:
    """Finds up to three names that share a beginning or an end with the one asked for, and of those the most alike.

    What was found for a name is kept. Of more than 50,000 names the first are looked at.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._forward = sorted(islice(names, _MOST_NAMES))
        self._backward = sorted([name[::-1] for name in self._forward])
        self._kept: dict[str, Sequence[str]] = {}

    def of(self, name: str) -> Sequence[str]:
        """Return the names most like `name`, the most alike first."""
        name = name[:_LONGEST]
        found = self._kept.get(name)
        if found is None:
            if len(self._kept) >= _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            found = self._kept[name] = self._closest(name)
        return found

    def _closest(self, name: str) -> Sequence[str]:
        near = _around(self._forward, name)
        near += [one[::-1] for one in _around(self._backward, name[::-1])]
        short = {one[:_LONGEST]: one for one in near}
        return [short[one] for one in difflib.get_close_matches(name, short, n=3, cutoff=0.4)]


def _around(names: Sequence[str], name: str) -> list[str]:
    """Return the neighbours of `name` in order, and those of ever shorter beginnings of it."""
    found: dict[str, None] = {}
    for size in {len(name), len(name) * 3 // 4, len(name) // 2, len(name) // 4}:
        at = bisect_left(names, name[:size])
        found |= dict.fromkeys(names[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS])
    return list(found)
