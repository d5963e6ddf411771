"""Every code block of every page is held to the product: YAML by its validators, commands by their parsers.

A YAML block is known by its shape, or by a comment before it, `<!-- yaml: settings -->`; kinds are the keys of `_YAML`.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import re
import runpy
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2
from google.protobuf import json_format
from jsonschema import Draft202012Validator

from docs.pages import TOP, WORKSPACE, Block, Command, blocks, commands, pages
from policy_builder.discover.choice import read_choice
from policy_control_plane.configuration import model_reader
from policy_engine.documents.diagnostics import Diagnostic, Rule
from policy_engine.documents.secret_references import SecretSource
from policy_engine.documents.yaml_document import read_document
from policy_engine.schemas.chain_file import chain_file_schema
from policy_engine.schemas.manifest_file import manifest_schema
from policy_engine.schemas.settings_file import settings_schema
from policy_engine.settings.loading import SettingsError, load_settings
from policy_engine.sources.chain_file import ChainFiles
from policy_engine.sources.validate import chain_reader, validate_paths
from policy_engine.worker.conditions.condition import check_condition
from policy_engine.worker.policies.loader import load_policies, load_policy
from policy_engine.worker.policies.manifest import parse_manifest
from policy_engine.worker.policies.registry import Registry

EXAMPLE = "add-tenant"
"""The policy that the guides make; it is nowhere in the tree."""

SHELLS = ("sh", "console")
BLOCKS = [block for page in pages() for block in blocks(page)]
COMMANDS = [one for block in BLOCKS if block.language in (*SHELLS, "indented", "") for one in commands(block)]

# Values for `${env:NAME}`, by the end of the name; what a secret is for decides what it has to look like.
_SECRETS = {
    "_SHA256": "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
    "_PASSWORD_HASH": f"scrypt$16384$8$1${'A' * 22}==${'A' * 43}=",
    "": "thirty-two characters of a secret",
}


# --- YAML


def _text(found: Iterable[Diagnostic]) -> str:
    # An example may show a chain that is open to some requests, as by a condition; that is no mistake.
    return "\n".join(str(one) for one in found if one.rule is not Rule.OPEN_ROUTE)


def _chain_file(block: Block, directory: Path) -> str:
    names = re.findall(r"\$\{env:(\w+)\}", block.text)
    environ = {name: next(value for end, value in _SECRETS.items() if name.endswith(end)) for name in names}
    text = re.sub(r"\$\{file:[^}]+\}", "${env:FILE}", block.text)
    registry = _registry(block.page)
    file = directory / "chains.yaml"
    file.write_text(text)
    secrets = SecretSource(environ={**environ, "FILE": _SECRETS[""]})
    return _text(validate_paths([file], registry, chain_reader(registry, secrets=lambda: secrets)))


def _chain_entries(block: Block, directory: Path) -> str:
    indented = "".join(f"      {line}\n" for line in block.text.splitlines())
    text = f"version: v1\nroutes:\n  - route_key: any\n    policies:\n{indented}"
    return _chain_file(Block(block.page, block.line, block.language, text), directory)


def _registry(page: Path) -> Registry:
    """Return the tree's policies, or the one beside the page when it is none of them."""
    if (page.parent / "policy.yaml").is_file() and not page.is_relative_to(WORKSPACE / "policies"):
        definition, found = load_policy(page.parent)
        assert definition is not None, _text(found)
        return Registry([definition])
    return _policies()


@functools.cache
def _policies() -> Registry:
    return load_policies(WORKSPACE / "policies")


def _choice(block: Block, directory: Path) -> str:
    for name in ("dist", "policies/shared"):
        (directory / name).mkdir(parents=True)
    (directory / "configs").symlink_to(WORKSPACE / "configs")
    file = directory / "policy-manifest.yaml"
    file.write_text(block.text)
    return _text(read_choice(file, {"policy_engine": WORKSPACE})[1])


def _policy(block: Block, directory: Path) -> str:
    return _text(parse_manifest(str(directory / "policy.yaml"), block.text.encode())[1])


def _settings(block: Block, directory: Path) -> str:
    file = directory / "policy-engine.yaml"
    file.write_text(block.text)
    try:
        load_settings(file, {})
    except SettingsError as error:
        return str(error)
    return ""


def _control_plane(block: Block, directory: Path) -> str:
    files = ChainFiles({directory / "edge.yaml": block.text.encode()}, ())
    return _text(model_reader(_policies()).read(files).diagnostics)


def _envoy_routes(block: Block, directory: Path) -> str:
    host = {"name": "any", "domains": ["*"], "routes": yaml.safe_load(block.text)}
    assert ext_proc_pb2.DESCRIPTOR  # registers the type that the routes' overrides have
    try:
        json_format.ParseDict(host, route_components_pb2.VirtualHost())
    except json_format.ParseError as error:
        return str(error)
    return ""


