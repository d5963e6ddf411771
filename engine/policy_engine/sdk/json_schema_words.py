"""The keywords of JSON Schema 2020-12; any other word would be ignored in silence, and with it what it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

KEYWORDS: Final = frozenset(
    (
        *("$schema", "$id", "$ref", "$anchor", "$dynamicRef", "$dynamicAnchor", "$vocabulary", "$comment", "$defs"),
        *("prefixItems", "items", "contains", "additionalProperties", "properties", "patternProperties"),
        *("dependentSchemas", "propertyNames", "if", "then", "else", "allOf", "anyOf", "oneOf", "not"),
        *("unevaluatedItems", "unevaluatedProperties"),
        *("type", "const", "enum", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
        *("maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains"),
        *("maxProperties", "minProperties", "required", "dependentRequired"),
        *("title", "description", "default", "deprecated", "readOnly", "writeOnly", "examples"),
        *("format", "contentEncoding", "contentMediaType", "contentSchema"),
    )
)
"""Core, applicator, unevaluated, validation, meta-data, format and content vocabularies."""

_REPLACED: Final[Mapping[str, str]] = {
    "definitions": "$defs",
    "dependencies": "dependentRequired or dependentSchemas",
    "additionalItems": "prefixItems and items",
    "$recursiveRef": "$dynamicRef",
    "$recursiveAnchor": "$dynamicAnchor",
    "id": "$id",
    "divisibleBy": "multipleOf",
    "disallow": "not",
    "extends": "allOf",
    "nullable": 'type: [..., "null"]',
    "example": "examples",
}
"""Words of older drafts and of OpenAPI, and what says the same here."""


def why_no_keyword(word: str) -> str | None:
    """Return why a word in a schema is refused, None when it is a keyword or an annotation of one's own (`x-…`)."""
    if word in KEYWORDS or word.startswith("x-"):
        return None
    if word in _REPLACED:
        return f"is not a keyword of JSON Schema 2020-12; write {_REPLACED[word]}"
    near = get_close_matches(word[:64], KEYWORDS, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"is not a keyword of JSON Schema 2020-12{meant} (a note of one's own begins with x-)"
