"""Schemas of Kubernetes' kinds for kubeconform, made out of what Kubernetes and custom resource definitions say.

A separate module because the ready-made ones are files on the web, and these follow from the versions that tests name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

LOCATION = "{{ .ResourceKind }}{{ .KindSuffix }}.json"
"""The name of each file, as kubeconform asks for it."""

_DEFINITIONS = "_definitions.json"
_REFERENCE = "#/definitions/"
_EITHER = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": ["integer", "string"],
    "io.k8s.apimachinery.pkg.api.resource.Quantity": ["number", "string"],
}
"""Definitions that say `string` and mean more."""

Schema = Mapping[str, Any]


def write_schemas(openapi: Schema, definitions: Iterable[Path], directory: Path) -> None:
    """Write a schema for each kind of an OpenAPI 2 document and of custom resource definitions: no unknown fields."""
    named = {name: strict(one) for name, one in openapi["definitions"].items()}
    named |= {name: {"type": types} for name, types in _EITHER.items()}
    (directory / _DEFINITIONS).write_text(json.dumps({"definitions": named}), "utf-8")
    for name, one in openapi["definitions"].items():
        for kind in one.get("x-kubernetes-group-version-kind", ()):
            reference = {"$ref": f"{_DEFINITIONS}{_REFERENCE}{name}"}
            _write(directory, kind["group"], kind["version"], kind["kind"], reference)
    for file in definitions:
        for crd in yaml.safe_load_all(file.read_text("utf-8")):
            spec = crd["spec"]
            for version in spec["versions"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                _write(directory, spec["group"], version["name"], spec["names"]["kind"], schema)


def strict(schema: Any) -> Any:
    """Return a schema whose objects have no fields but those that it names."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if found.pop("x-kubernetes-int-or-string", False) is True:
        found["type"] = ["integer", "string"]
    if isinstance(found.get("properties"), Mapping) and not found.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


def _write(directory: Path, group: str, version: str, kind: str, schema: Schema) -> None:
    # As kubeconform has it: the first word of the group, without its domain.
    parts = [kind, *([group.partition(".")[0]] if group else []), version]
    (directory / f"{'-'.join(parts).lower()}.json").write_text(json.dumps(schema), "utf-8")
