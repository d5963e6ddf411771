"""`policy.yaml`, the face of a policy: read and checked without importing the policy's code (R-30).

A separate module because the builder reads manifests of policies whose requirements are not installed where it runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Any

from policy_engine.documents.diagnostics import Diagnostic, Rule, has_errors
from policy_engine.documents.fields import Fields, did_you_mean
from policy_engine.documents.json_types import type_in_words
from policy_engine.documents.secret_references import holds_reference
from policy_engine.documents.yaml_document import Document, read_document, read_document_file
from policy_engine.sdk.attributes import ATTRIBUTES, why_not
from policy_engine.sdk.hooks import Phase
from policy_engine.sdk.json_pointer import Path
from policy_engine.worker.policies.parameters import ParameterSchema, SchemaError
from policy_engine.worker.policies.registry import MANIFEST_FILE, Example, Version
from policy_engine.worker.policies.violations import Violation

MANIFEST_KEYS = (
    *("name", "version", "description", "entrypoint", "phases", "authenticates"),
    *("request_attributes", "forwarding_namespaces", "parameters", "examples"),
)
EXAMPLE_KEYS = ("description", "parameters")
MAX_EXAMPLES = 100
MAX_NAMESPACES = 20
LONGEST_NAMESPACE = 255

LONGEST_NAME = 63
"""Characters of a policy's name."""

NAME_PATTERN = r"[a-z][a-z0-9]*(-[a-z0-9]+)*"
ENTRYPOINT_PATTERN = r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)"
_NAME = re.compile(NAME_PATTERN, re.ASCII)
_ENTRYPOINT = re.compile(ENTRYPOINT_PATTERN, re.ASCII)
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class PolicyManifest:
    """A checked `policy.yaml`; `document` finds the line of a later finding about it.

    `authenticates` says that the policy decides who gets in, so that skipping it opens the route. `request_attributes`
    and `forwarding_namespaces` are what Envoy has to tell of each request, by the names of Envoy's ext_proc filter.
    """

    name: str
    version: Version
    description: str
    module: str
    class_name: str
    phases: frozenset[Phase]
    parameters_schema: Mapping[str, Any]
    parameters: ParameterSchema = field(repr=False)
    examples: tuple[Example, ...]
    authenticates: bool
    request_attributes: frozenset[str]
    forwarding_namespaces: frozenset[str]
    document: Document = field(repr=False, compare=False)

    @property
    def entrypoint(self) -> str:
        """`module:Class`, as in the file."""
        return f"{self.module}:{self.class_name}"


def read_manifest(path: FilePath) -> tuple[PolicyManifest | None, list[Diagnostic]]:
    """Return the manifest in the file `path` with everything wrong with it; None when something is."""
    return _manifest(*read_document_file(path, hint=f"; every policy directory holds a {MANIFEST_FILE}"))


def parse_manifest(file: str, content: bytes) -> tuple[PolicyManifest | None, list[Diagnostic]]:
    """Return the manifest in `content`, as `read_manifest` does; `file` is only named in findings."""
    return _manifest(*read_document(file, content))


@lru_cache(maxsize=256)
def manifest_face(path: FilePath) -> Mapping[str, Any]:
    """Return `description` and `phases` as they stand in the file `path`, without checking anything; for showing."""
    document, _ = read_document_file(path)
    found = document.value if document is not None and isinstance(document.value, dict) else {}
    phases = found.get("phases")
    return {
        "description": found.get("description", ""),
        "phases": sorted(map(str, phases)) if isinstance(phases, list) else [],
    }


def _manifest(
    document: Document | None, diagnostics: list[Diagnostic]
) -> tuple[PolicyManifest | None, list[Diagnostic]]:
    if document is None:
        return None, diagnostics
    fields = Fields(document, (), MANIFEST_KEYS, diagnostics, "a policy manifest")
    if not isinstance(document.value, dict):
        return None, diagnostics
    name = _name(fields)
    version = _version(fields)
    description = fields.text("description", required=True, longest=4096)
    entrypoint = _entrypoint(fields)
    phases = _phases(fields)
    authenticates = fields.boolean("authenticates", default=False)
    attributes = _attributes(fields)
    namespaces = _namespaces(fields)
    schema = document.value.get("parameters", _NO_PARAMETERS)
    parameters = _parameters(schema, fields, document, diagnostics)
    examples = _examples(fields, parameters, document, diagnostics)
    if has_errors(diagnostics) or not (name and version and description and entrypoint and parameters):
        return None, diagnostics
    module, class_name = entrypoint
    manifest = PolicyManifest(
        name,
        version,
        description,
        module,
        class_name,
        phases,
        schema,
        parameters,
        examples,
        authenticates,
        attributes,
        namespaces,
        document,
    )
    return manifest, diagnostics


def is_policy_name(text: str) -> bool:
    """Return whether a policy may be called `text`: in kebab-case, and not too long."""
    return len(text) <= LONGEST_NAME and _NAME.fullmatch(text) is not None


def _name(fields: Fields) -> str | None:
    name = fields.text("name", required=True)
    if name is None or is_policy_name(name):
        return name
    allowed = f"kebab-case such as set-header (a-z, 0-9, single hyphens), at most {LONGEST_NAME} characters"
    fields.error(("name",), "is not in kebab-case", value=name, allowed=allowed)
    return None


