"""The time of day without steps: what several machines compare, or dates are held against, while time only passes.

For a duration within one process `time.monotonic()` is enough; for when a token expires, only the time of day is right.
"""

from __future__ import annotations

import time

_OFFSET = time.time() - time.monotonic()


def steady_time() -> float:
    """Return seconds since 1970: as the clock of this machine said when the process began, plus what has passed since.

    A clock that is put back an hour must not make a stored response or a counted request an hour younger.
    """
    return _OFFSET + time.monotonic()
