"""An exception in one line, for findings and logs of an operator who must find its cause."""

from __future__ import annotations

import traceback


def error_text(error: BaseException, *, message: bool = True) -> str:
    """Return an exception as `Type: message (file:line)`, the place being the innermost one.

    `message=False` leaves the message out, where nobody knows what it quotes.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{said(error) if message else type(error).__name__}{place}"


def said(error: BaseException) -> str:
    """Return an exception as `Type: message`, also one whose own `__str__` raises."""
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException as inner:  # the author's own, also its `sys.exit()`
        text = f"its text cannot be had, {type(inner).__name__}"
    return f"{name}: {text}" if text else name