@functools.cache
def _schemas(page: Path) -> dict[str, Draft202012Validator]:
    """The schemas for editors, by the kind of block."""
    of_chains = Draft202012Validator(chain_file_schema(_registry(page)))
    return {
        "chain file": of_chains,
        "chain entries": of_chains,
        "policy.yaml": Draft202012Validator(manifest_schema()),
        "settings": Draft202012Validator(settings_schema()),
    }


def _against_schema(block: Block, kind: str) -> str:
    """Return what the schema that editors use says about a block, which is valid."""
    schema = _schemas(block.page).get(kind)
    document, _ = read_document(str(block), block.text.encode())
    if schema is None or document is None:
        return ""
    if kind == "chain entries":
        document.value = {"version": "v1", "routes": [{"route_key": "any", "policies": document.value}]}
    return "\n".join(f"{one.json_path}: {one.message}" for one in schema.iter_errors(document.value))


_YAML: dict[str, Callable[[Block, Path], str]] = {
    "chain file": _chain_file,
    "chain entries": _chain_entries,
    "manifest": _choice,
    "policy.yaml": _policy,
    "settings": _settings,
    "control plane": _control_plane,
    "Envoy routes": _envoy_routes,
}


def _is_entry(value: dict[str, Any]) -> bool:
    return "any_of" in value or ("name" in value and not value.keys().isdisjoint({"version", "versions"}))


def _kind(block: Block) -> str:
    """Return what a block is: what it says itself, else what only one kind of document looks like."""
    if block.kind is not None:
        return block.kind
    value = yaml.safe_load(block.text)
    if isinstance(value, list) and all(isinstance(one, dict) and _is_entry(one) for one in value):
        return "chain entries"
    keys = value.keys() if isinstance(value, dict) else set()
    if "entrypoint" in keys:
        return "policy.yaml"
    if "routes" in keys and all("route_key" in route for route in value["routes"]):
        return "chain file"
    if "policies" in keys and "version" in keys:
        return "manifest"
    return f"nothing known; a comment before it can say: {', '.join(_YAML)}"


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "yaml"], ids=str)
def test_yaml_is_valid(block: Block, tmp_path: Path) -> None:
    kind = _kind(block)
    assert kind in _YAML, f"{block} is {kind}"
    found = _YAML[kind](block, tmp_path)
    assert not found, f"{block} as {kind}:\n{found}"


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "yaml"], ids=str)
def test_yaml_fits_the_schema_for_editors(block: Block) -> None:
    found = _against_schema(block, _kind(block))
    assert not found, f"{block}:\n{found}"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("chain file", "version: v1\nroutes: [{route_key: a, policies: [{name: set-header, version: v9}]}]"),
        ("chain entries", "- {name: jwt-validation, version: v2, parameters: {issuer: https://a.example}}"),
        ("manifest", "version: v1\npolicies: [{name: a}]"),
        ("policy.yaml", "name: a\nentrypoint: policy:A"),
        ("settings", "worker: 4"),
        ("control plane", "version: v1\nroutes: [{name: a, match: {path: /}, cluster: nowhere}]"),
        ("Envoy routes", "- {name: a, match: {path: /}, route: {clusters: a}}"),
    ],
)
def test_what_is_not_valid_is_found(kind: str, text: str, tmp_path: Path) -> None:
    assert _YAML[kind](Block(WORKSPACE / "README.md", 1, "yaml", text), tmp_path)


# --- Commands


class _Parsed(Exception):
    """The arguments were accepted; nothing of the command ran."""


_PRODUCT = {
    "policy-engine": "policy_engine.cli",
    "policy-builder": "policy_builder.commands.cli",
    "policy-validator": "policy_builder.commands.validator_tool",
    "schema-checker": "policy_builder.commands.schema_tool",
    "policy-control-plane": "policy_control_plane.cli",
    "check": "tools.python.check_main",
}
_TARGETS = {
    "//:demo": "demo.__main__",
    "//benchmarks": "benchmarks.__main__",
    "//builder:policy-builder": _PRODUCT["policy-builder"],
    "//builder:policy-validator": _PRODUCT["policy-validator"],
    "//builder:schema-checker": _PRODUCT["schema-checker"],
    "//engine:policy-engine": _PRODUCT["policy-engine"],
    "//tools/policy-validator": _PRODUCT["policy-validator"],
    "//tools/schema-checker": _PRODUCT["schema-checker"],
}
_REPOSITORIES = {WORKSPACE / "docs/use-from-your-repository.md": WORKSPACE / "examples/own-repository"}
"""The repository that a page makes, where its labels are not of this one."""

_OF_OTHERS = frozenset(
    {
        ".",
        "bash",
        "cat",
        "cd",
        "chmod",
        "cp",
        "curl",
        "docker",
        "echo",
        "envoy",
        "export",
        "git",
        "kill",
        "mkdir",
        "mypy",
        "openssl",
        "pip",
        "pre-commit",
        "printf",
        "py-spy",
        "python3",
        "sha256sum",
    }
)
"""Programs that are not ours; paths that they get are looked at all the same."""

_LABEL = re.compile(r"//[\w./-]*(:[\w./-]+)?")


