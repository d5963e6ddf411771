"""Whole builds: what is in the image, and that it is the same bytes wherever it is made."""

from __future__ import annotations

import json
import marshal
import os
import shutil
import subprocess
import sys
import tarfile
import traceback
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash
from pathlib import Path
from typing import Any

import pytest

from policy_builder.package.bytecode import Interpreter
from policy_builder.package.image import OutputError, layer_digests
from policy_builder.package.oci_layout import blob_path, digest_of
from policy_builder.testworld import CODE, World, elf, manifest_of, names
from policy_engine.worker.policies.integrity import directory_digest


def unpack(layout: Path, target: Path) -> Path:
    for digest in layer_digests(layout):
        with tarfile.open(blob_path(layout, digest)) as tar:
            tar.extractall(target, filter="tar")
    return target


def test_the_image_holds_the_engine_the_chosen_policies_and_what_they_need(world: World, tmp_path: Path) -> None:
    world.locked("needed", "1.0", requires=["needed-in-turn>=1"])
    world.locked("needed-in-turn", "1.5")
    world.locked("unneeded", "1.0")
    world.policy("limit", requirements="needed==1.0\n", code="import needed\n" + CODE)
    world.policy("other")
    world.chosen.clear()
    world.choose("name: limit, version: v1.0.0")
    built = world.build(tmp_path / "out")
    files = names(tmp_path / "out/oci")
    site = "usr/local/lib/python3.13/dist-packages"
    assert {f"{site}/needed/__init__.py", f"{site}/needed_in_turn/__init__.py"} <= set(files)
    assert {f"{site}/policy_engine/__init__.py", f"{site}/engine_core/__init__.py"} <= set(files)
    assert "app/policies/limit/v1.0.0/policy.py" in files
    assert not [name for name in files if "unneeded" in name or "other" in name or name.endswith("_test.py")]
    assert files["usr/local/bin/policy-engine"].mode == 0o755
    assert "usr/share/doc/libone/copyright" in files
    assert not [name for name in files if "share/man" in name]
    assert [name for name, _ in built.layers] == [
        "base",
        "requirements",
        "engine",
        "policy-requirements",
        "limit.v1.0.0",
        "registry",
    ]


def test_every_entry_is_root_owned_and_without_a_date(world: World, tmp_path: Path) -> None:
    world.policy("limit")
    world.build(tmp_path / "out")
    assert {(one.uid, one.gid, one.mtime) for one in names(tmp_path / "out/oci").values()} == {(0, 0, 0)}


def test_registry_names_the_digest_that_the_engine_computes_of_the_directory(world: World, tmp_path: Path) -> None:
    policy = world.policy("limit")
    (policy / "rules").mkdir()
    (policy / "rules/a.py").write_text("A = 1\n")
    (policy / "rules.json").write_text("{}")
    world.build(tmp_path / "out")
    root = unpack(tmp_path / "out/oci", tmp_path / "root")
    (entry,) = json.loads((root / "app/policies/registry.json").read_text())
    assert entry["directory"] == "limit/v1.0.0"
    assert entry["digest"] == directory_digest(root / "app/policies" / entry["directory"])
    config = json.loads(
        blob_path(tmp_path / "out/oci", manifest_of(tmp_path / "out/oci")["config"]["digest"]).read_bytes()
    )
    assert config["config"]["Labels"]["policy-engine.policy.limit.v1.0.0"] == entry["digest"]
    assert config["config"]["Labels"]["org.opencontainers.image.version"] == "0.9.0"
    assert config["config"]["User"] == "65532:65532"


def test_every_module_has_its_bytecode_which_python_takes_without_looking_at_the_source(
    world: World, tmp_path: Path
) -> None:
    world.locked("needed", "1.0", files={"needed/__init__.py": "A = 1\n", "needed/template.py": "{% if this %}\n"})
    world.policy("limit", requirements="needed==1.0\n", code="import needed\n" + CODE)
    world.build(tmp_path / "out")
    root = unpack(tmp_path / "out/oci", tmp_path / "root")
    modules = {path for path in root.rglob("*.py") if path.name != "template.py"}
    assert {path.name for path in modules} >= {"__init__.py", "policy.py"}
    assert {Path(cache_from_source(str(path))) for path in modules} == set(root.rglob("*.pyc"))
    for path in modules:
        content = Path(cache_from_source(str(path))).read_bytes()
        assert content[:16] == MAGIC_NUMBER + b"\1\0\0\0" + source_hash(path.read_bytes())  # PEP 552: unchecked
        assert marshal.loads(content[16:]).co_filename == f"/{path.relative_to(root)}"
    environment = {"PYTHONPATH": str(root / "usr/local/lib/python3.13/dist-packages")}
    (root / "usr/local/lib/python3.13/dist-packages/needed/__init__.py").write_text("A = 2\n")
    command = [sys.executable, "-B", "-c", "import needed; print(needed.A)"]
    assert subprocess.run(command, check=True, capture_output=True, env=environment, text=True).stdout == "1\n"


