"""The JSON Schema of `policy.yaml`, for editors; made from the constants that its reader goes by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policy_engine.sdk.attributes import ATTRIBUTES
from policy_engine.sdk.hooks import Phase
from policy_engine.worker.policies.manifest import (
    ENTRYPOINT_PATTERN,
    EXAMPLE_KEYS,
    LONGEST_NAME,
    LONGEST_NAMESPACE,
    MANIFEST_KEYS,
    MAX_EXAMPLES,
    MAX_NAMESPACES,
    NAME_PATTERN,
)
from policy_engine.worker.policies.parameters import DIALECT

_REQUIRED = ("name", "version", "description", "entrypoint", "phases")
_DESCRIPTION = {"type": "string", "minLength": 1, "maxLength": 4096}

_KEYS: Mapping[str, Any] = {
    "name": {
        "description": "The policy's name, in kebab-case.",
        "type": "string",
        "pattern": f"^{NAME_PATTERN}$",
        "maxLength": LONGEST_NAME,
    },
    "version": {
        "description": "What is out is never changed: a new promise is a new version, in a directory of its own.",
        "type": "string",
        "pattern": r"^v(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})$",
    },
    "description": {"description": "What the policy does, in a sentence.", **_DESCRIPTION},
    "entrypoint": {
        "description": "module:Class, such as policy:SetHeader for class SetHeader in policy.py.",
        "type": "string",
        "pattern": f"^{ENTRYPOINT_PATTERN}$",
    },
    "phases": {
        "description": "The phases that the policy has hooks for.",
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": {"enum": [one.value for one in Phase]},
    },
    "authenticates": {
        "description": "Whether the policy decides who gets in, so that skipping it opens the route.",
        "type": "boolean",
        "default": False,
    },
    "request_attributes": {
        "description": "Envoy's attributes that the policy reads, such as connection.mtls.",
        "type": "array",
        "uniqueItems": True,
        "items": {"enum": sorted(ATTRIBUTES)},
    },
    "forwarding_namespaces": {
        "description": "Namespaces of Envoy's dynamic metadata that the policy reads.",
        "type": "array",
        "maxItems": MAX_NAMESPACES,
        "items": {"type": "string", "minLength": 1, "maxLength": LONGEST_NAMESPACE},
    },
    "parameters": {
        "description": "A JSON Schema (2020-12) of the parameters; without it there are none.",
        "type": "object",
        "$ref": DIALECT,
    },
    "examples": {
        "description": "Parameters that show how the policy is used; they are checked.",
        "type": "array",
        "maxItems": MAX_EXAMPLES,
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["description"],
            "properties": {
                key: {"description": _DESCRIPTION, "parameters": {"type": "object"}}[key] for key in EXAMPLE_KEYS
            },
        },
    },
}


def manifest_schema() -> dict[str, Any]:
    """Return the schema of `policy.yaml`."""
    return {
        "$schema": DIALECT,
        "title": "A policy of the policy engine",
        "type": "object",
        "additionalProperties": False,
        "required": list(_REQUIRED),
        "properties": {key: _KEYS.get(key, True) for key in MANIFEST_KEYS},
    }
