"""Schema errors in words that an operator can act on: where, what is wrong, what is allowed.

A separate module because `jsonschema`'s own messages repeat the offending value, which may be a secret (R-24), and
name whole objects where one key is at fault.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema.exceptions import ValidationError

from policy_engine.documents.json_types import type_in_words
from policy_engine.documents.redaction import sounds_secret
from policy_engine.sdk.json_pointer import Path, format_pointer


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with parameters or with a schema.

    `path` leads from the root to the place, `at_key` says that the key itself is at fault and not its value. `value`
    is the offending scalar, None where there is none to show or where it must not be shown. `detail` adds to the
    reason and may repeat parts of the value: it goes where the value may go.
    """

    path: Path
    reason: str
    allowed: str = ""
    value: object = None
    at_key: bool = False
    detail: str = ""

    @property
    def pointer(self) -> str:
        """The path as a JSON Pointer (RFC 6901)."""
        return format_pointer(self.path)


def violations_of(errors: Iterable[ValidationError]) -> tuple[Violation, ...]:
    """Return what `errors` say, ordered by place, none twice."""
    found = [violation for error in errors for violation in _translate(error)]
    found.sort(key=lambda one: [(isinstance(token, str), str(token).rjust(9)) for token in one.path])
    return tuple(dict.fromkeys(found))


_TYPES = {
    "null": "null",
    "boolean": "a boolean (true or false)",
    "integer": "an integer",
    "number": "a number",
    "string": "text",
    "object": "an object",
    "array": "a list",
}

_FORMATS = {
    "uri": "an absolute URI (RFC 3986), such as https://example.com/keys",
    "uri-reference": "a URI or relative reference (RFC 3986)",
    "duration": "an ISO 8601 duration, such as PT30S or PT5M",
    "email": "an e-mail address",
    "ipv4": "an IPv4 address",
    "ipv6": "an IPv6 address",
    "regex": "a regular expression that RE2 can run",
    "hostname": "a host name (RFC 1123)",
    "date-time": "a date and time (RFC 3339), such as 2026-01-31T10:00:00Z",
    "date": "a date (RFC 3339), such as 2026-01-31",
    "time": "a time (RFC 3339), such as 10:00:00Z",
    "uuid": "a UUID (RFC 4122)",
}

Sentence = tuple[str, str]

_BOUNDS: dict[str, Callable[[Any], Sentence]] = {
    "minimum": lambda bound: ("is too small", f"at least {bound}"),
    "maximum": lambda bound: ("is too large", f"at most {bound}"),
    "exclusiveMinimum": lambda bound: ("is too small", f"more than {bound}"),
    "exclusiveMaximum": lambda bound: ("is too large", f"less than {bound}"),
    "multipleOf": lambda bound: ("is not a multiple", f"a multiple of {bound}"),
    "minLength": lambda bound: ("is too short", f"at least {bound} characters"),
    "maxLength": lambda bound: ("is too long", f"at most {bound} characters"),
    "minItems": lambda bound: ("has too few items", f"at least {bound}"),
    "maxItems": lambda bound: ("has too many items", f"at most {bound}"),
    "minProperties": lambda bound: ("has too few entries", f"at least {bound}"),
    "maxProperties": lambda bound: ("has too many entries", f"at most {bound}"),
    "contains": lambda _: ("has no item of the kind it must contain", ""),
    "minContains": lambda bound: ("has too few items of the kind it must contain", f"at least {bound}"),
    "maxContains": lambda bound: ("has too many items of a kind", f"at most {bound}"),
    "not": lambda _: ("is of a kind that is excluded", ""),
    "pattern": lambda pattern: ("does not have the right form", f"text that matches {pattern}"),
    "format": lambda name: (f"is not of format {name}", _FORMATS.get(name, f"a {name}")),
    "const": lambda value: ("is not the one value allowed", _literal(value)),
    "unevaluatedItems": lambda _: ("has items that are not allowed", ""),
    "unevaluatedProperties": lambda _: ("has entries that are not allowed", ""),
}