def _version(fields: Fields) -> Version | None:
    raw = fields.raw("version")
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        fields.error(("version",), "is a number", value=raw, allowed="v1.2.3", rule=Rule.WRONG_TYPE)
        return None
    text = fields.text("version", required=True)
    if text is None:
        return None
    try:
        return Version.parse(text)
    except ValueError:
        fields.error(("version",), "is not a version", value=text, allowed="v1.2.3 (major, minor and patch number)")
        return None


def _entrypoint(fields: Fields) -> tuple[str, str] | None:
    text = fields.text("entrypoint", required=True)
    if text is None:
        return None
    match = _ENTRYPOINT.fullmatch(text)
    if match is None:
        allowed = "module:Class, such as policy:SetHeader for class SetHeader in policy.py"
        fields.error(("entrypoint",), "does not name a class", value=text, allowed=allowed)
        return None
    return match[1], match[2]


def _phases(fields: Fields) -> frozenset[Phase]:
    known = tuple(Phase)
    phases: set[Phase] = set()
    items = fields.items("phases", most=len(known))
    if not items and fields.raw("phases") == []:
        fields.error(("phases",), "names no phase", allowed=", ".join(known))
    for index, item in enumerate(items):
        place: Path = ("phases", index)
        if not isinstance(item, str) or item not in known:
            meant = did_you_mean(item, known) if isinstance(item, str) else ""
            shown = None if isinstance(item, dict | list) else item
            fields.error(place, f"is not a phase{meant}", value=shown, allowed=", ".join(known))
        elif item in phases:
            fields.error(place, "is listed twice", value=item)
        else:
            phases.add(Phase(item))
    return frozenset(phases)


def _attributes(fields: Fields) -> frozenset[str]:
    attributes: set[str] = set()
    for index, item in enumerate(fields.items("request_attributes", required=False, most=len(ATTRIBUTES))):
        place: Path = ("request_attributes", index)
        shown = None if isinstance(item, dict | list) else item
        if not isinstance(item, str):
            fields.error(place, "is not the name of an attribute", value=shown, rule=Rule.WRONG_TYPE)
        elif reason := why_not(item):
            meant = did_you_mean(item, ATTRIBUTES)
            fields.error(place, f"{reason}{meant}", value=shown, allowed=", ".join(sorted(ATTRIBUTES)))
        elif item in attributes:
            fields.error(place, "is listed twice", value=item)
        else:
            attributes.add(item)
    return frozenset(attributes)


def _namespaces(fields: Fields) -> frozenset[str]:
    namespaces: set[str] = set()
    for index, item in enumerate(fields.items("forwarding_namespaces", required=False, most=MAX_NAMESPACES)):
        place: Path = ("forwarding_namespaces", index)
        if not isinstance(item, str) or not item.isprintable() or not 0 < len(item) <= LONGEST_NAMESPACE:
            allowed = f"text of 1 to {LONGEST_NAMESPACE} characters such as envoy.filters.http.jwt_authn"
            shown = None if isinstance(item, dict | list) else item
            fields.error(place, "is not a namespace of metadata", value=shown, allowed=allowed)
        elif item in namespaces:
            fields.error(place, "is listed twice", value=item)
        else:
            namespaces.add(item)
    return frozenset(namespaces)


def _parameters(
    schema: Any, fields: Fields, document: Document, diagnostics: list[Diagnostic]
) -> ParameterSchema | None:
    if not isinstance(schema, dict) and schema is not _NO_PARAMETERS:
        reason = f"must be a JSON Schema (an object), not {type_in_words(schema)}; leave the key out for no parameters"
        fields.error(("parameters",), reason, rule=Rule.SCHEMA)
        return None
    try:
        return ParameterSchema(schema)
    except SchemaError as error:
        for one in error.violations:
            diagnostics.append(_at(document, ("parameters",), one, Rule.SCHEMA))
    return None


def _examples(
    fields: Fields, parameters: ParameterSchema | None, document: Document, diagnostics: list[Diagnostic]
) -> tuple[Example, ...]:
    examples = []
    for index, item in enumerate(fields.items("examples", required=False, most=MAX_EXAMPLES)):
        path: Path = ("examples", index)
        example = Fields(document, path, EXAMPLE_KEYS, diagnostics, "an example")
        if not isinstance(item, dict):
            continue
        description = example.text("description", required=True, longest=4096)
        values = item.get("parameters", {})
        if not isinstance(values, dict):
            example.error(("parameters",), f"must be an object, not {type_in_words(values)}", rule=Rule.WRONG_TYPE)
            continue
        for violation in parameters.check(values).violations if parameters is not None else ():
            # A reference to a secret stands for a value that is not known before it is deployed.
            if not holds_reference(violation.value):
                diagnostics.append(_at(document, (*path, "parameters"), violation, Rule.EXAMPLE))
        if description is not None:
            examples.append(Example(description, values))
    return tuple(examples)


def _at(document: Document, path: Path, violation: Violation, rule: Rule) -> Diagnostic:
    detail = f": {violation.detail}" if violation.detail else ""
    return document.diagnostic(
        (*path, *violation.path),
        violation.reason + detail,
        key=violation.at_key,
        value=violation.value,
        allowed=violation.allowed,
        rule=rule,
    )
