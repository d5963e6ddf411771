"""Where a claim is: shared by the rules and the headers, so it has a module of its own."""

from __future__ import annotations

from policy_engine.sdk import ParameterError, PointerError, parse_pointer


def claim_path(text: str, where: str) -> tuple[str, ...]:
    """Return the names on the way to a claim, from `a.b.c` or a JSON Pointer; raises ParameterError at `where`."""
    if text.startswith("/"):
        try:
            return parse_pointer(text)
        except PointerError as error:
            raise ParameterError(str(error), where) from None
    names = tuple(text.split("."))
    if not all(names):
        raise ParameterError(f"{text!r} has an empty name; write a JSON Pointer for names that hold dots", where)
    return names
