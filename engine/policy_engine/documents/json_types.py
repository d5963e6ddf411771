"""The types of JSON data in words, for messages such as "must be an object, not text"."""

from __future__ import annotations

from collections.abc import Mapping

_WORDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "null"),
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a number"),
    (str, "text"),
    (Mapping, "an object"),
    ((list, tuple), "a list"),
)


def type_in_words(value: object) -> str:
    """Return the JSON type of `value` with its article."""
    for kind, text in _WORDS:
        if isinstance(value, kind):
            return text
    return f"a {type(value).__name__}"
