"""What holds for every policy: its policy.yaml is whole, its examples work, code and schema agree on the defaults."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from policy_builder.discover.platform import Platform
from policy_builder.discover.policy_source import discover_directory
from policy_builder.validate.interface import check_interface
from policy_engine.documents.diagnostics import Rule
from policy_engine.sdk import RequestMutation, ResponseMutation
from policy_engine.sdk.hooks import phases_of
from policy_engine.sdk.testing import policy_class, request, response
from policy_engine.worker.chains.constant_actions import is_constant
from policy_engine.worker.policies.parameters import ParameterSchema

ROOT = Path(__file__).parent
DIRECTORIES = sorted(path.parent for path in ROOT.glob("*/v*/policy.yaml"))
KEYS = ["name", "version", "description", "entrypoint", "phases", "parameters", "examples"]
SIDES = ("request", "response")
OPTIONAL = ("authenticates", "request_attributes", "forwarding_namespaces")
AUTHENTICATE = (
    *("api-key-validation", "authorize", "basic-auth", "csrf", "ext-auth", "ip-allow", "jwt-validation"),
    *("mcp-authorize", "mtls-identity", "token-introspection", "webhook-signature"),
)


def document(directory: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((directory / "policy.yaml").read_text())
    return loaded


def examples() -> Iterator[Any]:
    for directory in DIRECTORIES:
        for example in document(directory)["examples"]:
            yield pytest.param(
                directory, example["parameters"], id=f"{directory.parent.name}: {example['description']}"
            )


class Recorder(dict[str, Any]):
    """Parameters that note which default the code falls back on."""

    def __init__(self, values: Mapping[str, Any], path: str, defaults: dict[str, Any]) -> None:
        self._path, self._defaults = path, defaults
        super().__init__({name: self._wrap(value, name) for name, value in values.items()})

    def _wrap(self, value: Any, name: str) -> Any:
        if isinstance(value, dict):
            return Recorder(value, f"{self._path}/{name}", self._defaults)
        if isinstance(value, list):
            return [self._wrap(one, f"{name}/*") for one in value]
        return value

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            self._defaults[f"{self._path}/{name}"] = default
        return super().get(name, default)


def schema_default(schema: Mapping[str, Any], path: str) -> Any:
    node: Any = schema
    for name in path.strip("/").split("/"):
        while "$ref" in node and "properties" not in node and "items" not in node and "default" not in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        node = node["items"] if name == "*" else node.get("properties", {}).get(name, node.get("additionalProperties"))
        if not isinstance(node, dict):
            return None
    return node.get("default")


@pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_the_directory_is_whole(directory: Path) -> None:
    found = document(directory)
    assert [key for key in found if key not in OPTIONAL] == KEYS
    assert found.get("authenticates", False) is (found["name"] in AUTHENTICATE)
    assert directory.parent.name == found["name"]
    assert directory.name == found["version"].replace(".", "_")
    for name in ("README.md", "policy.py"):
        assert (directory / name).is_file(), name
    assert found["name"] in (directory / "README.md").read_text().splitlines()[0]
    assert phases_of(policy_class(directory)) == set(found["phases"])


@pytest.mark.parametrize(("directory", "parameters"), list(examples()))
def test_an_example_is_valid_and_makes_a_policy(directory: Path, parameters: dict[str, Any]) -> None:
    checked = ParameterSchema(document(directory)["parameters"]).check(parameters)
    assert not checked.violations
    policy_class(directory)(checked.parameters)


@pytest.mark.parametrize(("directory", "parameters"), list(examples()))
def test_code_and_schema_have_the_same_defaults(directory: Path, parameters: dict[str, Any]) -> None:
    schema = document(directory)["parameters"]
    used: dict[str, Any] = {}
    policy_class(directory)(Recorder(parameters, "", used))
    for path, default in used.items():
        said = schema_default(schema, path)
        plain = list(default) if isinstance(default, tuple) else default
        assert plain in (None, [], {}) if said is None else plain == said, path


@pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_unknown_parameters_are_violations(directory: Path) -> None:
    schema = document(directory)["parameters"]
    assert schema["additionalProperties"] is False
    assert ParameterSchema(schema).check({"no_such_parameter": 1}).violations


@pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_no_body_hook_is_known_to_hold_the_event_loop(directory: Path) -> None:
    policy = discover_directory(None, directory, Platform().marker_environment(), follow_links=True)
    assert policy.manifest is not None
    findings = check_interface(policy.manifest, policy.where, policy.files)
    assert [str(one) for one in findings if one.rule is Rule.HELD_TIME] == []


@pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_action_that_is_returned_again_and_again_is_constant(directory: Path) -> None:
    """The engine keeps such ones ready unless somebody else holds a part of them."""
    found = document(directory)
    fixed = {side: {"set": {"x-a": "1"}, "append": {"x-b": ["1", "2"]}, "remove": ["x-c"]} for side in SIDES}
    more = [fixed] if found["name"] == "set-header" else []
    for example in [*more, *(one["parameters"] for one in found["examples"])]:
        checked = ParameterSchema(found["parameters"]).check(example)
        made = policy_class(directory)(checked.parameters)
        asked, answer = request("GET", "/"), response(200)
        for hook, given in (("on_request_headers", (asked,)), ("on_response_headers", (asked, answer))):
            if hook not in vars(type(made)):
                continue
            first, second = (getattr(made, hook)(*given) for _ in range(2))
            if first is second and isinstance(first, RequestMutation | ResponseMutation):
                del second
                assert not first.dynamic_metadata
                assert is_constant(first), example


def test_a_cache_knows_the_metadata_of_every_policy_that_tells_clients_apart() -> None:
    """What is stored for one of them would be everybody's; those in `nobody` say nothing of who a client is."""
    nobody = {"authorize", "mcp", "webhook_signature"}
    found: set[str] = set()
    for directory in DIRECTORIES:
        if document(directory).get("authenticates"):
            for source in directory.glob("*.py"):
                if not source.name.endswith("_test.py"):
                    found |= set(re.findall(r'\.metadata\["(\w+)"\] =', source.read_text()))
    default = document(ROOT / "cache" / "v1_0_0")["parameters"]["properties"]["authenticated_by"]["default"]
    assert set(default) == found - nobody
