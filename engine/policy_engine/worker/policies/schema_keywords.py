"""JSON Schema keywords and formats as this engine evaluates them: linear-time regular expressions, exact paths.

A separate module because they replace parts of `jsonschema`: its regular expressions are Python's (exponential
on hostile input), its uniqueness test is quadratic, and its errors for keys point at the object instead of the key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import re2
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from policy_engine.sdk.json_numbers import is_multiple_of
from policy_engine.sdk.text_formats import FORMATS as TEXT_FORMATS

_MAX_PATTERN = 8192


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


def _multiple_of(validator: Any, divisor: float, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "number") and not is_multiple_of(instance, divisor):
        yield ValidationError("is not a multiple")


_following: ContextVar[dict[tuple[object, ...], ValidationError | None] | None] = ContextVar("following", default=None)


@contextmanager
def following_once() -> Iterator[None]:
    """Remember what references find while one value is checked, which must not change meanwhile.

    A schema that comes back to itself in two ways (`anyOf`, `allOf`) would otherwise check what lies below a value
    twice at each level: parameters of a hundred bytes would take hours.
    """
    token = _following.set({})
    try:
        yield
    finally:
        _following.reset(token)


def _once(key: tuple[object, ...], errors: Callable[[], Iterator[ValidationError]]) -> Iterator[ValidationError]:
    """Yield the errors of a reference, and only the first of them, without its context, where they are known."""
    known = _following.get()
    if known is None or key not in known:
        first: ValidationError | None = None
        for error in errors():
            first = first or error
            yield error
            if known is not None:
                known.setdefault(key, _again(first))
        if known is not None:
            known.setdefault(key, None)
    elif (found := known[key]) is not None:
        yield _again(found)


def _again(error: ValidationError) -> ValidationError:
    """Return the error as one that nobody has put into another yet."""
    return ValidationError(
        error.message,
        validator=error.validator,
        path=error.relative_path,
        validator_value=error.validator_value,
        instance=error.instance,
        schema={},
    )


def _link(validator: Any, target: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    # By identity: what is checked, and its schema, live as long as the check.
    yield from _once((id(target), id(instance)), lambda: validator.descend(instance, target))


def _reference(validator: Any, reference: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    # A reference is one of the document that it stands in: the draft's own metaschemas have such too.
    key = validator._resolver._base_uri, reference, id(instance)
    yield from _once(key, lambda: validator._validate_reference(ref=reference, instance=instance))


LINK = "\0link"
"""A keyword of our own, which no YAML can write: holds the very schema that a `$ref` led to."""

UNEVALUATED = frozenset({"unevaluatedProperties", "unevaluatedItems"})

SchemaValidator: Any = extend(  # type: ignore[no-untyped-call] # jsonschema's own gap
    Draft202012Validator,
    {
        LINK: _link,
        "$ref": _reference,
        "multipleOf": _multiple_of,
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
    def is_regex(value: object) -> bool:
        return not isinstance(value, str) or bool(compile_pattern(value))

    checker = FormatChecker(formats=())
    checker.checkers = {name: (_of_text(check), ()) for name, check in TEXT_FORMATS.items()}
    checker.checks("regex", raises=PatternError)(is_regex)
    return checker


def _of_text(check: Callable[[str], bool]) -> Callable[[object], bool]:
    return lambda value: not isinstance(value, str) or check(value)


FORMATS = _formats()
"""Formats that are checked, not merely annotated; `regex` is RE2's."""
