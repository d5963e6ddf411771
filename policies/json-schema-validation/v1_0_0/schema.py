"""A schema of the parameters, checked once and made ready, and what a body has against it.

A separate module because the policy knows messages and this knows only JSON values.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from policy_engine.sdk import ParameterError, format_pointer
from policy_engine.sdk.json_schema_words import why_no_keyword
from policy_engine.sdk.text_formats import FORMATS

from .keywords import BodyValidator, compiled, following_once

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ROOT = "urn:json-schema-validation:body"
_MAPS = ("properties", "patternProperties", "$defs", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = (
    *("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
_log = logging.getLogger("policy.json-schema-validation")
_LONGEST_VALUE = 100  # characters of a value that is shown
_LONGEST_POINTER = 500

_Said = Callable[[Any], str]
_SENTENCES: Mapping[str, _Said] = {
    "type": lambda kinds: f"must be of type {kinds if isinstance(kinds, str) else ' or '.join(kinds)}",
    "enum": lambda _: "is not one of the allowed values",
    "const": lambda _: "is not the allowed value",
    "minimum": lambda bound: f"must be at least {bound}",
    "maximum": lambda bound: f"must be at most {bound}",
    "exclusiveMinimum": lambda bound: f"must be more than {bound}",
    "exclusiveMaximum": lambda bound: f"must be less than {bound}",
    "multipleOf": lambda bound: f"must be a multiple of {bound}",
    "minLength": lambda bound: f"must have at least {bound} characters",
    "maxLength": lambda bound: f"must have at most {bound} characters",
    "minItems": lambda bound: f"must have at least {bound} items",
    "maxItems": lambda bound: f"must have at most {bound} items",
    "minProperties": lambda bound: f"must have at least {bound} members",
    "maxProperties": lambda bound: f"must have at most {bound} members",
    "pattern": lambda text: f"must match {text}",
    "format": lambda name: f"must be a valid {name}",
    "uniqueItems": lambda _: "is a repeated item",
    "required": lambda _: "lacks a required member",
    "additionalProperties": lambda _: "is not an expected member",
    "unevaluatedProperties": lambda _: "has members that are not expected",
    "unevaluatedItems": lambda _: "has items that are not expected",
    "propertyNames": lambda _: "has a member with a name that is not allowed",
    "anyOf": lambda _: "fits none of the alternatives",
    "oneOf": lambda _: "does not fit exactly one of the alternatives",
    "contains": lambda _: "lacks an item of the required kind",
    "dependentRequired": lambda _: "lacks a member that another one requires",
    "not": lambda _: "is of a kind that is excluded",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """Where (JSON Pointer) and what; `value` is the scalar at fault as text, cut short, None when there is none."""

    pointer: str
    detail: str
    value: str | None


class BodySchema:
    """A schema ready to use.

    JSON Schema 2020-12 with these limits: RE2's expressions, references inside the schema only, no `$id` below the
    root, `unevaluatedProperties` not together with `patternProperties`. Raises ParameterError below `where`.
    """

    def __init__(self, schema: Any, where: str, *, formats: bool) -> None:
        self._schema = _plain(schema)
        self._where = where
        self._check_metaschema()
        parts = list(_subschemas(self._schema, ()))
        for path, part in parts:
            self._check_keywords(path, part, formats=formats)
        if isinstance(self._schema, dict):
            self._schema.pop("$id", None)
        registry: Registry[Any] = Registry().with_resource(_ROOT, DRAFT202012.create_resource(self._schema))
        self._check_references(registry, parts)
        for _, part in parts:
            part.pop("$schema", None)  # else jsonschema changes to its own validator of that dialect
        self._validator = BodyValidator(self._schema, registry=registry, format_checker=_CHECKER if formats else None)
        try:
            self._validator.is_valid({})
        except RecursionError:
            raise ParameterError("the schema's references go round in a circle", where) from None

    def violations(self, value: Any, most: int) -> list[Violation]:
        """Return what is wrong with `value`, at most so many."""
        try:
            with following_once():
                return list(islice((_violation(error) for error in self._validator.iter_errors(value)), most))
        except RecursionError:
            return [Violation("", "is nested too deeply", None)]
        except Exception as error:
            # Whatever a body does to the validator, it has not been found to fit: a decision, not a failure, which
            # failure_mode: open would let pass.
            _log.warning("a body could not be checked: %s", type(error).__name__)
            return [Violation("", "cannot be checked", None)]

    def _refuse(self, reason: str, path: tuple[str | int, ...]) -> ParameterError:
        return ParameterError(reason, self._where + format_pointer(path))

    def _check_metaschema(self) -> None:
        wrong = best_match(Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(self._schema))
        if wrong is not None:
            raise self._refuse(f"not a JSON Schema: {wrong.message:.300}", tuple(wrong.absolute_path))

    def _check_keywords(self, path: tuple[str | int, ...], part: dict[str, Any], *, formats: bool) -> None:
        dialect = str(part.get("$schema", _DIALECT)).rstrip("#")
        if dialect != _DIALECT:
            raise self._refuse(f"the dialect is {_DIALECT}", (*path, "$schema"))
        if path and "$id" in part:
            raise self._refuse("$id is possible only at the root; references are local (#/$defs/…)", (*path, "$id"))
        if "unevaluatedProperties" in part and any("patternProperties" in one for _, one in _subschemas(part, ())):
            reason = "cannot be combined with patternProperties; use additionalProperties"
            raise self._refuse(reason, (*path, "unevaluatedProperties"))
        for word in part:
            why = why_no_keyword(word)
            if why is not None:
                raise self._refuse(f"{word!r} {why}", (*path, word))
        name = part.get("format")
        if formats and name is not None and name not in FORMATS:
            known = ", ".join(sorted(FORMATS))
            raise self._refuse(
                f"this format cannot be checked; known: {known}; or set check_formats: false", (*path, "format")
            )
        texts = [part["pattern"]] if "pattern" in part else []
        for text in (*texts, *part.get("patternProperties", ())):
            try:
                compiled(text)
            except ParameterError as error:
                raise self._refuse(error.message, path) from None

    def _check_references(
        self, registry: Registry[Any], parts: list[tuple[tuple[str | int, ...], dict[str, Any]]]
    ) -> None:
        resolver = registry.resolver(_ROOT)
        known = {id(part) for _, part in parts}
        for path, part in parts:
            for keyword in ("$ref", "$dynamicRef"):
                if keyword not in part:
                    continue
                try:
                    target = resolver.lookup(part[keyword]).contents
                except Unresolvable:
                    target = None
                if not (isinstance(target, bool) or id(target) in known):
                    reason = "leads to no schema; references are local (#/$defs/…), nothing is fetched"
                    raise self._refuse(reason, (*path, keyword))


def _checker() -> FormatChecker:
    made = FormatChecker(formats=())
    made.checkers = {name: (_of_text(check), ()) for name, check in FORMATS.items()}
    return made


def _of_text(check: Callable[[str], bool]) -> Callable[[object], bool]:
    return lambda value: not isinstance(value, str) or check(value)


_CHECKER = _checker()


def _violation(error: ValidationError) -> Violation:
    wanted: Any = error.validator_value
    keyword = str(error.validator)
    path = list(error.absolute_path)
    said = _SENTENCES[keyword](wanted) if keyword in _SENTENCES else "is not allowed"
    if keyword == "required":
        missing = next((name for name in wanted if repr(name) in error.message), None)
        said = f"lacks the required member {missing!r}" if missing is not None else said
    value: Any = error.instance
    shown = None if isinstance(value, dict | list) else str(value)[:_LONGEST_VALUE]
    return Violation(format_pointer(path)[:_LONGEST_POINTER], said, shown)


def _plain(value: Any) -> Any:
    """Return a copy in dicts and lists, which is what JSON parsing would have given."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _subschemas(schema: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Yield `schema` and every schema inside it, each with its path."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for keyword in _MAPS:
        for name, part in schema.get(keyword, {}).items():
            yield from _subschemas(part, (*path, keyword, name))
    for keyword in _LISTS:
        for index, part in enumerate(schema.get(keyword, ())):
            yield from _subschemas(part, (*path, keyword, index))
    for keyword in _SINGLE:
        yield from _subschemas(schema.get(keyword), (*path, keyword))
