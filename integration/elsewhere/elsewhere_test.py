"""Policies from another Bazel module and from a wheel: one image has them, and `policy-builder` chooses the same."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

from policy_builder.discover.choice import read_choice
from policy_builder.discover.digests import files_digest
from policy_builder.discover.distributions import read_distribution
from policy_builder.discover.platform import Platform
from policy_builder.discover.policy_source import PolicySource, discover_directory, discover_package
from policy_builder.discover.wheels import WheelStore

HERE = Path(__file__).parent
EXAMPLE = Path("examples/own-repository")


def test_the_image_has_all_with_what_they_need() -> None:
    registry = json.loads((HERE / "image.layers/registry.json").read_text())
    assert [(one["name"], one["version"]) for one in registry] == [
        ("add-stamp", "v1.0.0"),
        ("add-team", "v1.0.0"),
        ("odd-files", "v1.0.0"),
        ("set-header", "v1.0.0"),
    ]
    information = json.loads((HERE / "image.layers/build-info.json").read_text())
    needed = {one["name"]: one["required_by"] for one in information["dependencies"]}
    assert "add-stamp v1.0.0" in needed["attrs"]
    assert "acme-stamp" not in needed


def test_the_image_of_another_module_has_policies_of_this_one_and_the_same_engine() -> None:
    (built,) = (one for one in HERE.parents[2].glob("*/image.layers") if one.parent.name != "_main")
    registry, information = (json.loads((built / f"{name}.json").read_text()) for name in ("registry", "build-info"))
    here = {one["name"]: one["digest"] for one in json.loads((HERE / "image.layers/registry.json").read_text())}
    assert [one["name"] for one in registry] == ["add-team", "jwt-validation", "set-header"]
    assert {one["digest"] for one in registry} & set(here.values()) == {here["add-team"], here["set-header"]}
    assert [one["name"] for one in information["libraries"]] == [
        "policy_expressions",
        "policy_http",
        "policy_jwt",
        "policy_tokens",
    ]
    assert information["engine"] == json.loads((HERE / "image.layers/build-info.json").read_text())["engine"]


def test_policy_builder_finds_the_same_policies(tmp_path: Path) -> None:
    registry = {one["name"]: one["digest"] for one in json.loads((HERE / "image.layers/registry.json").read_text())}
    elsewhere = tmp_path / "integration/elsewhere"
    for part in ("odd-files", "wheel"):
        shutil.copytree(HERE / part, elsewhere / part)
    assert {"BUILD", "BUILD.bazel", "old.pyc", "old.pyo"} <= {file.name for file in elsewhere.rglob("*")}
    shutil.copyfile(HERE / "policy-manifest.yaml", elsewhere / "policy-manifest.yaml")
    (module,) = HERE.parents[2].glob("*/policies/add-team")
    shutil.copytree(module, tmp_path / EXAMPLE / "policies/add-team")
    shutil.copytree(HERE.parents[1] / "policies/set-header", tmp_path / "policies/set-header")
    (elsewhere / "dist").mkdir()
    runpy.run_path(str(elsewhere / "wheel/make_wheel.py"))["main"](elsewhere / "dist")
    choice, diagnostics = read_choice(elsewhere / "policy-manifest.yaml")
    assert choice is not None, diagnostics
    environment = Platform().marker_environment()
    store = WheelStore(tmp_path / "cache", Platform(), choice.wheels)
    for chosen in choice.policies:
        policy: PolicySource
        if chosen.package is not None:
            wheel = store.local(*chosen.package)
            assert wheel is not None
            policy = discover_package(chosen, read_distribution(store.unpack(wheel)), choice.document, environment)
            assert [str(one) for one in policy.requires] == ["attrs>=26"]
        else:
            assert chosen.path is not None
            policy = discover_directory(chosen, chosen.path, environment)
        assert policy.manifest is not None, policy.diagnostics
        assert files_digest(policy.files) == registry[policy.name]
