"""JSON as RFC 8259 has it and nothing else: what two parsers could read in two ways is refused.

A separate module because every policy that looks into a body must see what the upstream will see.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


class NotJson(ValueError):
    """The bytes are not the JSON that was asked for; the text says why and repeats nothing of them."""


def parse(data: bytes, max_depth: int = 64) -> Any:
    """Return the value in `data`; raises NotJson.

    Refused: what is not UTF-8, a byte order mark, a name twice in one object, NaN and Infinity, numbers beyond
    binary64, halves of surrogate pairs (RFC 8259, 4, 6, 8.1, 8.2; RFC 7493), more than `max_depth` levels.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise NotJson("it is not UTF-8") from None
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
    except NotJson:
        raise
    except RecursionError:
        raise NotJson(f"it is nested more than {max_depth} levels deep") from None
    except json.JSONDecodeError as error:
        raise NotJson(f"syntax error at line {error.lineno}, column {error.colno}") from None
    except ValueError:  # an integer of more digits than Python converts
        raise NotJson("a number has too many digits") from None
    check_levels(value, max_depth, surrogates="\\u" in text)
    return value


def dump(value: Any) -> bytes:
    """Return `value` as compact JSON in UTF-8; raises ValueError for what JSON cannot hold."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise NotJson("an object has the same name twice")
    return made


def _constant(_: str) -> NoReturn:
    raise NotJson("NaN and Infinity are not JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotJson("a number is too large")
    return value


def check_levels(value: Any, max_depth: int, *, surrogates: bool = False) -> None:
    """Raise NotJson below `max_depth` levels, and for half of a surrogate pair when asked; without recursion."""
    level: list[Any] = [value]
    depth = 0
    while level:
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                if surrogates:
                    for name in one:
                        _check_text(name)
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
            elif surrogates and isinstance(one, str):
                _check_text(one)
        depth += any(isinstance(one, dict | list) for one in level)
        if depth > max_depth:
            raise NotJson(f"it is nested more than {max_depth} levels deep")
        level = below


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise NotJson("a text holds half of a surrogate pair") from None
