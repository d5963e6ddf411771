"""Writes policies.md, the catalogue of the policies, from their policy.yaml files: `python -m docs.policies_page`.

A separate module so that the page is made, not typed; a test holds it fresh.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from policy_engine.worker.policies.registry import Version

PAGE = Path(__file__).resolve().parent / "policies.md"
POLICIES = PAGE.parent.parent / "policies"

_HEAD = """\
# Policies

Made from the `policy.yaml` of each policy by `python -m docs.policies_page`; change the text there. What a policy
promises (what clients and others get, how it fails, what it costs) is in its README. A chain that says `version: v1`
gets the newest v1. Policies marked with ● decide who gets in.

"""


def page() -> str:
    """Return the whole page."""
    policies = _policies()
    return _HEAD + "\n".join([*_table(policies), "", *(line for one in policies for line in _section(one))])


def _policies() -> list[dict[str, Any]]:
    """Return the manifests by name, the newest version of each first."""
    found = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in POLICIES.glob("*/v*/policy.yaml")]
    found.sort(key=lambda one: Version.parse(one["version"]), reverse=True)
    found.sort(key=lambda one: str(one["name"]))
    return found


def _table(policies: list[dict[str, Any]]) -> Iterator[str]:
    yield "| policy | versions | | what it does |"
    yield "|---|---|---|---|"
    for name, group in groupby(policies, key=lambda one: one["name"]):
        versions = list(group)
        links = ", ".join(f"[{one['version']}](#{_anchor(one)})" for one in versions)
        mark = "●" if versions[0].get("authenticates") else ""
        yield f"| {name} | {links} | {mark} | {versions[0]['description']} |"


def _section(policy: Mapping[str, Any]) -> Iterator[str]:
    name, version = policy["name"], policy["version"]
    yield f"## {name} {version}"
    yield ""
    phases = ", ".join(f"`{phase}`" for phase in policy["phases"])
    yield f"[What it promises](../policies/{name}/{version.replace('.', '_')}/README.md)."
    yield f"Phases: {phases}."
    yield ""
    yield from _parameters(policy["parameters"])
    example = policy["examples"][0]
    yield f"{example['description']}:"
    yield ""
    entry = [{"name": name, "version": version, "parameters": example["parameters"]}]
    written = yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=110)
    yield f"```yaml\n{written}```"
    yield ""


def _parameters(schema: Mapping[str, Any]) -> Iterator[str]:
    properties = schema.get("properties", {})
    if not properties:
        return
    required = schema.get("required", ())
    yield "| parameter | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, given in properties.items():
        one = _resolved(given, schema)
        default = "required" if name in required else _written(one["default"]) if "default" in one else "none"
        yield f"| `{name}` | {_type(one)} | {default} | {_cell(one.get('description', ''))} |"
    yield ""


def _resolved(one: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a parameter's schema with what it refers to in it."""
    while "$ref" in one:
        target = schema["$defs"][one["$ref"].rsplit("/", 1)[1]]
        one = {**target, **{key: value for key, value in one.items() if key != "$ref"}}
    return one


def _type(one: Mapping[str, Any]) -> str:
    if "enum" in one:
        return ", ".join(_written(value) for value in one["enum"])
    kind = one.get("type", "")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _written(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    return f"`{_cell(text.removesuffix('...' + chr(10)).strip())}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _anchor(policy: Mapping[str, Any]) -> str:
    return f"{policy['name']} {policy['version']}".replace(".", "").replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
