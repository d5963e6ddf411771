"""What `policy-engine schema` and `policy-engine describe` print.

A separate module so that the command line stays a list of commands.
"""

from __future__ import annotations

import json
from typing import Any

from policy_engine.schemas.chain_file import chain_file_schema
from policy_engine.schemas.describe import described, described_in_text
from policy_engine.schemas.manifest_file import manifest_schema
from policy_engine.schemas.parameters import parameters_schema
from policy_engine.schemas.settings_file import settings_schema
from policy_engine.worker.policies.registry import PolicyDefinition, Registry

KINDS = ("chains", "settings", "policy", "parameters")


class NoSuchPolicy(ValueError):
    """The message says which policies there are."""


def schema_text(kind: str, registry: Registry, name: str = "") -> str:
    """Return the JSON Schema of a kind of file; of parameters for those of the policy `name` (`NAME` or `NAME@v1`)."""
    schema: dict[str, Any]
    if kind == "chains":
        schema = chain_file_schema(registry)
    elif kind == "settings":
        schema = settings_schema()
    elif kind == "policy":
        schema = manifest_schema()
    else:
        schema = parameters_schema(policy_named(registry, name))
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def description_text(registry: Registry, name: str, *, as_json: bool) -> str:
    """Return what the policy `name` (`NAME` or `NAME@v1`) is and takes."""
    definition = policy_named(registry, name)
    versions = registry.versions(definition.name)
    if as_json:
        return json.dumps(described(definition, versions), indent=2, ensure_ascii=False) + "\n"
    return described_in_text(definition, versions)


def policy_named(registry: Registry, name: str) -> PolicyDefinition:
    """Return the policy that `NAME`, `NAME@v1` or `NAME@v1.0.0` means, its newest version where none is said."""
    wanted, _, version = name.partition("@")
    versions = registry.versions(wanted)
    try:
        return registry.resolve(wanted, version or (str(versions[-1]) if versions else "v1"))
    except LookupError as error:
        raise NoSuchPolicy(str(error)) from None
