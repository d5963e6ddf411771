"""The JSON Schema of chain files: for editors, which complete keys and underline mistakes while one types.

A separate module because the reader of chains says more than a schema can: this one lets pass what only the engine can
judge (conditions, secrets, keys that clash), and never refuses what the engine takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from policy_engine.documents.quantities import DURATION_FORM, DURATION_PATTERN, SIZE_FORM, SIZE_PATTERN
from policy_engine.schemas.parameters import REFERENCE, with_references
from policy_engine.sdk.error_formats import ErrorFormat
from policy_engine.sources.chain_reader import (
    ALTERNATIVE_KEYS,
    FILE_KEYS,
    GROUP_KEYS,
    MAX_CONDITION,
    MAX_ROUTE_KEY,
    MAX_ROUTES,
    POLICY_KEYS,
    ROUTE_KEYS,
)
from policy_engine.sources.error_answers import ERRORS_KEYS, TEMPLATE_KEYS
from policy_engine.sources.shared_lists import LONGEST_NAME, MAX_POLICIES, USE_KEYS
from policy_engine.sources.shares import MAX_BY, MAX_VERSIONS, PERCENT, PERCENT_FORM, SHARE_KEYS, VERSION_KEYS
from policy_engine.worker.chains.error_answers import MAX_TEMPLATE, MAX_TEMPLATES
from policy_engine.worker.chains.spec import FailureMode, Mode, Unmapped
from policy_engine.worker.policies.parameters import DIALECT
from policy_engine.worker.policies.registry import PolicyDefinition, Registry

Schema = dict[str, Any]

_TEXT = {"type": "string", "minLength": 1}
_PERCENT = {"type": "string", "pattern": f"^{PERCENT}$"}
_PERCENT_OR_NUMBER = {"anyOf": [_PERCENT, {"type": "number", "minimum": 0, "maximum": 100}]}

_ERRORS: Schema = {
    "description": "How denials and failures are written for clients; that of a route goes before that of the file.",
    "$ref": "#/$defs/errors",
}
_KEYS: Mapping[str, Schema] = {
    "errors": _ERRORS,
    "version": {"const": "v1", "description": "The form of the file."},
    "shared": {
        "description": "Lists of policies by name, which chains use with `- use: NAME`; for all files together.",
        "type": "object",
        "propertyNames": {"minLength": 1, "maxLength": LONGEST_NAME},
        "additionalProperties": {"$ref": "#/$defs/entries"},
    },
    "routes": {
        "description": "The routes of Envoy, each with its chain.",
        "type": "array",
        "maxItems": MAX_ROUTES,
        "items": {"$ref": "#/$defs/route"},
    },
}
_ROUTE: Mapping[str, Schema] = {
    "errors": _ERRORS,
    "route_key": {
        **_TEXT,
        "maxLength": MAX_ROUTE_KEY,
        "description": "The name of the route in Envoy. `*` stands for any text; of several patterns that match, the "
        "one with the most literal characters wins.",
    },
    "policies": {
        "description": "The chain: requests run through it in order, responses in reverse. [] passes unchanged.",
        "$ref": "#/$defs/entries",
    },
    "unmapped": {
        "description": "In place of policies: what becomes of requests of these keys, which count as unmapped.",
        "enum": [one.value for one in Unmapped],
    },
    "body_limit": {
        "description": f"Largest body of this route, also when decompressed; at most the setting; {SIZE_FORM}.",
        "type": ["integer", "string"],
        "minimum": 0,
        "pattern": f"^{SIZE_PATTERN}$",
    },
}
_ANSWERS: Mapping[str, Schema] = {
    "format": {"description": "The form of bodies.", "enum": [one.value for one in ErrorFormat]},
    "templates": {
        "description": "Bodies of your own, by status.",
        "type": "array",
        "maxItems": MAX_TEMPLATES,
        "items": {"$ref": "#/$defs/error_template"},
    },
    "status": {"description": "A status, 4xx or 5xx; all statuses unless given.", "type": ["integer", "string"]},
    "content_type": {"description": "The content-type of the body.", **_TEXT},
    "body": {"description": "The body, with placeholders.", **_TEXT, "maxLength": MAX_TEMPLATE},
}
_ENTRY: Mapping[str, Schema] = {
    "name": {"description": "A policy of this engine.", **_TEXT},
    "version": {
        "description": "v1.2.0 for exactly that version, v1 for the newest of that major version.",
        "type": "string",
        "pattern": r"^v[0-9]+(\.[0-9]+\.[0-9]+)?$",
    },
    "versions": {
        "description": "In place of version: versions of the policy that share the requests, 100% together.",
        "type": "object",
        "minProperties": 1,
        "maxProperties": MAX_VERSIONS,
        "additionalProperties": {"anyOf": [_PERCENT, {"$ref": "#/$defs/version_share"}]},
    },
    "enabled": {"description": "false leaves the entry out.", "type": "boolean", "default": True},
    "condition": {
        "description": "A CEL expression; the entry runs for requests for which it is true.",
        **_TEXT,
        "maxLength": MAX_CONDITION,
    },
    "failure_mode": {
        "description": "When the policy fails: closed denies the request, open goes on without the policy.",
        "enum": [one.value for one in FailureMode],
        "default": FailureMode.CLOSED.value,
    },
    "timeout": {
        "description": f"Longest time for one hook of the policy: {DURATION_FORM}.",
        "type": "string",
        "pattern": f"^{DURATION_PATTERN}$",
    },
    "parameters": {"description": "What the policy is told.", "type": "object"},
    "mode": {
        "description": "shadow: the policy runs, what it wants is counted and logged, and nothing is done.",
        "enum": [one.value for one in Mode],
        "default": Mode.ENFORCE.value,
    },
    "share": {
        "description": f"The requests that the entry runs for, chosen by a hash: {PERCENT_FORM}.",
        "anyOf": [_PERCENT, {"$ref": "#/$defs/share"}],
    },
    "any_of": {
        "description": "Policies of which one has to let the request in, asked in order.",
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_POLICIES,
        "items": {"$ref": "#/$defs/alternative"},
    },
    "use": {"description": "The name of a shared list, put in here.", **_TEXT, "maxLength": LONGEST_NAME},
}
_SHARE: Mapping[str, Schema] = {
    "percent": {"description": PERCENT_FORM, **_PERCENT_OR_NUMBER},
    "by": {
        "description": "A CEL expression: requests with the same value are on the same side; request.id unless given.",
        **_TEXT,
        "maxLength": MAX_BY,
    },
    "share": _PERCENT,
    "parameters": {"description": "Parameters of this version, in place of those of the entry.", "type": "object"},
}


def chain_file_schema(registry: Registry) -> Schema:
    """Return the schema of chain files for an engine with these policies."""
    known = list(registry)
    definitions = {
        _definition_name(one): with_references(one.parameters_schema, _definition_name(one)) for one in known
    }
    by_policy = {"allOf": [rule for one in known for rule in _rules_of(one, registry)]} if known else {}
    return {
        "$schema": DIALECT,
        "title": "Chains of the policy engine",
        **_object(FILE_KEYS, _KEYS, required=("version", "routes")),
        "$defs": {
            "route": {
                **_object(ROUTE_KEYS, _ROUTE, required=("route_key",)),
                "oneOf": [{"required": ["policies"]}, {"required": ["unmapped"]}],
            },
            "entries": {"type": "array", "maxItems": MAX_POLICIES, "items": {"$ref": "#/$defs/entry"}},
            "entry": {
                "if": {"type": "object", "required": ["use"]},
                "then": _object(USE_KEYS, _ENTRY, required=("use",)),
                "else": {
                    "if": {"type": "object", "required": ["any_of"]},
                    "then": _object(GROUP_KEYS, _ENTRY, required=("any_of",)),
                    "else": _policy(POLICY_KEYS, known),
                },
            },
            "alternative": _policy(ALTERNATIVE_KEYS, known),
            "errors": _object(ERRORS_KEYS, _ANSWERS),
            "error_template": _object(TEMPLATE_KEYS, _ANSWERS, required=("body",)),
            "share": _object(SHARE_KEYS, _SHARE),
            "version_share": _object(VERSION_KEYS, _SHARE, required=("share",)),
            "by_policy": by_policy,
            REFERENCE: {"type": "string", "pattern": r"\$\{(env|file):[^{}]+\}"},
            **definitions,
        },
    }


def _policy(keys: Iterable[str], known: Iterable[PolicyDefinition]) -> Schema:
    names = list(dict.fromkeys(one.name for one in known))
    schema = _object(keys, _ENTRY, required=("name",))
    if names:
        schema["properties"]["name"] = {"description": _ENTRY["name"]["description"], "enum": names}
    schema["oneOf"] = [{"required": ["version"]}, {"required": ["versions"]}]
    schema["allOf"] = [{"$ref": "#/$defs/by_policy"}]
    return schema


def _rules_of(definition: PolicyDefinition, registry: Registry) -> Iterable[Schema]:
    """Yield what holds for entries that name this version, exactly or by its major version."""
    newest = registry.resolve(definition.name, f"v{definition.version.major}") is definition
    versions = [str(definition.version), *([f"v{definition.version.major}"] if newest else [])]
    parameters = {"$ref": f"#/$defs/{_definition_name(definition)}"}
    named = {"const": definition.name}
    required = {"required": ["parameters"]} if definition.parameters_schema.get("required") else {}
    yield {
        "if": {"required": ["name", "version"], "properties": {"name": named, "version": {"enum": versions}}},
        "then": {"properties": {"parameters": parameters}, **required},
    }
    of_version = {"properties": {"parameters": parameters}}
    yield {
        "if": {"required": ["name", "versions"], "properties": {"name": named}},
        "then": {"properties": {"versions": {"properties": dict.fromkeys(versions, of_version)}}},
    }


def _definition_name(definition: PolicyDefinition) -> str:
    return f"{definition.name}@{definition.version}"


def _object(keys: Iterable[str], known: Mapping[str, Any], required: Iterable[str] = ()) -> Schema:
    """Return the schema of an object with these keys; of one that is not `known` nothing is said but that it may be."""
    schema: Schema = {"type": "object", "additionalProperties": False}
    schema["properties"] = {key: known.get(key, True) for key in keys}
    return schema | ({"required": list(required)} if required else {})
