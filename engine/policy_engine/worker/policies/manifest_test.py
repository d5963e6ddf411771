from __future__ import annotations

from pathlib import Path

import pytest

from policy_engine.sdk.hooks import Phase
from policy_engine.worker.policies.manifest import PolicyManifest, parse_manifest, read_manifest
from policy_engine.worker.policies.registry import Version

GOOD = """\
name: set-header
version: v1.2.3
description: Sets headers.
entrypoint: policy.inner:SetHeader
phases: [request_headers, request_body, request_trailers, response_headers, response_body, response_trailers]
parameters:
  type: object
  required: [name]
  properties:
    name: {type: string, minLength: 2}
    key: {type: string, format: uri}
examples:
- description: The shortest.
  parameters: {name: ab}
"""


def read(text: str) -> tuple[PolicyManifest | None, list[str]]:
    manifest, diagnostics = parse_manifest("policy.yaml", text.encode())
    return manifest, [str(one) for one in diagnostics]


def test_every_key() -> None:
    manifest, errors = read(GOOD)
    assert errors == []
    assert manifest is not None
    assert (manifest.name, manifest.version, manifest.entrypoint) == (
        "set-header", Version(1, 2, 3), "policy.inner:SetHeader",
    )  # fmt: skip
    assert manifest.phases == set(Phase)
    assert manifest.examples[0].parameters == {"name": "ab"}
    assert manifest.parameters.check({}).violations


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("name: set-header", "name: Set_Header", 'policy.yaml:1:7: /name: is not in kebab-case (got "Set_Header")'),
        ("name: set-header", "name: set--header", "/name: is not in kebab-case"),
        ("name: set-header", "", "lacks the required key 'name'"),
        ("version: v1.2.3", "version: 1.2.3", '/version: is not a version (got "1.2.3"); allowed: v1.2.3'),
        ("version: v1.2.3", "version: 1.2", "/version: is a number (got 1.2); allowed: v1.2.3"),
        ("version: v1.2.3", "version: v01.2.3", "/version: is not a version"),
        ("description: Sets headers.", "description:", "/description: must be text, not null"),
        ("entrypoint: policy.inner:SetHeader", "entrypoint: policy", '/entrypoint: does not name a class (got "policy")'),
        ("entrypoint: policy.inner:SetHeader", "entrypoint: ../x:Y", "/entrypoint: does not name a class"),
        ("[request_headers,", "[requst_headers,", "/phases/0: is not a phase; did you mean 'request_headers'?"),
        ("[request_headers,", "[request_body,", "policy.yaml:5:24: /phases/1: is listed twice"),
        ("minLength: 2", "minLength: x", "policy.yaml:10:37: /parameters/properties/name/minLength: must be an integer"),
        ("minLength: 2", "pattern: '(?=a)'", "/parameters/properties/name/pattern: is not a regular expression RE2 can run"),
        ("{name: ab}", "{name: a}", "policy.yaml:14:22: /examples/0/parameters/name: is too short (got \"a\")"),
        ("{name: ab}", "{}", "/examples/0/parameters: lacks the required 'name'"),
        ("{name: ab}", "{name: ab, key: nowhere}", "/examples/0/parameters/key: is not of format uri"),
        ("{name: ab}", "[]", "/examples/0/parameters: must be an object, not a list"),
        ("examples:", "exampels:", "'exampels' is not a key of a policy manifest; did you mean 'examples'?"),
        ("- description: The shortest.\n  parameters", "- parameters", "/examples/0: lacks the required key 'description'"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_its_place(old: str, new: str, error: str) -> None:
    assert old in GOOD
    manifest, errors = read(GOOD.replace(old, new))
    assert manifest is None
    assert len(errors) == 1, errors
    assert error in errors[0]


def test_no_phases_at_all() -> None:
    text = GOOD.replace(GOOD.splitlines()[4], "phases: []")
    assert "/phases: names no phase; allowed: request_headers" in read(text)[1][0]


def test_without_a_schema_no_parameter_is_taken() -> None:
    text = GOOD[: GOOD.index("parameters:")]
    manifest, errors = read(text)
    assert errors == []
    assert manifest is not None
    assert manifest.parameters.check({}).violations == ()
    assert manifest.parameters.check({"a": 1}).violations


def test_examples_may_refer_to_secrets() -> None:
    manifest, errors = read(GOOD.replace("{name: ab}", "{name: ab, key: '${env:KEY_URL}'}"))
    assert errors == []
    assert manifest is not None


def test_all_mistakes_at_once() -> None:
    text = GOOD.replace("set-header", "S").replace("v1.2.3", "x").replace("{name: ab}", "{name: a}")
    assert len(read(text)[1]) == 3


@pytest.mark.parametrize("content", ["", "[]", "a: [", "\0"])
def test_what_is_no_manifest(content: str) -> None:
    manifest, errors = read(content)
    assert manifest is None
    assert errors


def test_a_missing_file_is_a_finding(tmp_path: Path) -> None:
    manifest, diagnostics = read_manifest(tmp_path / "policy.yaml")
    assert manifest is None
    assert "cannot be read: No such file or directory; every policy directory holds a policy.yaml" in str(
        diagnostics[0]
    )
