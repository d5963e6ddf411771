"""The keys of an object in a configuration file, read as typed fields with every mistake reported.

A separate module because chain files, policy manifests and registries ask the same questions of their keys: is it
known, is it there, is it of the right type.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.documents.json_types import type_in_words
from policy_engine.documents.quantities import DURATION_FORM, SIZE_FORM, format_size, parse_duration, parse_size
from policy_engine.documents.redaction import sounds_secret
from policy_engine.documents.yaml_document import Document
from policy_engine.sdk.json_pointer import Path, find

_YAML_1_1_BOOLEANS = {"yes": True, "on": True, "y": True, "no": False, "off": False, "n": False}


class Fields:
    """Reads the object at `path` of `document`, whose keys may be those in `known`; findings go to `diagnostics`.

    A getter returns None for a key that is absent or wrong; `ok` is False once anything was wrong.
    """

    __slots__ = ("_diagnostics", "_document", "_meant", "_path", "_values", "ok")

    def __init__(
        self, document: Document, path: Path, known: Sequence[str], diagnostics: list[Diagnostic], what: str
    ) -> None:
        self._document = document
        self._path = path
        self._diagnostics = diagnostics
        self._meant: set[str] = set()
        self.ok = True
        value = find(document.value, path)
        self._values: Mapping[str, Any] = {}
        if isinstance(value, dict):
            self._values = value
        else:
            reason = "is empty" if value is None and not path else f"must be an object, not {type_in_words(value)}"
            self.error((), f"{what} {reason}", rule=Rule.WRONG_TYPE, allowed=f"an object with {', '.join(known)}")
        for name in tuple(self._values):
            if name not in known:
                reason = f"{name!r} is not a key of {what}{did_you_mean(name, known)}"
                self.error((name,), reason, rule=Rule.UNKNOWN_KEY, key=True, allowed=", ".join(known))
                for meant in difflib.get_close_matches(name, known, n=1):
                    self._meant.add(meant)
                    if meant not in self._values:
                        # What it holds is checked in the same round.
                        document.mend_key(path, name, meant)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def error(self, within: Path, reason: str, **details: Any) -> None:
        """Report something about the value at `within` this object."""
        self.ok = False
        self._diagnostics.append(self._document.diagnostic((*self._path, *within), reason, **details))

    def raw(self, name: str) -> Any:
        """Return the value as it stands, None when absent."""
        return self._values.get(name)

    def text(self, name: str, *, required: bool = False, longest: int = 1024) -> str | None:
        """Return a non-empty text."""
        value = self._values.get(name)
        if value is None:
            if name in self._values:
                self._wrong_type(name, "text", value)
            elif required:
                self._missing(name)
            return None
        if not isinstance(value, str):
            self._wrong_type(name, "text", value, hint=_quote_hint(value))
        elif not value.strip():
            self.error((name,), "must not be empty")
        elif len(value) > longest:
            self.error((name,), "is too long", allowed=f"at most {longest} characters")
        else:
            return value
        return None

    def boolean(self, name: str, *, default: bool) -> bool:
        """Return a boolean."""
        value = self._values.get(name, default)
        if isinstance(value, bool):
            return value
        hint = ""
        if isinstance(value, str) and value.lower() in _YAML_1_1_BOOLEANS:
            meant = "true" if _YAML_1_1_BOOLEANS[value.lower()] else "false"
            hint = f" (YAML 1.2 reads {value} as text; write {meant})"
        self._wrong_type(name, "a boolean", value, hint=hint, allowed="true, false")
        return default

    def choice(self, name: str, allowed: Sequence[str], *, default: str | None = None) -> str | None:
        """Return one of the texts in `allowed`; required when there is no default."""
        if name not in self._values:
            if default is None:
                self._missing(name, allowed=", ".join(allowed))
            return default
        value = self._values[name]
        if isinstance(value, str) and value in allowed:
            return value
        meant = did_you_mean(value, allowed) if isinstance(value, str) else _quote_hint(value)
        self.error(
            (name,), f"is not one of the values allowed{meant}", value=_scalar(value), allowed=", ".join(allowed)
        )
        return default

    def duration(self, name: str, *, default: float, longest: float) -> float:
        """Return seconds, more than 0 and at most `longest`."""
        if name not in self._values:
            return default
        value = self._values[name]
        if not isinstance(value, str):
            missing_unit = isinstance(value, int | float) and not isinstance(value, bool)
            hint = f" (write {value}s or {value}ms)" if missing_unit else ""
            self._wrong_type(name, "a duration with its unit", value, hint=hint, allowed=DURATION_FORM)
            return default
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.error((name,), str(error), value=value, allowed=DURATION_FORM)
            return default
        if not 0 < seconds <= longest:
            self.error((name,), "is out of range", value=value, allowed=f"more than 0, at most {longest:g}s")
            return default
        return seconds

    def size(self, name: str, *, most: int) -> int | None:
        """Return bytes, at most `most`."""
        if name not in self._values:
            return None
        value = self._values[name]
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not isinstance(value, str) and not whole:
            self._wrong_type(name, "a size", value, allowed=SIZE_FORM)
            return None
        try:
            size = parse_size(str(value))
        except ValueError as error:
            self.error((name,), str(error), value=value, allowed=SIZE_FORM)
            return None
        if size > most:
            self.error((name,), "is too large", value=value, allowed=f"at most {format_size(most)}")
            return None
        return size

    def items(self, name: str, *, required: bool = True, most: int) -> list[Any]:
        """Return a list; absent gives an empty one."""
        value = self._values.get(name)
        if isinstance(value, list):
            if len(value) > most:
                self.error((name,), f"has {len(value)} entries", allowed=f"at most {most}")
                return []
            return value
        if name not in self._values:
            if required:
                self._missing(name)
        else:
            self._wrong_type(name, "a list", value, hint=" (write [] for an empty list)" if value is None else "")
        return []

    def _missing(self, name: str, *, allowed: str = "") -> None:
        # A misspelt key has been reported as such; saying that it is missing as well would be one mistake told twice.
        if name in self._meant:
            self.ok = False
            return
        self.error((), f"lacks the required key {name!r}", rule=Rule.MISSING_KEY, allowed=allowed)

    def _wrong_type(self, name: str, expected: str, value: Any, *, hint: str = "", allowed: str = "") -> None:
        shown = None if sounds_secret(name) else _scalar(value)
        reason = f"must be {expected}, not {type_in_words(value)}{hint}"
        self.error((name,), reason, value=shown, allowed=allowed, rule=Rule.WRONG_TYPE)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest of `known`, or nothing."""
    close = difflib.get_close_matches(name, [str(one) for one in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _scalar(value: Any) -> Any:
    return None if isinstance(value, dict | list) else value


def _quote_hint(value: Any) -> str:
    return " (YAML reads it so; quote it)" if isinstance(value, bool | int | float) else ""