def test_a_changed_line_of_a_policy_changes_its_layer_and_the_last(world: World, tmp_path: Path) -> None:
    policy = world.policy("limit")
    world.policy("other")
    world.build(tmp_path / "one")
    (policy / "policy.py").write_text(CODE + "# changed\n")
    built = world.build(tmp_path / "two")
    before, after = layer_digests(tmp_path / "one/oci"), layer_digests(tmp_path / "two/oci")
    changed = [name for (name, _), one, two in zip(built.layers, before, after, strict=True) if one != two]
    assert changed == ["limit.v1.0.0", "registry"]


def test_more_policies_than_a_container_engine_has_layers(world: World, tmp_path: Path) -> None:
    for number in range(130):
        world.policy(f"limit-{number}")
    built = world.build(tmp_path / "out")
    assert len(built.layers) < 120
    files = names(tmp_path / "out/oci")
    assert all(f"app/policies/limit-{number}/v1.0.0/policy.py" in files for number in range(130))


@pytest.mark.parametrize(
    "circumstances",
    [
        pytest.param({"umask": 0o077}, id="umask"),
        pytest.param({"TZ": "Asia/Kolkata"}, id="time zone"),
        pytest.param({"PYTHONHASHSEED": "7", "LC_ALL": "C", "HOME": "/nonexistent"}, id="environment"),
        pytest.param({"directory": "another/and longer place"}, id="path"),
    ],
)
def test_same_bytes_whoever_makes_them(world: World, tmp_path: Path, circumstances: dict[str, Any]) -> None:
    world.locked("needed", "1.0", files={"needed/__init__.py": "", "needed/native.so": elf(), "needed/b.py": ""})
    world.policy("limit", requirements="needed==1.0\n", code="import needed\n" + CODE)
    world.policy("limit", "v2.0.0")
    world.build(tmp_path / "first")
    other = tmp_path.parent / f"{tmp_path.name}-other" / circumstances.get("directory", "place")
    for part in ("engine", "wheels", "mirror", "policies", "lock.txt", "debian.lock.json", "policy-manifest.yaml"):
        source = world.root / part
        other.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, other / part)
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o777 if path.is_dir() else 0o666)
    command = [sys.executable, "-c", "import sys; from policy_builder.commands.cli import main; sys.exit(main())"]
    command += ["build", "--manifest", str(other / "policy-manifest.yaml")]
    command += ["--engine", str(other / "engine"), "--lock", str(other / "lock.txt"), "--cache", str(other / "cache")]
    command += ["--debian-lock", str(other / "debian.lock.json"), "--output", str(other / "out")]
    changed = {key: value for key, value in circumstances.items() if key.isupper()}
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(Path(one).absolute()) for one in sys.path),
        "DEBIAN_MIRROR": (other / "mirror").as_uri(),
    }
    subprocess.run(command, check=True, umask=circumstances.get("umask", -1), env=environment | changed, cwd="/")
    assert tree(tmp_path / "first") == tree(other / "out")


def test_same_bytes_for_another_user(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Interpreter, "compile", lambda *_: {})  # it may lie where another user cannot read
    world.settings += "compression: none\n"  # the same
    world.policy("limit")
    world.build(tmp_path / "first")
    for path in [*tmp_path.rglob("*"), tmp_path, *tmp_path.parents]:
        if path.is_relative_to(tmp_path.parent.parent.parent) and not path.is_symlink():
            path.chmod(0o777)
    child = os.fork()  # not a new interpreter: another user may not be allowed to read this one's
    if child == 0:
        try:
            if os.geteuid() == 0:  # whoever is not root is another user than CI's already
                os.setgroups([])
                os.setgid(12345)
                os.setuid(12345)
            world.build(tmp_path / "second")
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert tree(tmp_path / "first") == tree(tmp_path / "second")


def tree(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): digest_of(path.read_bytes()) for path in root.rglob("*") if path.is_file()
    }


def test_nothing_is_written_when_a_policy_is_wrong(world: World, tmp_path: Path) -> None:
    world.policy("limit", code="class Other: ...\n")
    before = set(tmp_path.iterdir())
    assert "has no class 'Example'" in world.report()
    assert set(tmp_path.iterdir()) - before <= {world.root / "cache"}


def test_an_output_that_the_builder_did_not_make_is_left_alone(world: World, tmp_path: Path) -> None:
    world.policy("limit")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious").write_text("mine")
    with pytest.raises(OutputError, match="was not made by policy-builder"):
        world.build(tmp_path / "out")
    assert (tmp_path / "out/precious").read_text() == "mine"


def test_an_earlier_output_is_replaced_as_a_whole(world: World, tmp_path: Path) -> None:
    world.policy("limit")
    world.build(tmp_path / "out")
    (tmp_path / "out/left-over").write_text("")
    world.build(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "build-info.json",
        "digest",
        "image.tar",
        "licences.txt",
        "oci",
        "registry.json",
        "sbom.cdx.json",
    ]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


def test_the_docker_archive_is_complete(world: World, tmp_path: Path) -> None:
    world.policy("limit")
    world.build(tmp_path / "out")
    with tarfile.open(tmp_path / "out/image.tar") as tar:
        (listing,) = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr] # it is a file
        members = set(tar.getnames())
    assert listing["RepoTags"] == ["policy-engine:0.9.0"]
    assert {listing["Config"], *listing["Layers"]} <= members
