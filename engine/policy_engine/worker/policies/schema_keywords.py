"""JSON Schema keywords and formats as this engine evaluates them: linear-time regular expressions, exact paths.

A separate module because they replace parts of `jsonschema`: its regular expressions are Python's (exponential
on hostile input), its uniqueness test is quadratic, and its errors for keys point at the object instead of the key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import re2
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

_MAX_PATTERN = 8192
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_EMAIL = rf"^{_ATOM}(\.{_ATOM})*@{_LABEL}(\.{_LABEL})*$"
# ISO 8601 durations as RFC 3339, Appendix A has them, and with a fraction of a second. jsonschema's own check imports
# `isoduration` with `arrow`, which costs every worker 0.2 s of its start for one regular expression.
_SECONDS = r"\d+([.,]\d+)?S"
_TIME = rf"T(\d+H(\d+M({_SECONDS})?)?|\d+M({_SECONDS})?|{_SECONDS})"
_DURATION = rf"^P(\d+W|(\d+D|\d+M(\d+D)?|\d+Y(\d+M(\d+D)?)?)({_TIME})?|{_TIME})$"
_REQUIRED_FORMATS = frozenset(
    {"uri", "uri-reference", "duration", "email", "ipv4", "ipv6", "regex"}
    | {"hostname", "date-time", "date", "time", "uuid"}
)


class PatternError(ValueError):
    """A text is not a regular expression that RE2 can run."""


@lru_cache(maxsize=4096)
def compile_pattern(text: str) -> Any:
    """Return `text` compiled by RE2 (linear time, https://github.com/google/re2/wiki/Syntax); raises PatternError."""
    if len(text) > _MAX_PATTERN:
        raise PatternError(f"it is longer than {_MAX_PATTERN} characters")
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        raise PatternError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not compile_pattern(pattern).search(instance):
        yield ValidationError("does not match")


def _properties(validator: Any, properties: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    for name, applied in properties.items():
        if name not in instance:
            continue
        if applied is False:
            # `descend` would report this at the object instead of at the key.
            yield ValidationError("forbidden", validator=None, validator_value=False, path=(name,))  # type: ignore[arg-type] # as jsonschema does itself
        else:
            yield from validator.descend(instance[name], applied, path=name, schema_path=name)


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    for text, applied in patterns.items():
        pattern = compile_pattern(text)
        for name, value in instance.items():
            if pattern.search(name):
                yield from validator.descend(value, applied, path=name, schema_path=text)


def _additional_properties(
    validator: Any, applied: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    known = schema.get("properties", {})
    patterns = [compile_pattern(text) for text in schema.get("patternProperties", ())]
    for name, value in instance.items():
        if name in known or any(pattern.search(name) for pattern in patterns):
            continue
        if applied is False:
            yield ValidationError("unknown", path=(name,), instance=name)
        else:
            yield from validator.descend(value, applied, path=name)


def _property_names(validator: Any, applied: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    for name in instance:
        for error in validator.descend(name, applied):
            yield ValidationError("name", path=(name,), context=[error])


def _required(validator: Any, names: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    for name in names:
        if name not in instance:
            yield ValidationError("missing", validator_value=name)


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not unique or not validator.is_type(instance, "array"):
        return
    seen: dict[str, int] = {}
    for index, item in enumerate(instance):
        text = json.dumps(_normal(item), sort_keys=True, separators=(",", ":"))
        first = seen.setdefault(text, index)
        if first != index:
            yield ValidationError("repeated", path=(index,), validator_value=first)


def _normal(value: Any) -> Any:
    """Return `value` with numbers that are equal in JSON Schema written alike (1.0 is 1)."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _normal(item) for name, item in value.items()}
    return [_normal(item) for item in value] if isinstance(value, list) else value


def _link(validator: Any, target: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    yield from validator.descend(instance, target)


LINK = "\0link"
"""A keyword of our own, which no YAML can write: holds the very schema that a `$ref` led to."""

UNEVALUATED = frozenset({"unevaluatedProperties", "unevaluatedItems"})

SchemaValidator: Any = extend(  # type: ignore[no-untyped-call] # jsonschema's own gap
    Draft202012Validator,
    {
        LINK: _link,
        "properties": _properties,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "propertyNames": _property_names,
        "required": _required,
        "uniqueItems": _unique_items,
    },
)
"""`jsonschema`'s draft 2020-12 validator with the keywords above in the place of its own."""


def _formats() -> FormatChecker:
    checker = FormatChecker(formats=())
    checker.checkers = dict(Draft202012Validator.FORMAT_CHECKER.checkers)

    def is_regex(value: object) -> bool:
        return not isinstance(value, str) or bool(compile_pattern(value))

    def is_email(value: object) -> bool:
        return not isinstance(value, str) or bool(compile_pattern(_EMAIL).search(value))

    def is_duration(value: object) -> bool:
        return not isinstance(value, str) or bool(compile_pattern(_DURATION).search(value))

    checker.checks("duration")(is_duration)
    checker.checks("regex", raises=PatternError)(is_regex)
    checker.checks("email")(is_email)
    missing = _REQUIRED_FORMATS - checker.checkers.keys()
    if missing:
        raise ImportError(
            f"formats {sorted(missing)} cannot be checked: install rfc3986-validator, rfc3339-validator and fqdn"
        )
    return checker


FORMATS = _formats()
"""Formats that are checked, not merely annotated; `regex` is RE2's, `email` an address a mail server would take."""
