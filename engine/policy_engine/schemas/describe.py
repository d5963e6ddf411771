"""What a policy is and takes, from its `policy.yaml` and its class: as data, and as text for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from policy_engine.sdk.hooks import Phase, chunk_hook
from policy_engine.worker.policies.registry import PolicyDefinition, Version

_BODIES = {Phase.REQUEST_BODY: "request", Phase.RESPONSE_BODY: "response"}
_DEEPEST = 4


def described(definition: PolicyDefinition, versions: Sequence[Version]) -> dict[str, Any]:
    """Return what is known of a policy, as JSON-able data; `versions` are all of it in this engine."""
    return {
        "name": definition.name,
        "version": str(definition.version),
        "versions": [str(one) for one in versions],
        "description": definition.description,
        "phases": [one.value for one in Phase if one in definition.phases],
        "bodies": {
            side: "streamed" if chunk_hook(phase).overridden_by(definition.policy_class) else "whole"
            for phase, side in _BODIES.items()
            if phase in definition.phases
        },
        "authenticates": definition.authenticates,
        "blocking": definition.policy_class.blocking,
        "failure_status": definition.policy_class.failure_status,
        "digest": definition.digest,
        "parameters": definition.parameters_schema,
        "examples": [{"description": one.description, "parameters": one.parameters} for one in definition.examples],
    }


def described_in_text(definition: PolicyDefinition, versions: Sequence[Version]) -> str:
    """Return the same for people."""
    known = described(definition, versions)
    bodies = ", ".join(f"{side} {how}" for side, how in known["bodies"].items())
    facts = [
        ("versions here", ", ".join(known["versions"])),
        ("phases", ", ".join(known["phases"])),
        ("bodies", bodies or "none is read"),
        ("decides who gets in", "yes" if definition.authenticates else "no"),
        ("answer when it fails", str(known["failure_status"])),
    ]
    if known["blocking"]:
        facts.append(("blocking", "yes: runs in threads of its own"))
    lines = [str(definition), f"  {definition.description}", ""]
    lines += [f"  {name:22}{text}" for name, text in facts]
    rows = list(_parameters(definition.parameters_schema, definition.parameters_schema, ""))
    lines += ["", "parameters" if rows else "parameters: none"]
    for name, kind, text in rows:
        lines.append(f"  {name}  {kind}")
        lines += [f"      {text}"] if text else []
    for one in definition.examples:
        lines += ["", f"example: {one.description}", *_entry(definition, one.parameters)]
    return "\n".join(lines) + "\n"


def _entry(definition: PolicyDefinition, parameters: Mapping[str, Any]) -> Iterator[str]:
    entry: dict[str, Any] = {"name": definition.name, "version": f"v{definition.version.major}"}
    if parameters:
        entry["parameters"] = parameters
    text = yaml.safe_dump([entry], sort_keys=False, allow_unicode=True, width=100)
    return (f"  {line}" for line in text.splitlines())


def _parameters(schema: Any, root: Mapping[str, Any], prefix: str, depth: int = 0) -> Iterator[tuple[str, str, str]]:
    """Yield name, kind and meaning of each parameter, those inside objects under the names of these."""
    schema = _followed(schema, root)
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return
    required = schema.get("required", ())
    for name, given in schema.get("properties", {}).items():
        one = _followed(given, root)
        if not isinstance(one, Mapping):
            continue
        marks = [_kind(one), *(["required"] if name in required else [])]
        if "default" in one:
            marks.append(f"default {json.dumps(one['default'], ensure_ascii=False)}")
        yield f"{prefix}{name}", ", ".join(filter(None, marks)), " ".join(str(one.get("description", "")).split())
        yield from _parameters(one, root, f"{prefix}{name}.", depth + 1)
        yield from _parameters(one.get("items"), root, f"{prefix}{name}[].", depth + 1)


def _followed(schema: Any, root: Mapping[str, Any]) -> Any:
    """Return a schema with what its local reference leads to; what stands beside the reference goes before."""
    seen = 0
    while isinstance(schema, Mapping) and str(schema.get("$ref", "")).startswith("#/") and seen < _DEEPEST:
        target: Any = root
        for step in str(schema["$ref"])[2:].split("/"):
            target = target.get(step, {}) if isinstance(target, Mapping) else {}
        beside = {name: value for name, value in schema.items() if name != "$ref"}
        schema = {**target, **beside} if isinstance(target, Mapping) else beside
        seen += 1
    return schema


def _kind(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(json.dumps(one, ensure_ascii=False) for one in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    kind = schema.get("type", "")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)
