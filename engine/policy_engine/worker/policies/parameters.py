"""Parameters of a policy checked against its JSON Schema (2020-12): every violation, and the defaults filled in (R-23).

A separate module because parameters come from outside: everything that bounds them (sizes, depth, linear-time
regular expressions, no remote schemas) is here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema_specifications import REGISTRY as METASCHEMAS  # type: ignore[import-untyped] # ships no types
from referencing import Registry as SchemaRegistry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from policy_engine.documents.json_types import type_in_words
from policy_engine.sdk import ParameterError
from policy_engine.sdk.json_pointer import Path, find, format_pointer
from policy_engine.sdk.json_schema_words import why_no_keyword
from policy_engine.worker.policies.json_data import MAX_INTEGER, bounded_copy
from policy_engine.worker.policies.schema_keywords import (
    FORMATS,
    LINK,
    UNEVALUATED,
    PatternError,
    SchemaValidator,
    compile_pattern,
)
from policy_engine.worker.policies.violations import Violation, violations_of

_MAX_DEFAULT_DEPTH = 16
_REMEMBERED = 10_000
_REMEMBERED_LENGTH = 4096  # characters of JSON: larger parameters are few, and would fill memory
_ROOT = "urn:policy-engine:parameters"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "dependentSchemas")
_LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMAS = (
    "items",
    "additionalProperties",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
)


class SchemaError(ValueError):
    """A parameter schema is not one this engine can use; `violations` lists every reason, with its path in it."""

    def __init__(self, violations: tuple[Violation, ...]) -> None:
        self.violations = violations
        super().__init__("; ".join(f"{violation.pointer or '/'}: {violation.reason}" for violation in violations))


class ParametersInvalid(ParameterError):
    """Parameters that a policy's schema does not allow; `violations` lists every one, `path` leads to the first."""

    def __init__(self, policy: str, violations: tuple[Violation, ...]) -> None:
        self.violations = violations
        reasons = [
            f"{one.pointer or '/'} {one.reason}{f' (allowed: {one.allowed})' if one.allowed else ''}"
            for one in violations
        ]
        super().__init__(f"parameters of {policy}: {'; '.join(reasons)}", violations[0].pointer)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found: `parameters` are a copy with defaults filled in, to be used only without violations.

    `secrets` are the JSON Pointers of values whose schema says `writeOnly: true`: they must never be shown.
    """

    parameters: dict[str, Any]
    violations: tuple[Violation, ...]
    secrets: frozenset[str]


@dataclass(slots=True)
class _Notes:
    """What one walk over parameters gathers."""

    secrets: set[str] = field(default_factory=set)
    whole: list[Path] = field(default_factory=list)
    depth: int = 0

    @contextmanager
    def inside_default(self) -> Iterator[None]:
        """Count how many defaults deep the walk is; raises RecursionError when there is no end to them."""
        if self.depth == _MAX_DEFAULT_DEPTH:
            raise RecursionError
        self.depth += 1
        yield
        self.depth -= 1


class ParameterSchema:
    """A compiled parameter schema; make one per policy definition and keep it.

    Standard JSON Schema 2020-12 with these limits: regular expressions are RE2's (no look-around, no back-references),
    references stay inside the schema or lead to the draft's own metaschemas, and `unevaluatedProperties` cannot be
    combined with `patternProperties`. Defaults are filled into objects and array items that are present, through
    local `$ref`, `allOf`, a holding `if`, and the first alternative of `anyOf` or `oneOf` that holds; an absent object
    is created only when it has a `default` itself. Raises SchemaError.
    """

    __slots__ = ("_known", "_resolver", "_schema", "_validator")

    def __init__(self, schema: Mapping[str, Any]) -> None:
        copied, violations = bounded_copy(schema)
        if violations:
            raise SchemaError(violations)
        violations = _metaschema_violations(copied)
        if violations:
            raise SchemaError(violations)
        registry: SchemaRegistry[Any] = METASCHEMAS.with_resource(_ROOT, DRAFT202012.create_resource(copied))
        self._schema = copied
        self._resolver = registry.resolver(_ROOT)
        self._validator = SchemaValidator(copied, registry=registry, format_checker=FORMATS)
        violations = tuple(self._content_violations())
        if violations:
            raise SchemaError(violations)
        try:
            self._validator.is_valid({})
        except RecursionError:
            raise SchemaError((Violation((), "its references go round in a circle"),)) from None
        for _, part in subschemas(self._schema, ()):
            # A validator that meets `$schema` turns into jsonschema's own of that dialect, without our keywords.
            part.pop("$schema", None)
        self._link_references()
        self._known: dict[str, Checked] = {}

    def check(self, parameters: object) -> Checked:
        """Return every violation of `parameters`, and a copy of them with defaults filled in."""
        copied, violations = bounded_copy(parameters)
        if violations:
            return Checked({}, violations, frozenset())
        text = json.dumps(copied)
        if len(text) > _REMEMBERED_LENGTH:
            return self._check(copied)
        known = self._known.get(text)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                del self._known[next(iter(self._known))]
            known = self._known[text] = self._check(copied)
        # A copy, because a policy may change the parameters it is given.
        return replace(known, parameters=bounded_copy(known.parameters)[0])

    def _check(self, copied: Any) -> Checked:
        notes = _Notes()
        try:
            self._annotate(copied, (), self._schema, notes)
            found = violations_of(self._validator.iter_errors(copied))
            found = (*found, *_make_integers(copied, notes.whole))
        except RecursionError:
            found = (Violation((), "is nested too deeply for the schema's own recursion"),)
        if not isinstance(copied, dict):
            found = found or (Violation((), f"must be an object, not {type_in_words(copied)}"),)
            copied = {}
        return Checked(copied, found, frozenset(notes.secrets))

    def _link_references(self) -> None:
        """Put the schemas themselves in the place of local references to them.

        `jsonschema` resolves a reference again for every value, which took half the time of a check. It needs them as
        they are for the `unevaluated…` keywords, so schemas with those stay unlinked.
        """
        parts = [schema for _, schema in subschemas(self._schema, ())]
        if any(not UNEVALUATED.isdisjoint(schema) for schema in parts):
            return
        for schema in parts:
            reference = schema.get("$ref", "")
            if reference.startswith("#"):
                schema[LINK] = self._resolver.lookup(reference).contents
                del schema["$ref"]
        self._validator = self._validator.evolve(schema=self._schema)

    def __repr__(self) -> str:
        return f"ParameterSchema({', '.join(self._schema.get('properties', {}))})"

    def _content_violations(self) -> Iterator[Violation]:
        """Check what the metaschema cannot: dialect, references, regular expressions, defaults."""
        dialect = self._schema.get("$schema", DIALECT)
        if str(dialect).rstrip("#") != DIALECT:
            yield Violation(("$schema",), "is not the supported dialect", allowed=DIALECT, value=dialect)
        if self._schema.get("type", "object") != "object":
            yield Violation(("type",), "parameters are an object", allowed="object", value=self._schema["type"])
        parts = list(subschemas(self._schema, ()))
        known = {id(schema) for _, schema in parts}
        keywords: dict[str, Path] = {}
        broken = False
        for path, schema in parts:
            for keyword in schema:
                keywords.setdefault(keyword, (*path, keyword))
                reason = why_no_keyword(keyword)
                if reason is not None:
                    yield Violation((*path, keyword), reason, at_key=True)
            if schema.get("format", "regex") not in FORMATS.checkers:
                allowed = ", ".join(sorted(FORMATS.checkers))
                yield Violation((*path, "format"), "is not a format that is checked", allowed, schema["format"])
            yield from _pattern_violations(path, schema)
            for keyword in ("$ref", "$dynamicRef"):
                if keyword in schema and not self._resolves(schema[keyword], known):
                    broken = True
                    reason = "leads to no schema; references are local (#/$defs/…) or to the draft's metaschemas"
                    yield Violation((*path, keyword), reason, value=schema[keyword])
        if "$id" in keywords:
            broken = True
            yield Violation(keywords["$id"], "is not supported; references are local (#/$defs/…)")
        if "unevaluatedProperties" in keywords and "patternProperties" in keywords:
            reason = "cannot be combined with patternProperties; use additionalProperties"
            yield Violation(keywords["unevaluatedProperties"], reason)
        if not broken:
            yield from self._default_violations()

    def _resolves(self, reference: str, known: set[int]) -> bool:
        try:
            target = self._resolver.lookup(reference).contents
        except Unresolvable:
            return False
        # A local target outside the places where schemas live would escape the checks of this class.
        return not reference.startswith("#") or isinstance(target, bool) or id(target) in known

    def _default_violations(self) -> Iterator[Violation]:
        for path, schema in subschemas(self._schema, ()):
            if "default" not in schema:
                continue
            value, violations = bounded_copy(schema["default"])
            try:
                if not violations:
                    self._annotate(value, (), schema, _Notes())
                    violations = violations_of(self._validator.evolve(schema=schema).iter_errors(value))
            except RecursionError:
                violations = (Violation((), "fills itself in without end"),)
            for violation in violations:
                reason = f"the default breaks its own schema: {violation.reason}"
                yield Violation((*path, "default", *violation.path), reason, violation.allowed, violation.value)

    def _annotate(self, value: Any, path: Path, schema: Any, notes: _Notes, seen: frozenset[int] = frozenset()) -> None:
        """Fill defaults into `value` in place, and note the `writeOnly` parts of it and the integers that are no `int`.

        `seen` holds the schemas already applied to this very value: references may go round in circles. Raises
        RecursionError when one default brings in the next without end.
        """
        if not isinstance(schema, Mapping) or id(schema) in seen:
            return
        seen = seen | {id(schema)}
        if schema.get("writeOnly") is True:
            notes.secrets.add(format_pointer(path))
        if isinstance(value, float) and value.is_integer() and _says_integer(schema, value):
            notes.whole.append(path)
        for applied in self._in_place(value, schema):
            self._annotate(value, path, applied, notes, seen)
        if isinstance(value, dict):
            self._annotate_object(value, path, schema, notes)
        elif isinstance(value, list):
            prefix = schema.get("prefixItems", ())
            for index, item in enumerate(value):
                applied = prefix[index] if index < len(prefix) else schema.get("items")
                self._annotate(item, (*path, index), applied, notes)

    def _annotate_object(self, value: dict[str, Any], path: Path, schema: Mapping[str, Any], notes: _Notes) -> None:
        properties = schema.get("properties", {})
        for name, applied in properties.items():
            if name in value:
                self._annotate(value[name], (*path, name), applied, notes)
            elif isinstance(applied, Mapping) and "default" in applied:
                value[name] = bounded_copy(applied["default"])[0]
                with notes.inside_default():
                    self._annotate(value[name], (*path, name), applied, notes)
        patterns = [(compile_pattern(text), applied) for text, applied in schema.get("patternProperties", {}).items()]
        others = schema.get("additionalProperties")
        if not patterns and not isinstance(others, Mapping):
            return
        for name, item in value.items():
            matching = [applied for pattern, applied in patterns if pattern.search(name)]
            if not matching and name not in properties:
                matching = [others]
            for applied in matching:
                self._annotate(item, (*path, name), applied, notes)

    def _in_place(self, value: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
        """Yield the schemas that apply to the same value as `schema` does, by reference or combination."""
        # Only local references: the draft's own metaschemas carry defaults that would pollute a schema given as value.
        if LINK in schema:
            yield schema[LINK]
        elif str(schema.get("$ref", "")).startswith("#"):
            yield self._resolver.lookup(schema["$ref"]).contents
        yield from schema.get("allOf", ())
        for keyword in ("anyOf", "oneOf"):
            for applied in schema.get(keyword, ()):
                if self._validator.evolve(schema=applied).is_valid(value):
                    yield applied
                    break
        if "if" in schema:
            holds = self._validator.evolve(schema=schema["if"]).is_valid(value)
            yield schema.get("then" if holds else "else")
        if isinstance(value, dict):
            for name, applied in schema.get("dependentSchemas", {}).items():
                if name in value:
                    yield applied


def _says_integer(schema: Mapping[str, Any], value: float) -> bool:
    """Return whether `value`, which has no fraction, is an integer to whoever wrote the schema."""
    kinds = schema.get("type", ())
    if "integer" in ((kinds,) if isinstance(kinds, str) else kinds) and "number" not in kinds:
        return True
    named = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())]
    return any(type(one) is int and one == value for one in named)


def _make_integers(parameters: Any, paths: Sequence[Path]) -> Iterator[Violation]:
    """Let 10.0 and 1e1, which are integers in JSON Schema, be what a policy takes for one; yield those too large."""
    for path in dict.fromkeys(paths):
        value = find(parameters, path)
        if abs(value) > MAX_INTEGER:
            yield Violation(path, "is too large a number", f"at most {MAX_INTEGER}")
        elif path:
            find(parameters, path[:-1])[path[-1]] = int(value)


def _metaschema_violations(schema: Any) -> tuple[Violation, ...]:
    if not isinstance(schema, dict):
        return (Violation((), f"a parameter schema is an object, not {type_in_words(schema)}"),)
    return violations_of(_metaschema().iter_errors(schema))


@lru_cache(maxsize=1)
def _metaschema() -> Any:
    return SchemaValidator(Draft202012Validator.META_SCHEMA, registry=METASCHEMAS)


def subschemas(schema: Any, path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield `schema` and every schema inside it, each with its path; `schema` satisfies the metaschema."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for keyword in _MAPS_OF_SCHEMAS:
        for name, part in schema.get(keyword, {}).items():
            yield from subschemas(part, (*path, keyword, name))
    for keyword in _LISTS_OF_SCHEMAS:
        for index, part in enumerate(schema.get(keyword, ())):
            yield from subschemas(part, (*path, keyword, index))
    for keyword in _SCHEMAS:
        yield from subschemas(schema.get(keyword), (*path, keyword))


def _pattern_violations(path: Path, schema: Mapping[str, Any]) -> Iterator[Violation]:
    patterns = [((*path, "pattern"), schema["pattern"])] if "pattern" in schema else []
    patterns += [((*path, "patternProperties", text), text) for text in schema.get("patternProperties", {})]
    for place, text in patterns:
        try:
            compile_pattern(text)
        except PatternError as error:
            yield Violation(place, f"is not a regular expression RE2 can run: {error}", value=text)
