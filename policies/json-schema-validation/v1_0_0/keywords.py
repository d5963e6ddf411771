"""JSON Schema keywords in linear time: RE2 for regular expressions, uniqueness by hashing, exact multiples, and
references that are followed once for each value.

A separate module because it replaces parts of `jsonschema`, whose own are exponential or quadratic on hostile bodies.
The engine does the same for parameters (`worker/policies/schema_keywords.py`); a policy imports only the SDK of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema._utils import find_evaluated_item_indexes_by_schema, find_evaluated_property_keys_by_schema
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from policy_engine.sdk.json_numbers import is_multiple_of
from policy_patterns import compile_pattern


@lru_cache(maxsize=4096)
def compiled(text: str) -> Any:
    """Return the pattern compiled; raises ParameterError."""
    return compile_pattern(text, "")


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not compiled(pattern).search(instance):
        yield ValidationError("does not match")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    for text, applied in patterns.items():
        pattern = compiled(text)
        for name, value in instance.items():
            if pattern.search(name):
                yield from validator.descend(value, applied, path=name, schema_path=text)


def _additional_properties(
    validator: Any, applied: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    known = schema.get("properties", {})
    patterns = [compiled(text) for text in schema.get("patternProperties", ())]
    for name, value in instance.items():
        if name in known or any(pattern.search(name) for pattern in patterns):
            continue
        if applied is False:
            yield ValidationError("unknown", path=(name,), instance=value)
        else:
            yield from validator.descend(value, applied, path=name)


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not unique or not isinstance(instance, list):
        return
    seen: set[str] = set()
    for index, item in enumerate(instance):
        text = json.dumps(_normal(item), sort_keys=True, separators=(",", ":"))
        if text in seen:
            yield ValidationError("repeated", path=(index,), instance=item)
        seen.add(text)


def _normal(value: Any) -> Any:
    """Return `value` with numbers that are equal in JSON Schema written alike (1.0 is 1)."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _normal(item) for name, item in value.items()}
    return [_normal(item) for item in value] if isinstance(value, list) else value


def _unevaluated_items(validator: Any, applied: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, list):
        return
    # jsonschema finds them as a list, and looks each index up in it.
    evaluated = set(find_evaluated_item_indexes_by_schema(validator, instance, schema))
    if any(index not in evaluated for index in range(len(instance))):
        yield ValidationError("unevaluated")


def _unevaluated_properties(validator: Any, applied: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    evaluated = set(find_evaluated_property_keys_by_schema(validator, instance, schema))
    left = (name for name in instance if name not in evaluated)
    if any(next(validator.descend(instance[name], applied), None) is not None for name in left):
        yield ValidationError("unevaluated")


def _multiple_of(validator: Any, divisor: float, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "number") and not is_multiple_of(instance, divisor):
        yield ValidationError("is not a multiple")


@dataclass(frozen=True, slots=True)
class _Found:
    """What a reference had against a value: the first error, enough to tell it again."""

    message: str
    path: tuple[str | int, ...]
    validator: Any
    validator_value: Any
    instance: Any


_following: ContextVar[dict[tuple[str, int], _Found | None] | None] = ContextVar("following", default=None)


@contextmanager
def following_once() -> Iterator[None]:
    """Remember what references find while one value is checked.

    A schema that comes back to itself in two ways (`anyOf`, `allOf`) would otherwise check what lies below a value
    twice at each level: a body of a hundred bytes would take minutes. All repetition in a schema is by references, and
    where they lead depends on their text alone, as a schema here is one document.
    """
    token = _following.set({})
    try:
        yield
    finally:
        _following.reset(token)


def _reference(validator: Any, reference: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    known = _following.get()
    key = (reference, id(instance))  # of a value that lives as long as the check
    if known is None or key not in known:
        valid = True
        for error in validator._validate_reference(ref=reference, instance=instance):
            if valid and known is not None:
                path = tuple(error.relative_path)
                known[key] = _Found(error.message, path, error.validator, error.validator_value, error.instance)
            valid = False
            yield error
        if valid and known is not None:
            known[key] = None
    elif (found := known[key]) is not None:
        yield ValidationError(
            found.message,
            path=found.path,
            validator=found.validator,
            validator_value=found.validator_value,
            instance=found.instance,
            schema={},
        )


def _any_of(validator: Any, alternatives: Sequence[Any], instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not any(_fits(validator, one, instance) for one in alternatives):
        yield ValidationError("fits none")


def _one_of(validator: Any, alternatives: Sequence[Any], instance: Any, schema: Any) -> Iterator[ValidationError]:
    fitting = islice((one for one in alternatives if _fits(validator, one, instance)), 2)
    if len(list(fitting)) != 1:
        yield ValidationError("does not fit one")


def _fits(validator: Any, schema: Any, instance: Any) -> bool:
    return next(validator.descend(instance, schema), None) is None


BodyValidator: Any = extend(  # type: ignore[no-untyped-call] # jsonschema's own gap
    Draft202012Validator,
    {
        "$ref": _reference,
        "$dynamicRef": _reference,
        "anyOf": _any_of,
        "oneOf": _one_of,
        "multipleOf": _multiple_of,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
        "unevaluatedItems": _unevaluated_items,
        "unevaluatedProperties": _unevaluated_properties,
    },
)
"""`jsonschema`'s draft 2020-12 validator with the keywords above in the place of its own."""
