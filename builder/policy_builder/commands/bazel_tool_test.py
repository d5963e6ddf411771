"""What policy_image runs, given what targets and `deps` bring: the documents, and what is refused all at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from policy_builder.commands import bazel_tool
from policy_builder.testworld import CODE, World, elf

OUTPUTS = ("registry", "build_info", "sbom", "licences", "labels", "tags", "remote_tags", "metadata")


def distribution(directory: Path, name: str, version: str) -> list[dict[str, str]]:
    """Write an installed distribution, as a repository rule unpacks its wheel."""
    root = directory / f"{name}-{version}"
    files = {
        f"{name}/__init__.py": "",
        f"{name}-{version}.dist-info/METADATA": f"Name: {name}\nVersion: {version}\nLicense: MIT\n",
    }
    for file, text in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    return [{"owner": f"pypi_{name}_{version}", "path": file, "source": str(root / file)} for file in files]


def policy(directory: Path, label: str, requirements: list[dict[str, str]], version: str = "v1.0.0") -> dict[str, Any]:
    paths = [path for path in directory.iterdir() if path.name != "policy_test.py"]
    return {
        "files": [{"path": path.name, "source": str(path)} for path in paths],
        "label": label,
        "name": directory.parent.name,
        "requirements": requirements,
        "tests": ["policy_test.py"],
        "version": version,
        "where": f"policies/{directory.parent.name}",
    }


def run(
    world: World,
    *policies: dict[str, Any],
    architecture: str = "amd64",
    configuration: Sequence[Path] = (),
    **more: Any,
) -> tuple[int, Path]:
    engine = world.root / "engine"
    request: dict[str, Any] = {
        "architecture": architecture,
        "configuration": [str(path) for path in configuration],
        "debian_lock": str(world.debian),
        "engine": {
            "files": [
                {"owner": "//engine", "path": f"policy_engine/{name}", "source": str(engine / "policy_engine" / name)}
                for name in ("__init__.py", "__main__.py")
            ],
            "launcher": str(engine / "launch.py"),
            "licence": str(engine / "LICENSE"),
            "requirements": distribution(world.root, "core", "1.0"),
            "version": str(engine / "policy_engine/__init__.py"),
        },
        "label": "//:image",
        "policies": policies,
        "repository": "team/engine",
        **more,
    }
    (world.root / "request.json").write_text(json.dumps(request))
    out = world.root / "out"
    out.mkdir(exist_ok=True)
    status = bazel_tool.main([str(world.root / "request.json"), *(f"{name}={out / name}" for name in OUTPUTS)])
    return status, out


def test_documents_of_an_image(world: World) -> None:
    needed = distribution(world.root, "lib", "1.0")
    shared = world.root / "shared.py"
    shared.write_text("")
    library = [{"owner": "policies/shared", "path": "shared/__init__.py", "source": str(shared)}]
    one = world.policy("one", code="import lib\nimport shared\n" + CODE, requirements="lib==1.0\n")
    status, out = run(world, policy(one, "//one", needed + library))
    assert status == 0
    (entry,) = json.loads((out / "registry").read_text())
    assert entry["directory"] == "one/v1.0.0"
    assert f"policy-engine.policy.one.v1.0.0={entry['digest']}\n" in (out / "labels").read_text()
    assert (out / "tags").read_text() == "team/engine:0.9.0\n"
    information = json.loads((out / "build_info").read_text())
    assert {one["name"]: one["required_by"] for one in information["dependencies"]} == {
        "core": ["engine"],
        "lib": ["one v1.0.0"],
    }
    assert [one["name"] for one in information["libraries"]] == ["shared"]


def test_what_an_image_says_more_and_of_a_policy_from_a_wheel(world: World) -> None:
    installed = distribution(world.root, "acme_policies", "1.4.0")
    wheel = world.root / "acme.whl"
    wheel.write_bytes(b"wheel")
    one = policy(world.policy("one"), "//one", [])
    files = [{"path": entry["path"], "source": entry["source"]} for entry in installed if "METADATA" in entry["path"]]
    one["package"] = {"files": files, "owner": "pypi_acme", "wheel": str(wheel)}
    status, out = run(world, one, labels={"team": "gateway"}, tags=["v1", "stable"])
    assert status == 0
    assert (out / "tags").read_text() == "team/engine:v1\nteam/engine:stable\n"
    assert (out / "remote_tags").read_text() == "v1\nstable\n"
    assert "team=gateway\n" in (out / "labels").read_text()
    assert "policy-engine.package.one.v1.0.0=acme_policies==1.4.0\n" in (out / "labels").read_text()
    (described,) = json.loads((out / "build_info").read_text())["policies"]
    digest = hashlib.sha256(b"wheel").hexdigest()
    assert described["package"] == {
        "name": "acme_policies", "version": "1.4.0", "licence": "MIT", "wheel": f"sha256:{digest}",
    }  # fmt: skip
    directory = out / "metadata/policy_engine-0.9.0.dist-info"
    assert (directory / "licenses/LICENSE").read_text() == "The licence.\n"
    assert run(world, one, labels={"policy-engine.version": "9"})[0] == 1


def test_every_mistake_of_every_target_is_in_one_report(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = world.policy("one", requirements="lib==1.0\nabsent==2.0\n"), world.policy("two")
    three = world.policy("three", code="import nowhere\n" + CODE)
    status, out = run(
        world,
        policy(one, "//one", distribution(world.root, "lib", "1.1")),
        policy(two, "//two", distribution(world.root, "lib", "1.2") + distribution(world.root, "core", "2.0")),
        policy(two, "//elsewhere:two", []),
        policy(three, "//three", [], version="v9.9.9"),
        policy(three, "//four", [], version="newest"),
    )
    assert status == 1
    assert list(out.iterdir()) == []
    report = capsys.readouterr().err
    for finding in (
        "requirements.txt:1:1: lib==1.0 is pinned, but the policy is built with lib 1.1",
        "requirements.txt:2:1: absent==2.0 is not among what one v1.0.0 is built with; allowed: absent in the deps of",
        "needs lib 1.2, but one v1.0.0 needs lib 1.1; one image has one version of a package",
        "needs core 2.0, but the engine needs core 1.0",
        "the engine's own requirements cannot be replaced",
        "two v1.0.0 is both //two and //elsewhere:two; choose one of them",
        "imports nowhere, which none of its requirements brings",
        "/version: the policy chosen here is three v9.9.9; make them equal",
        "'newest' is not a version of the form v1.2.3",
    ):
        assert finding in report


def test_wheels_that_were_chosen_for_another_platform_are_refused(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = distribution(world.root, "lib", "1.0")
    compiled = world.root / "lib-1.0/lib/code.so"
    compiled.write_bytes(elf(183))
    needed.append({"owner": needed[0]["owner"], "path": "lib/code.so", "source": str(compiled)})
    one = policy(world.policy("one", requirements="lib==1.0\n", code="import lib\n" + CODE), "//one", needed)
    assert run(world, one)[0] == 1
    assert "lib 1.0 was chosen for another platform: lib/code.so is compiled for aarch64" in capsys.readouterr().err
    assert run(world, one, architecture="arm64")[0] == 0


def test_a_key_among_the_configuration_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    good, key = world.root / "chains.yaml", world.root / "engine.yaml"
    good.write_text("version: v1\n")
    key.write_text("-----BEGIN PRIVATE KEY-----\n")
    assert run(world, configuration=[good])[0] == 0
    assert run(world, configuration=[good, key])[0] == 1
    report = capsys.readouterr().err
    assert f"{key}: holds a private key, which whoever has the image could read; mount it where the engine" in report
    assert "chains.yaml" not in report


def test_an_engine_of_which_targets_brought_a_part_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    one = policy(world.policy("one"), "//one", [])
    imports = world.root / "engine/policy_engine/__main__.py"
    imports.write_text("from policy_engine.cli import main\n")
    status, out = run(world, one)
    assert status == 1
    assert "//:image: the engine's sources are not all there" in (said := capsys.readouterr().err)
    assert "no policy_engine.cli" in said
    assert not (out / "build_info").exists()
    imports.write_text("")
    (world.root / "engine/LICENSE").unlink()
    assert run(world, one)[0] == 1
    assert "LICENSE is missing" in capsys.readouterr().err
