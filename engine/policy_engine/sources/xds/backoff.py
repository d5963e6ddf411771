"""How long to wait before the next attempt to reach the management server.

A separate module because the bounds are a promise to whoever runs the server: however many engines lose it at once,
they come back spread out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

_random = random.SystemRandom()


@dataclass(slots=True)
class Backoff:
    """Exponential back-off with full jitter.

    Attempt n waits a random time between 0 and min(`longest`, `first` * 2^n) seconds. A connection that lasted
    `stable_after` seconds starts again at n = 0; a shorter one does not, so that a server that accepts and drops
    connections is not hammered.
    """

    first: float = 0.5
    longest: float = 10.0
    stable_after: float = 30.0
    _attempts: int = field(default=0, init=False)

    def next_delay(self) -> float:
        """Return the seconds to wait before the next attempt, and count it."""
        bound = min(self.longest, self.first * 2.0 ** min(self._attempts, 32))
        self._attempts += 1
        return _random.uniform(0.0, bound)

    def connection_ended(self, lasted: float) -> None:
        """Start again from the shortest waits when the connection `lasted` long enough, in seconds."""
        if lasted >= self.stable_after:
            self._attempts = 0
