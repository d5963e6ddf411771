"""When to try a store that failed again; apart from the connection because it is arithmetic on a clock."""

from __future__ import annotations

import time
from collections.abc import Callable

_FAILURES = 3  # in a row: one slow answer is no outage


class Circuit:
    """Closed while the store works; open for `pause` seconds after failures in a row, then one request tries.

    `failures` is how many in a row open it.
    """

    def __init__(self, pause: float, *, failures: int = _FAILURES, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause = pause
        self._limit = failures
        self._clock = clock
        self._failed = 0
        self._closed_again = 0.0

    def allows(self) -> bool:
        """Return whether the store may be asked now; while it is open, True only for one request in each pause."""
        if self._failed < self._limit:
            return True
        now = self._clock()
        if now < self._closed_again:
            return False
        self._closed_again = now + self._pause  # the others wait for what this one finds
        return True

    def succeeded(self) -> bool:
        """Note an answer; returns whether the circuit was open until now."""
        opened, self._failed = self._failed >= self._limit, 0
        return opened

    def failed(self) -> bool:
        """Note a failure; returns whether it was the one that opened the circuit."""
        self._failed += 1
        if self._failed >= self._limit:
            self._closed_again = self._clock() + self._pause
        return self._failed == self._limit
