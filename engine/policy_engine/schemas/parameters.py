"""Parameter schemas of policies as other schemas can hold them.

A separate module because a policy's schema is about what the policy gets, and a chain file may have a reference to a
secret wherever that is a text.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from policy_engine.worker.policies.parameters import DIALECT, subschemas
from policy_engine.worker.policies.registry import PolicyDefinition

REFERENCE = "reference"
"""The definition, in the schema around, of a text that refers to a secret."""

_OF_TEXTS = frozenset({"pattern", "format", "enum", "const", "minLength", "maxLength", "not"})
_ANNOTATIONS = ("title", "description", "default", "examples", "deprecated", "writeOnly")
_NOT_INTO = frozenset({"not", "if", "contains", "propertyNames"})


def parameters_schema(definition: PolicyDefinition) -> dict[str, Any]:
    """Return the schema of a policy's parameters by itself, as in its `policy.yaml`."""
    return {
        "$schema": DIALECT,
        "title": f"Parameters of {definition}",
        "description": definition.description,
        **{name: value for name, value in definition.parameters_schema.items() if name != "$schema"},
    }


def with_references(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the schema for the place `#/$defs/NAME`: texts may be references to secrets there, and local `$ref`s lead
    to where its parts are then."""
    copied: dict[str, Any] = copy.deepcopy(dict(schema))
    copied.pop("$schema", None)
    parts = [(path, part) for path, part in subschemas(copied) if _NOT_INTO.isdisjoint(map(str, path))]
    for _, part in subschemas(copied):
        for keyword in ("$ref", "$dynamicRef"):
            reference = part.get(keyword)
            if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
                part[keyword] = f"#/$defs/{name}{reference[1:]}"
    for path, part in parts:
        if path and not _OF_TEXTS.isdisjoint(part):
            _allow_references(part)
    return copied


def _allow_references(part: dict[str, Any]) -> None:
    kept = {name: part[name] for name in _ANNOTATIONS if name in part}
    held = {name: value for name, value in part.items() if name not in kept}
    part.clear()
    part.update(kept, anyOf=[{"$ref": f"#/$defs/{REFERENCE}"}, held])
