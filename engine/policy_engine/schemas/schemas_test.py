"""Schemas for editors: they take what the engine takes, name every key, and see the mistakes that a schema can see."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from policy_engine.cli import main
from policy_engine.documents.yaml_document import read_document
from policy_engine.schemas.chain_file import chain_file_schema
from policy_engine.schemas.command import NoSuchPolicy, description_text, schema_text
from policy_engine.schemas.manifest_file import manifest_schema
from policy_engine.schemas.settings_file import settings_schema
from policy_engine.sdk import Policy, Request, Response
from policy_engine.sdk.hooks import phases_of
from policy_engine.settings.loading import known_settings, sample_file
from policy_engine.sources import chain_reader
from policy_engine.sources.shared_lists import USE_KEYS
from policy_engine.worker.policies.manifest import MANIFEST_KEYS
from policy_engine.worker.policies.registry import Example, PolicyDefinition, Registry, Version

PARAMETERS = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": False,
    "required": ["key"],
    "properties": {
        "key": {"type": "string", "pattern": "^[0-9a-f]{8}$", "description": "A key."},
        "kind": {"enum": ["a", "b"], "default": "a"},
        "times": {"type": "array", "items": {"$ref": "#/$defs/time"}},
        "deep": {"type": "object", "properties": {"time": {"$ref": "#/$defs/time"}}},
    },
    "$defs": {"time": {"type": "string", "pattern": "^[0-9]+s$", "description": "A time."}},
}


class Reads(Policy):
    def on_request_body(self, request: Request) -> None: ...

    def on_response_headers(self, request: Request, response: Response) -> None: ...


def define(name: str, version: str, schema: dict[str, Any]) -> PolicyDefinition:
    return PolicyDefinition(
        name,
        Version.parse(version),
        "For this test.",
        "policy:Reads",
        phases_of(Reads),
        schema,
        (Example("The usual", {"key": "0123abcd"}),) if schema else (),
        Reads,
        "test",
        "sha256:0",
        authenticates=bool(schema),
    )


REGISTRY = Registry(
    [define("keyed", "v1.0.0", {}), define("keyed", "v1.1.0", PARAMETERS), define("free", "v2.0.0", {})]
)
CHAINS = Draft202012Validator(chain_file_schema(REGISTRY))
GOOD = "{name: keyed, version: v1, parameters: {key: 0123abcd}}"


def errors(entry: str) -> list[str]:
    document = yaml.safe_load(f"version: v1\nroutes: [{{route_key: r, policies: [{entry}]}}]")
    return [one.message for one in CHAINS.iter_errors(document)]


def test_schemas_are_schemas() -> None:
    for schema in (chain_file_schema(REGISTRY), chain_file_schema(Registry()), manifest_schema(), settings_schema()):
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    "entry",
    [
        GOOD,
        "{name: keyed, version: v1.0.0}",
        "{name: free, version: v2, mode: shadow, share: 5%, timeout: 1.5s, condition: 'true', enabled: false}",
        "{name: free, version: v2, share: {percent: 5, by: request.path}, failure_mode: open}",
        "{name: keyed, versions: {v1: 5%, v1.0.0: {share: 95%, parameters: {}}}, parameters: {key: 0123abcd}}",
        f"{{any_of: [{GOOD}, {{name: free, version: v2}}], mode: shadow, share: 1%, condition: 'true'}}",
        "{use: list}",
        "{name: keyed, version: v1, parameters: {key: '${env:KEY}', kind: '${file:/a}', times: ['${env:T}', 5s]}}",
        "{name: keyed, version: v1, parameters: {key: 0123abcd, deep: {time: '${env:T}'}}}",
    ],
)
def test_what_the_engine_takes_is_taken(entry: str) -> None:
    assert errors(entry) == []


@pytest.mark.parametrize(
    "entry",
    [
        "{name: keyde, version: v1}",
        "{name: keyed, version: v1}",
        "{name: keyed, version: v1, parameters: {}}",
        "{name: keyed, version: v1, parameters: {key: xyz}}",
        "{name: keyed, version: v1, parameters: {key: 0123abcd, kind: c}}",
        "{name: keyed, version: v1, parameters: {key: 0123abcd, times: [5m]}}",
        "{name: keyed, version: v1, parameters: {key: 0123abcd, deep: {time: 5m}}}",
        "{name: keyed, version: v1, parameters: {key: 0123abcd, more: 1}}",
        "{name: keyed, versions: {v1: {share: 100%, parameters: {key: xyz}}}}",
        "{name: free}",
        "{name: free, version: v2, versions: {v2: 100%}}",
        "{name: free, version: 2}",
        "{name: free, version: v2, mode: shade}",
        "{name: free, version: v2, share: 5}",
        "{name: free, version: v2, share: {parts: 5}}",
        "{name: free, version: v2, timeout: 1}",
        "{name: free, version: v2, contition: 'true'}",
        "{any_of: []}",
        "{any_of: [{name: free, version: v2, mode: shadow}]}",
        f"{{any_of: [{GOOD}], name: free}}",
        "{use: list, name: free}",
    ],
)
def test_mistakes_are_seen(entry: str) -> None:
    assert errors(entry)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("version: v1\nroutes: []\nshared: {a: [{name: free, version: v2}, use: b], b: []}", True),
        (
            "version: v1\nroutes: [{route_key: 'a/*', unmapped: deny}, {route_key: b, policies: [], body_limit: 1MiB}]",
            True,
        ),
        ("version: v1\nroutes: [{route_key: b, policies: [], body_limit: 1000}]", True),
        ("version: v2\nroutes: []", False),
        ("routes: []", False),
        ("version: v1\nroutes: [{route_key: a}]", False),
        ("version: v1\nroutes: [{route_key: a, policies: [], unmapped: deny}]", False),
        ("version: v1\nroutes: [{route_key: a, policies: [], body_limit: much}]", False),
        ("version: v1\nroutes: []\nshared: {a: {}}", False),
    ],
)
def test_whole_files(text: str, *, valid: bool) -> None:
    assert CHAINS.is_valid(yaml.safe_load(text)) is valid


def objects(schema: Any) -> list[dict[str, Any]]:
    """Every object schema with a closed list of properties."""
    if isinstance(schema, dict):
        own = [schema] if schema.get("additionalProperties") is False and "properties" in schema else []
        return own + [found for value in schema.values() for found in objects(value)]
    return [found for value in schema for found in objects(value)] if isinstance(schema, list) else []


def test_every_key_of_the_readers_is_there_and_explained() -> None:
    closed = objects(chain_file_schema(Registry()))
    keys = [tuple(one["properties"]) for one in closed]
    for expected in (
        chain_reader.FILE_KEYS,
        chain_reader.ROUTE_KEYS,
        chain_reader.POLICY_KEYS,
        chain_reader.ALTERNATIVE_KEYS,
        chain_reader.GROUP_KEYS,
        USE_KEYS,
    ):
        assert expected in keys
    closed.append(manifest_schema())
    assert tuple(closed[-1]["properties"]) == MANIFEST_KEYS
    unexplained = [key for one in closed for key, value in one["properties"].items() if value is True]
    assert not unexplained, "write what these keys mean into the schema"


def test_the_settings_file() -> None:
    validator = Draft202012Validator(settings_schema())
    lines = [line.replace("# ", "", 1) if ": " in line or line.endswith(":") else line for line in sample_lines()]
    read, found = read_document("settings", "\n".join(lines).encode())
    assert read is not None
    assert found == []
    assert [one.message for one in validator.iter_errors(read.value)] == []
    for text in ("workers: many", "worker: 4", "tls: {certificate: a}", "log: {level: loud}", "policy_timeout: 5"):
        assert not validator.is_valid(yaml.safe_load(text)), text
    names = [one.name for one in known_settings()]
    assert len(names) == len(list(leaves(settings_schema())))


def sample_lines() -> list[str]:
    """The sample's settings that have a default, as if somebody had removed the `#`."""
    found = []
    for line in sample_file().splitlines():
        body = line.strip()
        if body.startswith("# ") and body[2:].partition(":")[0].replace("_", "").isalpha() and body[-1] != ":":
            key = body[2:].partition(":")[0]
            if any(one.name.rpartition(".")[2] == key for one in known_settings()):
                found.append(line)
        elif body.endswith(":") and not body.startswith("#"):
            found.append(line)
    return found


