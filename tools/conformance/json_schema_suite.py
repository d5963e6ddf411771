"""JSON-Schema-Test-Suite (draft 2020-12, optional parts and formats included) against json-schema-validation.

The source archive of `jsonschema` carries the suite, at the version and with the hash of the lock.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from policy_engine.sdk import ParameterError
from policy_engine.sdk.testing import policy_class
from tools.conformance.downloads import locked_source
from tools.conformance.suite import Case, SuiteError

VERSION = "of jsonschema in requirements_lock.txt"
EXPECTED = "json_schema.toml"
DRAFT = "draft2020-12"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
DIFFERS = "another answer"
"""The kind of a case whose schema is taken and whose answer is another."""

_POLICY = Path(__file__).parents[2] / "policies" / "json-schema-validation" / "v1_0_0"
_REFUSALS: Mapping[str, str] = {
    "$id is possible only at the root": "$id",
    "leads to no schema": "$ref",
    "is not a keyword": "keyword",
    "this format cannot be checked": "format",
    "cannot be combined with patternProperties": "unevaluated",
    "not a regular expression that RE2 can run": "RE2",
    "the dialect is": "dialect",
}
"""Kinds of the cases of a schema that is refused at load, by what its message says."""


def run() -> Iterator[Case]:
    """Fetch the suite and yield its cases."""
    with tempfile.TemporaryDirectory() as directory:
        yield from cases(locked_source("jsonschema", Path(directory)) / "json")


def cases(suite: Path) -> Iterator[Case]:
    """Yield the cases of the suite whose root (with `tests/`) is `suite`: `FILE/GROUP.CASE`, both counted from 1."""
    module = policy_class(_POLICY).__module__.rpartition(".")[0]
    body_schema: Any = sys.modules[f"{module}.schema"].BodySchema
    root = suite / "tests" / DRAFT
    if not root.is_dir():
        raise SuiteError(f"the source of jsonschema has no {DRAFT} among its tests any more")
    for path in sorted(root.rglob("*.json")):
        file = path.relative_to(root).with_suffix("").as_posix()
        for number, group in enumerate(json.loads(path.read_text(encoding="utf-8")), 1):
            yield from _group(f"{file}/{number}", group, body_schema, formats=file.startswith("optional/format/"))


def _group(name: str, group: Mapping[str, Any], body_schema: Any, *, formats: bool) -> Iterator[Case]:
    schema = group["schema"]
    if isinstance(schema, dict) and schema.get("$schema") == DIALECT:
        schema = {key: value for key, value in schema.items() if key != "$schema"}
    made, kind, why = None, DIFFERS, ""
    try:
        made = body_schema(schema, "", formats=formats)
    except ParameterError as refusal:
        why = refusal.message
        kind = next((known for part, known in _REFUSALS.items() if part in why), "refused")
    for number, case in enumerate(group["tests"], 1):
        passed = made is not None and (not made.violations(case["data"], 1)) == case["valid"]
        detail = "" if passed else f"{group['description']}: {case['description']}: {why or DIFFERS}"
        yield Case(f"{name}.{number}", passed, detail, "" if passed else kind)
