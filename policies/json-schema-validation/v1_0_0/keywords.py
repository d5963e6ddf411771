"""JSON Schema keywords in linear time: RE2 for regular expressions, uniqueness by hashing, exact multiples.

A separate module because it replaces parts of `jsonschema`, whose own are exponential or quadratic on hostile bodies.
The engine does the same for parameters (`worker/policies/schema_keywords.py`); a policy imports only the SDK of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
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


BodyValidator: Any = extend(  # type: ignore[no-untyped-call] # jsonschema's own gap
    Draft202012Validator,
    {
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