def leaves(schema: Any) -> Any:
    for value in schema["properties"].values():
        yield from leaves(value) if "properties" in value else [value]


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({}, True),
        ({"authenticates": True, "examples": [{"description": "a", "parameters": {}}]}, True),
        ({"parameters": {"type": "object"}}, True),
        ({"parameters": {"type": "objekt"}}, False),
        ({"name": "Not_Kebab"}, False),
        ({"version": "v1"}, False),
        ({"phases": ["request"]}, False),
        ({"phases": []}, False),
        ({"entrypoint": "policy"}, False),
        ({"more": 1}, False),
    ],
)
def test_policy_yaml(change: dict[str, Any], *, valid: bool) -> None:
    good = {
        "name": "add-tenant",
        "version": "v1.0.0",
        "description": "Adds a tenant.",
        "entrypoint": "policy:AddTenant",
        "phases": ["request_headers"],
    }
    assert Draft202012Validator(manifest_schema()).is_valid({**good, **change}) is valid


def test_parameters_of_a_policy() -> None:
    schema = json.loads(schema_text("parameters", REGISTRY, "keyed"))
    assert schema["title"] == "Parameters of keyed v1.1.0"
    assert Draft202012Validator(schema).is_valid({"key": "0123abcd"})
    assert not Draft202012Validator(schema).is_valid({"key": "x"})
    with pytest.raises(NoSuchPolicy, match="did you mean 'keyed'"):
        schema_text("parameters", REGISTRY, "keyd")
    with pytest.raises(NoSuchPolicy, match=r"v1\.0\.0, v1\.1\.0"):
        schema_text("parameters", REGISTRY, "keyed@v3")


def test_describe() -> None:
    text = description_text(REGISTRY, "keyed", as_json=False)
    for expected in (
        "keyed v1.1.0\n  For this test.",
        "versions here         v1.0.0, v1.1.0",
        "phases                request_body, response_headers",
        "bodies                request whole",
        "decides who gets in   yes",
        "  key  string, required\n      A key.",
        '  kind  "a" | "b", default "a"',
        "  deep.time  string\n      A time.",
        "example: The usual\n  - name: keyed\n    version: v1\n    parameters:\n      key: 0123abcd",
    ):
        assert expected in text
    known = json.loads(description_text(REGISTRY, "keyed@v1.0.0", as_json=True))
    assert (known["version"], known["versions"], known["bodies"]) == (
        "v1.0.0",
        ["v1.0.0", "v1.1.0"],
        {"request": "whole"},
    )
    assert "parameters: none" in description_text(REGISTRY, "free", as_json=False)


def test_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["schema"], ["schema", "settings"], ["schema", "policy"]):
        assert main(words) == 0
        Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))
    assert main(["schema", "parameters"]) == 2
    assert main(["schema", "chains", "keyed"]) == 2
    assert main(["describe", "nothing"]) == 2
    assert "is not in this engine" in capsys.readouterr().err
