"""An exception in one line, for findings and logs of an operator who must find its cause."""

from __future__ import annotations

import traceback


def error_text(error: BaseException, *, message: bool = True) -> str:
    """Return an exception as `Type: message (file:line)`, the place being the innermost one.

    `message=False` leaves the message out, where nobody knows what it quotes.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    said = f": {error}" if message and str(error) else ""
    return f"{type(error).__name__}{said}{place}"