def _accepts(module: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether the command's own parser takes the arguments; asking for help counts."""
    parse = argparse.ArgumentParser.parse_args

    def parsed(self: argparse.ArgumentParser, *given: Any) -> None:
        parse(self, *given)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    main = importlib.import_module(module).main
    try:
        main(list(arguments)) if main.__code__.co_argcount else main()
    except _Parsed:
        return True
    except SystemExit as ended:
        return ended.code in (0, None)
    return False


def _ours(command: Command) -> tuple[str, tuple[str, ...]] | None:
    """Return the module that a command of ours runs and the arguments it gets; None for a program of others."""
    first, *rest = command.words
    name = first.rsplit("/", 1)[-1]
    if name in _PRODUCT:
        return _PRODUCT[name], tuple(rest)
    if name == "bazelw" and rest[:1] == ["run"] and rest[1] in _TARGETS:
        return _TARGETS[rest[1]], tuple(rest[rest.index("--") + 1 :]) if "--" in rest else ()
    if first == "python" and rest[:1] == ["-m"] and rest[1].split(".")[0] in ("benchmarks", "demo"):
        module = rest[1] if "." in rest[1] else f"{rest[1]}.__main__"
        return module, tuple(rest[2:])
    return None


OURS = [(command, *ours) for command in COMMANDS if (ours := _ours(command)) is not None]


@pytest.mark.parametrize(("command", "module", "arguments"), OURS, ids=[str(one[0]) for one in OURS])
def test_commands_are_accepted(
    command: Command, module: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _accepts(module, arguments, monkeypatch), command


@pytest.mark.parametrize("module", sorted({*_PRODUCT.values(), *_TARGETS.values()}))
def test_examples_of_help_are_accepted(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _accepts(module, ["--help"], monkeypatch)
    shown = capsys.readouterr().out
    assert "separate module" not in shown, "a note for those who read the code"
    lines = [line.strip() for line in shown.split("\n") if line.startswith("  ")]
    block = Block(WORKSPACE / "README.md", 1, "indented", "\n".join(re.sub(r" {2,}.*", "", line) for line in lines))
    for command in commands(block):
        if (ours := _ours(command)) is not None and command.words[0] != "check":
            assert _accepts(*ours, monkeypatch), command.words


@pytest.mark.parametrize(
    "line", ["policy-engine validate --polices x", "policy-builder biuld", "./bazelw run //:demo -- --twice"]
)
def test_commands_that_are_not_there_are_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = commands(Block(WORKSPACE / "README.md", 1, "sh", f"{line}\n"))
    ours = _ours(command)
    assert ours is not None
    assert not _accepts(*ours, monkeypatch)


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.block.language in SHELLS], ids=str)
def test_blocks_of_a_shell_hold_known_commands(command: Command) -> None:
    name = command.words[0].rsplit("/", 1)[-1]
    known = _ours(command) or name in _OF_OTHERS or name in ("bazelw", "pytest", "python")
    assert known, f"{command}: neither ours nor known; is the block's language right?"


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_paths_and_labels_of_commands_exist(command: Command) -> None:
    for word in command.words:
        if EXAMPLE in word:
            continue
        if command.words[0].endswith("bazelw") and (label := _LABEL.fullmatch(word)):
            assert _target_exists(_REPOSITORIES.get(command.block.page, WORKSPACE), label[0]), command
        path = word.rpartition("=")[2].removeprefix("./")
        if "/" in path and path.split("/")[0] in TOP and re.fullmatch(r"[\w./*+-]+", path):
            assert any(WORKSPACE.glob(path.rstrip("/"))), f"{command}: there is no {path}"


def _target_exists(root: Path, label: str) -> bool:
    package, _, name = label.removeprefix("//").partition(":")
    if package.endswith("...") or label == "//...":
        return (root / package.removesuffix("...")).is_dir()
    build = root / package / "BUILD.bazel"
    if not build.is_file():
        return False
    # Macros make NAME.push and the like, and one target for each test file.
    name = (name or Path(package).name).split(".")[0]
    return f'"{name}"' in build.read_text() or any((root / package).rglob(f"{name}.py"))


# --- Other languages


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "cel"], ids=str)
def test_conditions_are_accepted(block: Block) -> None:
    for text in block.text.splitlines():
        assert not check_condition(text, phase_has_response=True), f"{block}: {text}"


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "python"], ids=str)
def test_python_runs(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "block.py"
    file.write_text(block.text)
    runpy.run_path(str(file))


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "starlark"], ids=str)
def test_starlark_is_read(block: Block) -> None:
    assert ast.parse(block.text).body


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "toml"], ids=str)
def test_toml_is_read(block: Block) -> None:
    assert tomllib.loads(block.text)


def test_every_language_has_a_test() -> None:
    tested = {"yaml", "cel", "python", "starlark", "toml", "indented", "text", "mermaid", *SHELLS}
    others: defaultdict[str, list[str]] = defaultdict(list)
    for block in BLOCKS:
        if block.language not in tested:
            others[block.language].append(str(block))
    assert not others, "say what these blocks are; `text` is for what nobody runs"
