"""policy-manifest.yaml: what it accepts, and a test for each input it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy_builder.discover.choice import Choice, read_choice
from policy_builder.discover.platform import Platform


def read(directory: Path, text: str) -> tuple[Choice | None, str]:
    (directory / "policy-manifest.yaml").write_text(text if text[:1] in "[{v" else f"version: v1\n{text}")
    choice, diagnostics = read_choice(directory / "policy-manifest.yaml")
    return choice, "\n".join(str(one) for one in diagnostics).replace(f"{directory}/", "")


def test_a_policy_by_default_lies_where_policies_of_the_repository_lie(tmp_path: Path) -> None:
    choice, _ = read(tmp_path, "policies:\n  - {name: set-header, version: v1.0.0}\n")
    assert choice is not None
    assert choice.policies[0].path == tmp_path / "policies/set-header/v1_0_0"
    assert (choice.repository, choice.configuration, choice.wheels) == ("policy-engine", (), ())


def test_paths_are_relative_to_the_manifest_and_packages_are_normalised(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    text = """
repository: registry.example.test/team/engine
wheels: [dist]
policies:
  - {name: a, version: v1.0.0, path: elsewhere/a}
  - {name: b, version: v2.1.0, package: Acme_Policies==1.4.0}
"""
    choice, _ = read(tmp_path, text)
    assert choice is not None
    assert choice.policies[0].path == tmp_path / "elsewhere/a"
    assert choice.policies[1].path is None
    assert choice.policies[1].package == ("acme-policies", "1.4.0")
    assert choice.wheels == (tmp_path / "dist",)


def test_a_policy_of_another_module_lies_there_and_brings_what_that_shares(tmp_path: Path) -> None:
    text = """version: v1
libraries: [lib]
policies:
  - {name: own, version: v1.0.0}
  - {name: set-header, version: v1.0.0, module: policy_engine}
  - {name: quota, version: v2.0.0, module: acme, path: gateway/quota}
"""
    modules = {name: tmp_path / f"modules/{name}" for name in ("policy_engine", "acme", "unused")}
    for directory in (tmp_path / "lib", *(one / "policies/shared" for one in modules.values())):
        directory.mkdir(parents=True)
    (tmp_path / "policy-manifest.yaml").write_text(text)
    choice, found = read_choice(tmp_path / "policy-manifest.yaml", modules)
    assert choice is not None
    assert not found
    assert [one.path for one in choice.policies] == [
        tmp_path / "policies/own/v1_0_0",
        modules["policy_engine"] / "policies/set-header/v1_0_0",
        modules["acme"] / "gateway/quota",
    ]
    shared = [modules[name] / "policies/shared" for name in ("policy_engine", "acme")]
    assert list(choice.libraries) == [tmp_path / "lib", *shared]


def test_no_policies_is_a_choice(tmp_path: Path) -> None:
    choice, found = read(tmp_path, "policies: []\n")
    assert choice is not None
    assert found == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "policys: []",
            "policy-manifest.yaml:2:1: /policys: 'policys' is not a key of a manifest of policies; did you",
        ),
        ("version: v2\npolicies: []", 'is not one of the values allowed (got "v2"); allowed: v1'),
        ("{}", "lacks the required key 'version'; allowed: v1"),
        ("{}", "lacks the required key 'policies'"),
        ("[", "not valid YAML"),
        ("policies: 3", "must be a list"),
        ("policies: [{name: a, verson: v1.0.0}]", "did you mean 'version'?"),
        ("policies: [{version: v1.0.0}]", "lacks the required key 'name'"),
        ("policies: [{name: a}]", "lacks the required key 'version'"),
        ("policies: [{name: a, version: v1}]", 'is not an exact version (got "v1"); allowed: v1.2.3'),
        ("policies: [{name: a, version: 1.0}]", "/policies/0/version: must be text"),
        ("policies: [{name: a, version: v1.0.0, package: x}]", "is not pinned to one version"),
        ("policies: [{name: a, version: v1.0.0, package: x>=1}]", "is not pinned to one version"),
        ("policies: [{name: a, version: v1.0.0, package: 'x==1.*'}]", "is not pinned to one version"),
        ("policies: [{name: a, version: v1.0.0, package: '!'}]", 'is not a package (got "!"); allowed: name==version'),
        (
            "policies: [{name: a, version: v1.0.0, path: p, package: x==1}]",
            "from a path or from a package, not from both",
        ),
        (
            "policies: [{name: a, version: v1.0.0, module: acme}]",
            'is not a module that is known here (got "acme"); allowed: none; `--module NAME=DIRECTORY` tells',
        ),
        ("policies: [{name: a, version: v1.0.0, module: 3}]", "/policies/0/module: must be text"),
        ("policies: []\nrepository: Team/Engine", "is not the name of an image"),
        ("policies: []\nwheels: [dist]", "is no directory beside the manifest"),
        ("policies: []\nlibraries: [lib]", "is no directory beside the manifest"),
        ("policies: []\nconfiguration: [engine.yaml]", "is no file beside the manifest"),
        ("policies: []\nconfiguration: [3]", "must be a path"),
        ('policies: []\nlibraries: ["a\\0b"]', "is no directory beside the manifest"),
        (f"policies: []\nconfiguration: [{'x' * 5000}]", "is no file beside the manifest"),
        ("policies: []\npolicies: []", "is here for the second time"),
    ],
)
def test_refused(tmp_path: Path, text: str, expected: str) -> None:
    _, found = read(tmp_path, text)
    assert expected in found


def test_a_policy_chosen_twice_is_refused_and_every_mistake_is_told(tmp_path: Path) -> None:
    text = """policies:
  - {name: a, version: v1.0.0}
  - {name: a, version: v1.0.0, path: other}
  - {name: b}
  - {name: c, version: v1, path: third}
  - {name: d, version: v1.0.0}
"""
    (tmp_path / "other").mkdir()
    (tmp_path / "third").mkdir()
    choice, found = read(tmp_path, text)
    assert choice is not None
    assert [str(one) for one in choice.policies] == ["a v1.0.0", "d v1.0.0"]
    assert choice.others == (tmp_path / "other", tmp_path / "third")
    assert "policy-manifest.yaml:4:5: /policies/1: policy a v1.0.0 is chosen twice; first as entry 1" in found
    assert "policy-manifest.yaml:5:5: /policies/2: lacks the required key 'version'" in found


def test_two_configuration_files_of_one_name_would_lie_in_one_directory(tmp_path: Path) -> None:
    for directory in ("a", "b"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "engine.yaml").touch()
    _, found = read(tmp_path, "policies: []\nconfiguration: [a/engine.yaml, b/engine.yaml]\n")
    assert "/configuration: has two files of one name; they would lie in one directory of the image" in found


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    choice, (finding,) = read_choice(tmp_path / "none.yaml")
    assert choice is None
    assert "cannot be read: No such file" in str(finding)


def test_platforms() -> None:
    assert Platform.parse("linux/arm64").wheel_platforms()[0] == "manylinux_2_41_aarch64"
    assert "manylinux2014_x86_64" in Platform().wheel_platforms()
    for wrong in ("linux/386", "windows/amd64", "amd64", ""):
        with pytest.raises(ValueError, match="available: linux/amd64, linux/arm64"):
            Platform.parse(wrong)
