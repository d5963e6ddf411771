"""Plain JSON-like data taken from outside: copied, bounded in size and depth, and free of what JSON cannot hold.

A separate module because parameters reach the engine from YAML, from xDS and from defaults in schemas, and no later
step should have to ask again whether they are too big or too deep.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from policy_engine.sdk.json_pointer import Path
from policy_engine.worker.policies.violations import Violation

MAX_DEPTH = 32
"""Deepest nesting of parameters or of a schema."""

MAX_VALUES = 50_000
"""Most values (leaves and containers together) in one set of parameters or one schema."""

MAX_TEXT = 1 << 20
"""Longest text in parameters, in characters: inline key sets fit, a mistaken file does not."""


MAX_INTEGER = 2**64
"""Largest integer, in either direction."""


@dataclass(slots=True)
class _Copy:
    count: int = 0
    violations: list[Violation] = field(default_factory=list)

    def of(self, value: object, path: Path) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            self._refuse((), "has too many values", f"at most {MAX_VALUES}")
        if len(path) > MAX_DEPTH:
            self._refuse(path[:4], "is nested too deeply", f"at most {MAX_DEPTH} levels")
        if self.violations:
            return None
        if isinstance(value, Mapping):
            return self._object(value, path)
        if isinstance(value, list | tuple):
            return [self.of(item, (*path, index)) for index, item in enumerate(value)]
        self._check_scalar(value, path)
        return value

    def _object(self, value: Mapping[Any, Any], path: Path) -> dict[str, Any]:
        copied = {}
        for name, item in value.items():
            if isinstance(name, str):
                self._check_scalar(name, path)
                copied[name] = self.of(item, (*path, name))
            else:
                self._refuse(path, f"has the key {name!r}, which is not text")
        return copied

    def _check_scalar(self, value: object, path: Path) -> None:
        if isinstance(value, str):
            if len(value) > MAX_TEXT:
                self._refuse(path, "is too long", f"at most {MAX_TEXT} characters")
            elif not value.isascii() and not _is_unicode(value):
                self._refuse(path, "is not valid Unicode text (lone surrogate)")
        elif isinstance(value, float):
            if not math.isfinite(value):
                self._refuse(path, f"is {value}, which is not a JSON number")
        elif isinstance(value, int):
            if abs(value) > MAX_INTEGER:
                self._refuse(path, "is too large a number", f"at most {MAX_INTEGER}")
        elif value is not None:
            self._refuse(path, f"is not JSON data but a {type(value).__name__}")

    def _refuse(self, path: Path, reason: str, allowed: str = "") -> None:
        self.violations.append(Violation(path, reason, allowed))


def bounded_copy(value: object) -> tuple[Any, tuple[Violation, ...]]:
    """Return a plain deep copy of `value` (dict, list, str, int, float, bool, None), or why it cannot be had."""
    copy = _Copy()
    copied = copy.of(value, ())
    return copied, _distinct(copy.violations)


def _distinct(violations: Iterable[Violation]) -> tuple[Violation, ...]:
    return tuple(dict.fromkeys(violations))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