def _translate(error: ValidationError) -> Iterator[Violation]:
    path: Path = tuple(error.absolute_path)
    keyword: Any = error.validator
    wanted: Any = error.validator_value
    if keyword == "required":
        yield Violation(path, f"lacks the required {wanted!r}")
    elif keyword == "dependentRequired":
        yield from _dependents(path, error)
    elif keyword in ("additionalProperties", "unevaluatedProperties") and error.message == "unknown":
        yield _unknown_key(path, error)
    elif keyword == "propertyNames":
        inner = next(_translate(error.context[0]))
        yield Violation(path, f"the name {inner.reason}", inner.allowed, path[-1], at_key=True)
    elif keyword in ("anyOf", "oneOf"):
        yield from _alternatives(path, error)
    elif keyword == "uniqueItems":
        yield Violation(path, f"is the same as item {wanted}; items must differ", value=_shown(path, error))
    else:
        reason, allowed = _sentence(keyword, wanted, error)
        value = _shown(path, error)
        detail = str(error.cause) if value is not None and keyword == "format" and wanted == "regex" else ""
        yield Violation(path, reason, allowed, value, detail=detail)


def _sentence(keyword: str | None, wanted: Any, error: ValidationError) -> Sentence:
    if keyword == "type":
        kinds = [wanted] if isinstance(wanted, str) else wanted
        expected = " or ".join(_TYPES.get(kind, kind) for kind in kinds)
        return f"must be {expected}, not {type_in_words(error.instance)}", ""
    if keyword == "enum":
        text = error.instance if isinstance(error.instance, str) else ""
        return f"is not one of the values allowed{_meant(text, [str(one) for one in wanted])}", _listing(wanted)
    if keyword is None:
        return "is not allowed here", ""
    if keyword in _BOUNDS:
        return _BOUNDS[keyword](wanted)
    return f"breaks the schema's {keyword}", ""


def _dependents(path: Path, error: ValidationError) -> Iterator[Violation]:
    instance: Any = error.instance
    dependents: Any = error.validator_value
    for name, others in dependents.items():
        for other in others if name in instance else ():
            if other not in instance:
                yield Violation(path, f"lacks {other!r}, which is required together with {name!r}")


def _unknown_key(path: Path, error: ValidationError) -> Violation:
    known = list(error.schema.get("properties", {})) if isinstance(error.schema, Mapping) else []
    name = str(path[-1])
    return Violation(path, f"is not a known parameter{_meant(name, known)}", _listing(known, bare=True), at_key=True)


def _alternatives(path: Path, error: ValidationError) -> Iterator[Violation]:
    if not error.context:
        yield Violation(path, "fits more than one of the alternatives, and may fit only one", value=_shown(path, error))
        return
    branches: dict[object, list[ValidationError]] = {}
    for inner in error.context:
        branches.setdefault(inner.schema_path[0], []).append(inner)
    # The branch that was meant is one of the right type and, where objects carry a constant that tells them apart,
    # with the right constant; among those the one with the least wrong.
    meant = min(branches.values(), key=lambda inner: (sum(map(_tells_apart, inner)), len(inner)))
    if len(branches) == 1 or not any(map(_tells_apart, meant)):
        for inner in meant:
            yield from _translate(inner)
        return
    choices: dict[str, None] = {}
    for branch in branches.values():
        for violation in _translate(branch[0]):
            within = format_pointer(violation.path[len(path) :])
            said = violation.reason if not violation.allowed else f"{violation.reason} ({violation.allowed})"
            choices[f"{within} {said}".strip()] = None
    yield Violation(path, "fits none of the alternatives: " + "; or ".join(choices), value=_shown(path, error))


def _tells_apart(error: ValidationError) -> bool:
    depth = len(error.relative_path)
    return (error.validator == "type" and depth == 0) or (error.validator in ("const", "enum") and depth <= 1)


def _shown(path: Path, error: ValidationError) -> object:
    """Return the scalar at fault, or None when it is none, is marked `writeOnly`, or its name speaks of a secret."""
    value = error.instance
    if isinstance(value, Mapping | list | tuple):
        return None
    part: ValidationError | None = error
    while part is not None:
        if isinstance(part.schema, Mapping) and part.schema.get("writeOnly") is True:
            return None
        part = part.parent  # type: ignore[assignment] # the parent of a validation error is one, whatever its base says
    name = next((token for token in reversed(path) if isinstance(token, str)), "")
    return None if sounds_secret(name) else value


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


def _listing(values: Iterable[object], *, bare: bool = False) -> str:
    texts = [_literal(value) for value in values]
    shown = ", ".join(texts[:20])
    rest = f", … ({len(texts)} in all)" if len(texts) > 20 else ""
    return shown + rest if texts or not bare else "none"


def _meant(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1) if name else []
    return f"; did you mean {close[0]!r}?" if close else ""
